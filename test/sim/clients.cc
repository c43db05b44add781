#include "clients.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "master-daemon.h"
#include "wire/nbd.h"

namespace sim {

using namespace understudy;

namespace {

struct Asked {
  uint16_t type;
  size_t write;             // index in the history; SIZE_MAX: none
  uint64_t read_bytes;
  uint64_t submitted;
  bool flushes;             // FLUSH or FUA
  uint64_t alone, turns;    // of the group and of the daemon, when it was sent
  uint64_t standby_deaths;  // by then
  uint64_t strikes;         // of faults of the master's disks, by then
  bool in_sync;
};

// A connection, and what is under way on it.
class Client {
 public:
  Client(Run &run, MasterDaemon &master) : run_(run), random_(scheduler->random), life_(*run.lives[master.life()]), master_(&master) {
    int descriptors[2];
    room->make_sockets(kClients, kMaster, descriptors);
    fd_ = descriptors[0];
    page_ = master.group().page();
    master.give_client(descriptors[1]);
  }
  ~Client() { close(fd_); }
  bool burst(uint64_t count);
  bool write(uint64_t first, uint64_t count, uint64_t stamp) {
    return send_request(nbd::kWrite, 0, first, count, stamp) && take_reply();
  }

 private:
  bool ask();
  bool send_request(uint16_t type, uint16_t flags, uint64_t first, uint64_t count, uint64_t stamp);
  bool take_reply();
  void answered(const Asked &asked, uint32_t error);
  bool master_lives() const { return run_.master == master_; }
  bool put(const void *data, size_t bytes);
  bool get(void *data, size_t bytes);

