// sources: native/core/*.cc native/wire/*.cc native/log/*.cc native/engine/capture.cc native/engine/connection.cc native/engine/durability.cc native/engine/filtering.cc native/engine/give-back.cc native/engine/group.cc native/engine/holding.cc native/engine/leasing.cc native/engine/marking.cc native/engine/marks.cc native/engine/region-reader.cc native/engine/requests.cc native/engine/resync.cc native/engine/spilling.cc native/engine/verifier.cc  libs: -lgnutls
// Random histories through a real engine (sockets, threads, worker pool) against a standby that is a model: sessions
// are lost, logs overflow, the device refuses writes, the standby forgets what it had not staged. Whenever the model
// shows a cut, it must be one of the master's states, and never an older one than before (G2). Half of the histories have
// a log file, some of them one that fails or gives back something else; every third has a device past the page cache. The seed is printed; give it as argument to run
// one history again, with a log file if there is a second argument.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "core/clock.h"
#include "engine-model.h"

using namespace engine_test;

namespace {

// A log file in memory. From its `fault_after`th write on it does what the kind of the history says.
class MemorySpill final : public log::SpillFile {
 public:
  enum Fault : uint64_t { kNone, kWriteFails, kReadFails, kLies, kNoSpace, kFaults };
  MemorySpill(Fault fault, uint64_t fault_after)
      : SpillFile("in memory", 3u << 20), fault_(fault), fault_after_(fault_after), bytes_(bytes_max()) {}
  int empty() override { return failing(kNoSpace) ? ENOSPC : 0; }
  int sync() override { return 0; }
  int write(const uint8_t *data, uint64_t bytes, uint64_t position) override {
    writes++;
    if (failing(kWriteFails)) return EIO;
    for (uint64_t at = 0; at < bytes; at++) bytes_[(position + at) % bytes_.size()] = data[at];
    return 0;
  }
  int read(uint8_t *data, uint64_t bytes, uint64_t position) override {
    reads++;
    if (failing(kReadFails)) return EIO;
    for (uint64_t at = 0; at < bytes; at++) data[at] = bytes_[(position + at) % bytes_.size()];
    if (failing(kLies)) data[bytes / 2] ^= 4;
    return 0;
  }
  std::atomic<int> writes{0}, reads{0};

 private:
  bool failing(Fault fault) const { return fault_ == fault && static_cast<uint64_t>(writes) >= fault_after_; }
  const Fault fault_;
  const uint64_t fault_after_;
  std::vector<uint8_t> bytes_;
};

struct History {
  explicit History(uint64_t seed, int operations_wanted) : random(seed), own(seed + 1000), operations(operations_wanted) {}
  std::mt19937_64 random, own;  // of the thread of events, of the thread that writes
  const int operations;
  std::mutex mutex;
  std::vector<State> states{State{}};  // the master's, in order
  std::string writer_fault;  // of the writing thread, until it has ended
  std::atomic<bool> broken{false};
  std::string fault;

