// sources: native/core/*.cc native/wire/*.cc native/log/*.cc native/engine/capture.cc native/engine/connection.cc native/engine/durability.cc native/engine/filtering.cc native/engine/give-back.cc native/engine/group.cc native/engine/holding.cc native/engine/leasing.cc native/engine/marking.cc native/engine/marks.cc native/engine/region-reader.cc native/engine/requests.cc native/engine/resync.cc native/engine/spilling.cc native/engine/verifier.cc  libs: -lgnutls
// Replies that the link thread sends in the engine's place (Group::answer_now), to a client that does not read them: its
// socket takes a part, which ends in the middle of a reply. A real engine, and sockets with little room. This thread is
// the link's; it stands in front of send() to see what it sends there, and to let the engine have its turn in between.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/group.h"

using namespace understudy;
using namespace understudy::engine;

namespace {
const pthread_t g_link_thread = pthread_self();
std::function<void()> g_after_a_part;  // of what the link thread sends
int g_sends = 0, g_parts = 0;          // of the link thread
}  // namespace

extern "C" ssize_t send(int fd, const void *data, size_t bytes, int flags) {
  const ssize_t sent = sendto(fd, data, bytes, flags, nullptr, 0);
  if (!pthread_equal(pthread_self(), g_link_thread)) return sent;
  g_sends++;
  if (!g_after_a_part || sent <= 0 || static_cast<size_t>(sent) % sizeof(nbd::SimpleReply) == 0) return sent;
  g_parts++;
  g_after_a_part();
  return sent;
}

namespace {

int g_tests = 0, g_failures = 0;
void ok(bool good, const std::string &title) {
  printf("%s %d - %s\n", good ? "ok" : "not ok", ++g_tests, title.c_str());
  if (!good) g_failures++;
}

constexpr uint64_t kBlock = 4096, kBlocks = 64;
constexpr int kSoonMs = 60'000;     // of what must come
constexpr uint64_t kWrites = 600;   // their replies are more than the socket takes
constexpr uint64_t kRead = 1 << 20; // and above: cookies of reads
constexpr int kPartsWanted = 20, kRoundsMax = 2000;

class SevensDevice final : public Device {
 public:
  SevensDevice() {
    traits_.size_bytes = kBlocks * kBlock;
    traits_.can_zero = true;
  }
  int read(void *data, size_t bytes, uint64_t) override {
    memset(data, 7, bytes);
    return 0;
  }
  int write(const void *, size_t, uint64_t) override { return 0; }
  int zero(uint64_t, uint64_t, ZeroHow, bool) override { return 0; }
  int flush() override { return 0; }
};

// The standby has received what the test says.
class Standby final : public PeerLink {
 public:
  void start_records(uint64_t, std::shared_ptr<log::ReplicationLog> log, uint64_t) override { log_ = std::move(log); }
  void published(bool) override {}
  void request_hashes(uint64_t, const wire::HashRequestBody &) override {}
  void request_data(uint64_t, const wire::HashRequestBody &) override {}
  void has(Group &group, uint64_t sequence) {
    if (sequence == group.page().get(kGroup_written_sequence)) log_->release(log_->published());
    wire::WatermarksBody marks{};
    marks.incarnation = 77;
    marks.received = marks.durable = marks.committed = marks.applied = {sequence, 0};
    group.marks_arrived(marks);
  }

 private:
  std::shared_ptr<log::ReplicationLog> log_;
};

// Asks without reading, then reads without asking.
class Client {
 public:
  explicit Client(int socket) : fd_(socket) {}
  ~Client() { close(fd_); }
  void write() {
    static const std::vector<uint8_t> data(kBlock, 9);
    put(nbd::kWrite, asked_++);
    if (sendto(fd_, data.data(), data.size(), MSG_NOSIGNAL, nullptr, 0) != static_cast<ssize_t>(data.size())) abort();
  }
  void read() { put(nbd::kRead, kRead + reads_asked_++); }
  // A little of what has come, so that the socket takes more.
  void sip() {
    uint8_t bytes[3001];
    const ssize_t got = recv(fd_, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got > 0) sipped_.insert(sipped_.end(), bytes, bytes + got);
  }
  // Everything that was asked, each once, the writes in their order; or what is wrong.
  std::string read_all();