  Run &run_;
  Random &random_;
  Life &life_;
  MasterDaemon *const master_;
  int fd_;
  CounterPage page_;
  uint64_t cookie_ = 0;
  std::map<uint64_t, Asked> asked_;
};

bool Client::put(const void *data, size_t bytes) {
  auto *from = static_cast<const uint8_t *>(data);
  while (bytes) {
    const ssize_t sent = send(fd_, from, bytes, 0);
    if (sent <= 0) return false;
    from += sent, bytes -= static_cast<size_t>(sent);
  }
  return true;
}

bool Client::get(void *data, size_t bytes) {
  auto *to = static_cast<uint8_t *>(data);
  while (bytes) {
    const ssize_t got = recv(fd_, to, bytes, 0);
    if (got <= 0) return false;
    to += got, bytes -= static_cast<size_t>(got);
  }
  return true;
}

bool Client::send_request(uint16_t type, uint16_t flags, uint64_t first, uint64_t count, uint64_t stamp) {
  const bool writes = type == nbd::kWrite || type == nbd::kTrim || type == nbd::kWriteZeroes;
  Asked asked{type, SIZE_MAX, type == nbd::kRead ? count * kBlockBytes : 0, ++run_.tick, type == nbd::kFlush || (flags & nbd::kFua), page_.get(kGroup_alone_flushes),
              0, room->hosts[kStandby].deaths, room->hosts[kMaster].strikes, false};
  if (master_lives()) asked.turns = master_->turns(), asked.in_sync = master_->in_sync();
  if (writes) asked.write = life_.history.submit(asked.submitted, stamp, type != nbd::kWrite, first, count);
  run_.writes += writes;
  const nbd::Request request{htobe32(nbd::kRequestMagic), htobe16(flags), htobe16(type), htobe64(++cookie_),
                             htobe64(first * kBlockBytes), htobe32(static_cast<uint32_t>(count * kBlockBytes))};
  asked_.emplace(cookie_, asked);
  std::vector<uint8_t> bytes(sizeof request + (type == nbd::kWrite ? count * kBlockBytes : 0));
  memcpy(bytes.data(), &request, sizeof request);
  for (size_t at = sizeof request; at < bytes.size(); at += kBlockBytes) fill_block(bytes.data() + at, stamp);
  return put(bytes.data(), bytes.size());
}

bool Client::ask() {
  if (run_.settings.filters && random_.one_in(25))  // the table
    return send_request(nbd::kWrite, random_.one_in(3) ? nbd::kFua : 0, 0, 1, run_.new_stamp(random_.below(4)));
  const uint64_t kind = random_.below(20);
  if (kind == 0) return send_request(nbd::kFlush, 0, 0, 0, 0);
  const bool hot = !random_.one_in(4);
  const uint64_t low = run_.settings.filters ? 1 : 0;  // block 0 is the table's
  const uint64_t first = low + random_.below((hot ? run_.settings.hot_blocks : kVolumeBlocks) - low);
  const uint64_t most = kind == 1 ? 400 : random_.one_in(6) ? 40 : 4;
  const uint64_t count = 1 + random_.below(std::min(most, kVolumeBlocks - first));
  if (kind == 2) return send_request(nbd::kRead, 0, first, count, 0);
  const uint16_t flags = random_.one_in(12) ? nbd::kFua : 0;
  if (kind == 1) return send_request(random_.one_in(2) ? nbd::kTrim : nbd::kWriteZeroes, flags, first, count, 0);
  return send_request(nbd::kWrite, flags, first, std::min<uint64_t>(count, 40), run_.new_stamp(0));
}

bool Client::take_reply() {
  nbd::SimpleReply reply;
  if (!get(&reply, sizeof reply)) return false;
  const auto found = asked_.find(be64toh(reply.cookie));
  if (found == asked_.end()) {
    run_.fail("a reply to a request that nobody made");
    return false;
  }
  const Asked asked = found->second;
  asked_.erase(found);
  const uint32_t error = be32toh(reply.error);
  std::vector<uint8_t> data(error ? 0 : asked.read_bytes);
  if (!get(data.data(), data.size())) return false;
  answered(asked, error);
  return true;
}

void Client::answered(const Asked &asked, uint32_t error) {
  const uint64_t tick = ++run_.tick;
  if (asked.write != SIZE_MAX) life_.history.end(asked.write, tick, error != 0);
  if (error && room->hosts[kMaster].strikes != asked.strikes) return;  // the outcome of the master's device (G1)
  if (error) return run_.fail("a client got the error " + std::to_string(error));
  const bool both = run_.settings.durability == engine::Durability::kDurable;
  if (asked.type == nbd::kFlush) life_.flushed = std::max(life_.flushed, asked.submitted);
  if (run_.settings.durability == engine::Durability::kAsync) return;
  // Acknowledged with the standby: the promise holds from here on.
  const bool alone = page_.get(kGroup_alone_flushes) != asked.alone;
  const bool stayed = asked.in_sync && master_lives() && master_->in_sync() && master_->turns() == asked.turns;
  if (asked.type == nbd::kFlush && !alone) life_.history.promise_before(asked.submitted);
  if (asked.write == SIZE_MAX) return;
  if (!alone && (asked.flushes || (both && stayed))) life_.history.promise(asked.write);
  if (!alone && stayed && run_.settings.durability == engine::Durability::kReceived)
    life_.received.emplace_back(asked.write, asked.standby_deaths);
}

// So many requests at once, and all their replies. False: the connection is gone.
bool Client::burst(uint64_t count) {
  for (uint64_t i = 0; i < count; i++)
    if (!ask()) return false;
  while (!asked_.empty())
    if (!take_reply()) return false;
  return true;
}

}  // namespace

std::shared_ptr<const bool> write_once(Run &run, uint64_t first, uint64_t count, uint64_t stamp) {
  auto answered = std::make_shared<bool>(false);
  scheduler->spawn(kClients, "client", [&run, first, count, stamp, answered] {
    if (!run.master || !run.master->serves()) return run.fail("a script writes, and no master serves");
    *answered = Client(run, *run.master).write(first, count, stamp);
  });
  return answered;
}

void client_main(Run &run, int) {
  Random &random = scheduler->random;
  std::unique_ptr<Client> client;
  while (!run.ending) {
    if (run.quiet || !run.master || !run.master->serves()) {
      client.reset();
      scheduler->sleep(2 * kMs);
      continue;
    }
    if (!client) client = std::make_unique<Client>(run, *run.master);
    if (!client->burst(1 + random.below(run.settings.depth))) client.reset();
    if (run.calm) scheduler->sleep(random.below(800 * kMs));
    if (!random.one_in(4)) scheduler->sleep(random.below(random.one_in(8) ? 60 * kMs : 6 * kMs));
  }
  run.writers_left--;
}

}  // namespace sim