  void writer_failed(const std::string &what) {
    writer_fault = what;
    broken = true;
  }
  uint64_t pick(uint64_t below) { return random() % below; }
  void write_all(Client &client, MemoryDevice &device);
  void list(const State &state) {
    std::lock_guard lock(mutex);
    states.push_back(state);
  }
  void unlist() {
    std::lock_guard lock(mutex);
    states.pop_back();
  }
  bool judge(const std::vector<uint8_t> &image, size_t &oldest);
  void tell_nearest(const State &shown, size_t oldest) const;
};

void History::write_all(Client &client, MemoryDevice &device) {
  State now{};
  for (uint32_t stamp = 1; stamp <= static_cast<uint32_t>(operations) && !broken; stamp++) {
    const uint64_t first = own() % kBlocks, count = 1 + own() % std::min<uint64_t>(kBlocks - first, own() % 8 ? 6 : 120);
    const int kind = static_cast<int>(own() % 10);
    State next = now;
    for (uint64_t block = first; block < first + count; block++) next[block] = kind < 7 ? stamp : 0;
    std::vector<uint32_t> data(count * kBlock / 4, stamp);
    if (kind < 9) list(next);  // before it is sent: the standby may show it before we have read the reply
    const uint16_t type = kind < 7 ? nbd::kWrite : kind == 7 ? nbd::kTrim : kind == 8 ? nbd::kWriteZeroes : nbd::kRead;
    const uint32_t error =
        client.ask(type, first * kBlock, static_cast<uint32_t>(count * kBlock), kind < 7 ? data.data() : nullptr);
    if (error && kind < 9) unlist();
    if (error == ~0u) return writer_failed("the connection broke");
    if (error && error != nbd::kEio) return writer_failed("error " + std::to_string(error));
    if (kind == 9 && !error)
      for (uint64_t block = 0; block < count; block++)
        if (stamp_of(client.read.data() + block * kBlock) != now[first + block]) return writer_failed("a read shows another state");
    if (!error && kind < 9) now = next;
    if (own() % 50 == 0) device.refuse = !device.refuse;
  }
  device.refuse = false;
}

// Whether the image is one of the master's states, not older than `oldest`.
bool History::judge(const std::vector<uint8_t> &image, size_t &oldest) {
  State shown;
  for (uint64_t block = 0; block < kBlocks; block++) shown[block] = stamp_of(image.data() + block * kBlock);
  std::lock_guard lock(mutex);
  for (size_t at = oldest; at < states.size(); at++)
    if (states[at] == shown) {
      oldest = at;
      return true;
    }
  tell_nearest(shown, oldest);
  return false;
}

void History::tell_nearest(const State &shown, size_t oldest) const {
  size_t best = 0, fewest = kBlocks + 1;
  for (size_t at = 0; at < states.size(); at++) {
    size_t different = 0;
    for (uint64_t block = 0; block < kBlocks; block++) different += states[at][block] != shown[block];
    if (different < fewest) fewest = different, best = at;
  }
  printf("# nearest is state %zu of %zu (not older than %zu), in all but %zu blocks:", best, states.size(), oldest, fewest);
  for (uint64_t block = 0, told = 0; block < kBlocks && told < 12; block++)
    if (states[best][block] != shown[block]) {
      printf(" %lu: %u for %u", static_cast<unsigned long>(block), shown[block], states[best][block]);
      told++;
    }
  printf("\n");
}

// spilled: counts what went through log files.
std::string run(uint64_t seed, int operations, bool spills, int &spilled) {
  History history(seed, operations);
  WorkPool pool(4);
  Model model;
  auto device = std::make_unique<MemoryDevice>(seed % 3 == 0);
  MemoryDevice &memory = *device;
  std::vector<std::unique_ptr<Volume>> volumes;
  volumes.push_back(std::make_unique<Volume>("v", 0, std::move(device)));
  GroupOptions options;
  options.capture = {77, 2u << 20, true, nullptr};  // a small log: it overflows
  const auto spill = std::make_shared<MemorySpill>(static_cast<MemorySpill::Fault>(seed / 2 % MemorySpill::kFaults), 1 + seed / 8);
  if (spills) options.capture.log_file = spill;
  options.durability = Durability::kAsync;
  options.standby.peer_timeout_ns = 20'000'000;
  Group group(options, std::move(volumes), pool, &model, [](Event) {});
  model.bind(group);
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) return "socketpair";
  auto theirs = std::make_shared<Fd>(sockets[1]);
  group.post([&group, theirs] { group.adopt(1, {std::move(*theirs)}, *group.volumes()[0]); });
  Client client(sockets[0]);
  std::atomic<bool> done{false};
  std::thread writer([&] {
    history.write_all(client, memory);
    done = true;
  });