 private:
  void put(uint16_t type, uint64_t cookie) {
    const nbd::Request request{htobe32(nbd::kRequestMagic), 0, htobe16(type), htobe64(cookie),
                               htobe64(cookie % kBlocks * kBlock), htobe32(kBlock)};
    if (sendto(fd_, &request, sizeof request, MSG_NOSIGNAL, nullptr, 0) != sizeof request) abort();
  }
  bool get(void *data, size_t bytes) {
    auto *to = static_cast<uint8_t *>(data);
    for (; bytes && !sipped_.empty(); bytes--, sipped_.pop_front()) *to++ = sipped_.front();
    while (bytes) {
      pollfd ready{fd_, POLLIN, 0};
      if (poll(&ready, 1, kSoonMs) != 1) return false;
      const ssize_t got = recv(fd_, to, bytes, MSG_DONTWAIT);
      if (got <= 0) return false;
      to += got, bytes -= static_cast<size_t>(got);
    }
    return true;
  }
  const int fd_;
  std::deque<uint8_t> sipped_;
  uint64_t asked_ = 0, reads_asked_ = 0, answered_ = 0, reads_answered_ = 0;
};

std::string Client::read_all() {
  uint64_t &writes = answered_, &reads = reads_answered_;
  while (writes < asked_ || reads < reads_asked_) {
    nbd::SimpleReply reply;
    const std::string where = "after " + std::to_string(writes) + " of " + std::to_string(asked_) + " writes and " +
                              std::to_string(reads) + " of " + std::to_string(reads_asked_) + " reads";
    if (!get(&reply, sizeof reply)) return "nothing comes " + where;
    if (be32toh(reply.magic) != nbd::kSimpleReplyMagic || reply.error) return "no reply " + where;
    const uint64_t cookie = be64toh(reply.cookie);
    if (cookie < kRead) {
      if (cookie != writes++) return "another reply than the next " + where;
      continue;
    }
    if (cookie != kRead + reads++) return "another read than the next " + where;
    uint8_t data[kBlock];
    if (!get(data, sizeof data)) return "half a read " + where;
    for (const uint8_t byte : data)
      if (byte != 7) return "other data than what was read " + where;
  }
  return "";
}

struct Stage {
  Stage() {
    std::vector<std::unique_ptr<Volume>> volumes;
    volumes.push_back(std::make_unique<Volume>("v", 0, std::make_unique<SevensDevice>()));
    GroupOptions options;
    options.capture = {77, 16u << 20, true, nullptr};
    options.durability = Durability::kReceived;
    options.standby.peer_timeout_ns = 600'000'000'000;
    group = std::make_unique<Group>(options, std::move(volumes), pool, &standby, [](const Event &) {});
    AttachRequest request;
    request.session = 1;
    request.fresh = request.initial = true;
    on_engine([&] { group->attach(request); });
    if (!becomes([&] { return group->page().get(kGroup_state) == 2; })) abort();  // it is in sync
    standby.has(*group, written());
  }
  uint64_t written() const { return group->page().get(kGroup_written_sequence); }
  static bool becomes(const std::function<bool()> &condition) {
    for (int waited = 0; waited < kSoonMs; waited++, usleep(1000))
      if (condition()) return true;
    return false;
  }
  void on_engine(const std::function<void()> &task) {
    std::promise<void> done;
    group->post([&] {
      task();
      done.set_value();
    });
    done.get_future().wait();
  }
  void join(ClientState state) {
    auto shared = std::make_shared<ClientState>(std::move(state));
    group->post([this, shared] { group->adopt(++joined, std::move(*shared), *group->volumes()[0]); });
  }
  std::unique_ptr<Client> join(int send_bytes) {
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) abort();
    if (setsockopt(sockets[1], SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes) != 0) abort();
    join(ClientState{Fd(sockets[1])});
    return std::make_unique<Client>(sockets[0]);
  }
  // As a takeover does, within one engine: all clients leave, and enter again.
  void take_over() {
    std::promise<void> quiet;
    group->post([&] { group->quiesce([&] { quiet.set_value(); }); });
    quiet.get_future().wait();
    std::vector<ClientState> clients;
    on_engine([&] {
      clients = group->take_clients(*group->volumes()[0]);
      group->resume();
    });
    for (ClientState &client : clients) join(std::move(client));
  }
  WorkPool pool{2};
  Standby standby;
  std::unique_ptr<Group> group;
  uint64_t joined = 0;
};

struct Round {
  bool asks_meanwhile = false;  // the client reads a little when a part has been sent, and asks for something that the engine answers
  bool is_taken_over = false;
};

std::string run(Stage &stage, int number, const Round &round) {
  const auto client = stage.join(2500 + number % 100 * 6);
  const uint64_t before = stage.written();
  for (uint64_t i = 0; i < kWrites; i++) client->write();
  if (!Stage::becomes([&] { return stage.written() == before + kWrites; })) return "writes are not taken";
  usleep(2000);  // the engine sleeps: nothing is to be done until the standby has them
  bool has_asked = !round.asks_meanwhile;
  g_after_a_part = [&] {
    if (std::exchange(has_asked, true)) return;
    client->sip();
    client->read();
    usleep(500);  // it is awake, and has the reply
  };
  if (number % 2) stage.standby.has(*stage.group, before + kWrites / 4 * 3);  // and the engine answers the others
  stage.standby.has(*stage.group, before + kWrites);
  g_after_a_part = nullptr;
  if (round.is_taken_over) stage.take_over();
  return client->read_all();
}

void test(const char *title, const Round &round) {
  Stage stage;
  std::string fault;
  g_parts = 0;
  int rounds = 0;
  while (fault.empty() && g_parts < kPartsWanted && rounds < kRoundsMax) fault = run(stage, rounds++, round);
  if (!fault.empty()) printf("# round %d: %s\n", rounds, fault.c_str());
  else printf("# the link thread has sent a part in %d of %d rounds\n", g_parts, rounds);
  ok(fault.empty() && g_parts >= kPartsWanted, title);
  stage.group->stop();
}

// The link thread holds the sending of both; which of them comes first changes.
void test_two_clients() {
  Stage stage;
  const auto one = stage.join(1 << 16), other = stage.join(1 << 16);
  std::string fault;
  int rounds = 0;
  for (g_sends = 0; fault.empty() && g_sends < 2 * kPartsWanted && rounds < kRoundsMax; rounds++) {
    const uint64_t before = stage.written();
    for (Client *client : {rounds % 2 ? &*one : &*other, rounds % 2 ? &*other : &*one}) {
      const uint64_t taken = stage.written();
      client->write();
      if (!Stage::becomes([&] { return stage.written() == taken + 1; })) fault = "a write is not taken";
    }
    usleep(2000);  // the engine sleeps
    stage.standby.has(*stage.group, before + 2);
    for (Client *client : {&*one, &*other})
      if (fault.empty()) fault = client->read_all();
  }
  if (!fault.empty()) printf("# round %d: %s\n", rounds, fault.c_str());
  ok(fault.empty() && g_sends >= 2 * kPartsWanted, "the replies of two clients leave together, in either order");
  stage.group->stop();
}

}  // namespace

int main() {
  test("what the socket did not take of the link thread's replies follows, whole and in order", {});
  test("also when the engine answers the same client meanwhile", {true, false});
  test("and when the client changes to another engine then", {false, true});
  test("or both", {true, true});
  test_two_clients();
  printf("1..%d\n", g_tests);
  return g_failures ? 1 : 0;
}