  bool connected = false, first = true;
  size_t oldest = 0;
  uint64_t spilled_most = 0;
  const uint64_t limit = monotonic_ns() + 100'000'000'000;
  const auto attach = [&] {
    AttachRequest request = model.new_session();
    request.all_dirty = first;
    first = false;
    group.post([&group, request] { group.attach(request); });
    connected = true;
  };
  const auto settled = [&] {
    return done && group.page().get(kGroup_state) == 2 &&
           group.page().get(kGroup_written_sequence) == model.position().sequence;
  };
  while (history.fault.empty() && !history.broken && !settled()) {
    if (monotonic_ns() > limit)
      history.fault = "not in sync after 100 s: " + std::to_string(history.states.size()) + " states, engine at state " +
                      std::to_string(group.page().get(kGroup_state)) + " sequence " +
                      std::to_string(group.page().get(kGroup_written_sequence)) + ", standby at " +
                      std::to_string(model.position().sequence);
    if (!connected) attach();
    if (!model.pump(1 + static_cast<int>(history.pick(40)))) history.fault = "the chain is broken";
    if (model.on_cut() && !history.judge(model.image(), oldest)) history.fault = "the standby shows no state of the master";
    const uint64_t event = done ? 99 : history.pick(400);
    if (event == 0) group.post([&group] { group.detach("requested"); }), connected = false;
    if (event == 1) model.lose_session(), connected = false;
    if (event == 2) usleep(30'000);  // nothing is taken: the log fills, the standby counts as away
    if (spills && event >= 3 && event < 7) {  // ... or it spills
      const auto spilled = [&] { return group.page().get(kGroup_log_file_bytes); };
      for (int turn = 0; turn < 300 && !done && spilled() < (1 + history.pick(3)) << 20; turn++) usleep(1000);
      spilled_most = std::max(spilled_most, spilled());
    }
    if (connected && group.page().get(kGroup_state) == 1 && history.pick(4) == 0) connected = false;
    usleep(100);
  }
  if (history.fault.empty() && !history.broken && memory.content() != model.image()) history.fault = "the images differ in the end";
  if (!history.fault.empty()) shutdown(sockets[0], SHUT_RDWR);
  writer.join();
  spilled += spill->reads;
  if (history.fault.empty()) history.fault = history.writer_fault;
  if (history.fault.empty()) {
    size_t last = history.states.size() - 1;
    if (!history.judge(model.image(), last)) history.fault = "the last state is not the one that is shown";
    printf("# seed %lu: %zu states, %d steps, detaches: %lu by overflow, %lu by the log file; at most %lu KiB spilled, "
           "%d writes, %d reads; it ended as %lu\n",
           static_cast<unsigned long>(seed), history.states.size(), model.steps.load(),
           static_cast<unsigned long>(group.page().get(kGroup_detaches_log_full)),
           static_cast<unsigned long>(group.page().get(kGroup_detaches_log_file)),
           static_cast<unsigned long>(spilled_most >> 10), spill->writes.load(), spill->reads.load(),
           static_cast<unsigned long>(group.page().get(kGroup_log_file_errno)));
  }
  return history.fault;
}

// A session resumes while records are owed: the standby has its whole peer timeout, it is not away at once.
bool resumes_in_time() {
  WorkPool pool(1);
  Model model;
  std::vector<std::unique_ptr<Volume>> volumes;
  volumes.push_back(std::make_unique<Volume>("v", 0, std::make_unique<MemoryDevice>(false)));
  GroupOptions options;
  options.capture = {77, 8u << 20, true};
  options.durability = Durability::kAsync;
  Group group(options, std::move(volumes), pool, &model, [](Event) {});
  model.bind(group);
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) return false;
  auto theirs = std::make_shared<Fd>(sockets[1]);
  group.post([&group, theirs] { group.adopt(1, {std::move(*theirs)}, *group.volumes()[0]); });
  Client client(sockets[0]);
  const auto attach = [&](bool all_dirty) {
    AttachRequest request = model.new_session();
    request.all_dirty = all_dirty;
    group.post([&group, request] { group.attach(request); });
  };
  attach(true);
  for (int turn = 0; turn < 5000 && model.steps == 0; turn++, usleep(1000)) model.pump(100);
  const std::vector<uint8_t> data(kBlock, 1);
  bool good = model.steps == 1;
  for (int session = 2; session < 12; session++) {
    good = good && client.ask(nbd::kWrite, 0, kBlock, data.data()) == 0;  // owed: nothing pumps
    model.lose_session();
    usleep(2000);
    attach(false);
    usleep(2000);
    good = good && client.ask(nbd::kWrite, 0, kBlock, data.data()) == 0 && group.page().get(kGroup_away) == 0;
  }
  return good;
}

}  // namespace

int main(int argc, char **argv) {
  const int rounds = argc > 1 ? 1 : 16;
  int failures = 0, spilled = 0;
  for (int round = 0; round < rounds; round++) {
    const uint64_t seed = argc > 1 ? strtoull(argv[1], nullptr, 10) : static_cast<uint64_t>(round + 1);
    const bool spills = argc > 1 ? argc > 2 : round % 2;
    const std::string fault = run(seed, spills ? 4000 : 1500, spills, spilled);
    if (!fault.empty()) printf("# seed %lu: %s\n", static_cast<unsigned long>(seed), fault.c_str()), failures++;
  }
  printf("%sok 1 - every cut the standby shows is a state of the master, in order, through faults (G2)\n",
         failures ? "not " : "");
  const bool resumed = resumes_in_time();
  printf("%sok 2 - a standby that comes back within the log is not away at once\n", resumed ? "" : "not ");
  const bool passed = spilled > 0 || argc > 1;
  printf("%sok 3 - some of it went through a log file and came back\n1..3\n", passed ? "" : "not ");
  return failures != 0 || !resumed || !passed;
}
