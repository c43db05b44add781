// sources: native/core/*.cc native/wire/*.cc native/log/*.cc native/engine/connection.cc native/engine/durability.cc native/engine/give-back.cc native/engine/group.cc native/engine/leasing.cc native/engine/marking.cc native/engine/marks.cc native/engine/region-reader.cc native/engine/requests.cc native/engine/resync.cc native/engine/spilling.cc native/engine/verifier.cc breakable: native/engine/capture.cc native/engine/filtering.cc native/engine/holding.cc  libs: -lgnutls
// Rules for files in a real engine, against a file system that is a model of one: a list of whose each block is, which a
// write to block 0 changes, as a commit does. Its watch says what that means, as filesystem/watch.h has it; another thread reads
// it, in the background and when a step asks, and is late as often as not. Meanwhile sessions are lost, logs overflow, the
// device refuses writes. Whenever the standby shows a cut, it is one of the master's states in all that chosen files have; in
// the end it has all of the device but what is left out, and zeroes there. The seed is printed; give it as argument to run
// one history again. Every third seed has a device past the page cache.
#define UNDERSTUDY_BREAK  // as what it breaks is compiled
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <optional>
#include <random>
#include <thread>

#include "core/breakage.h"
#include "core/clock.h"
#include "engine-model.h"

using namespace engine_test;

namespace understudy {
Break chosen_break = Break::kNone;
}

namespace {
using filesystem::ByteRange;
using filesystem::Verdict;

enum Owner : uint8_t { kNobody, kChosen, kLeftOut };
using Owners = std::array<uint8_t, kBlocks>;

struct Change {
  uint64_t block;
  Owner from, to;
  bool written;  // by who has it next, since the commit before
};

// What the device says. The next write to block 0 brings `coming`.
class FileSystem {
 public:
  void will_commit(std::vector<Change> changes) {
    std::lock_guard lock(mutex_);
    coming_ = std::move(changes);
  }
  void block_0_written() {
    std::lock_guard lock(mutex_);
    for (const Change &change : coming_) owners_[change.block] = change.to;
    done_.insert(done_.end(), coming_.begin(), coming_.end());
    coming_.clear();
  }
  Owners owners(size_t *seen) {
    std::lock_guard lock(mutex_);
    *seen = done_.size();
    return owners_;
  }
  std::vector<Change> since(size_t *seen) {
    std::lock_guard lock(mutex_);
    std::vector<Change> changes(done_.begin() + static_cast<ptrdiff_t>(*seen), done_.end());
    *seen = done_.size();
    return changes;
  }

 private:
  std::mutex mutex_;
  Owners owners_{};
  std::vector<Change> coming_, done_;
};

class FileSystemDevice final : public MemoryDevice {
 public:
  FileSystemDevice(bool direct, FileSystem &files) : MemoryDevice(direct), files_(files) {}
  int write(const void *data, size_t bytes, uint64_t offset) override {
    const int error = MemoryDevice::write(data, bytes, offset);
    if (error || offset != 0) return error;
    files_.block_0_written();
    if (traits().direct && ++commits_ % 2) usleep(1500);  // read before it is followed, and has its record
    return 0;
  }

 private:
  FileSystem &files_;
  std::atomic<unsigned> commits_{0};
};

class ModelWatch final : public filesystem::Watch {
 public:
  ModelWatch(FileSystem &files, uint64_t seed) : files_(files), random_(seed) {
    owners_ = files.owners(&seen_);
    for (size_t block = 0; block < kBlocks; block++) mine_[block] = owners_[block] == kLeftOut && random_() % 8;  // or cannot be followed
  }
  std::vector<ByteRange> ranges() const override {
    std::vector<ByteRange> ranges;
    for (uint64_t block = 0; block < kBlocks; block++) {
      if (!mine_[block]) continue;
      if (block && mine_[block - 1]) ranges.back().bytes += kBlock;
      else ranges.push_back({block * kBlock, kBlock});
    }
    return ranges;
  }
  Verdict start(const Watch *) override {
    const std::array<bool, kBlocks> told = mine_;
    Verdict verdict = look_at_changes();
    after_start_ = std::exchange(mine_, told);  // ranges() is what it was: the engine takes `freed` out, and `left_out` in
    return verdict;
  }
  Verdict wrote(uint64_t offset, uint64_t) override {
    if (after_start_) mine_ = *std::exchange(after_start_, {});
    if (offset != 0) return {};
    Verdict verdict = look_at_changes();
    verdict.committed = true;
    return verdict;
  }
  void nobodys(uint64_t offset, uint64_t bytes, const std::function<void(uint64_t, uint64_t)> &visit) override {
    for (uint64_t block = offset / kBlock; block * kBlock < offset + bytes && !spent_; block++)
      if (block && owners_[block] == kNobody) visit(block * kBlock, kBlock);
  }

 private:
  Verdict look_at_changes() {
    Verdict verdict;
    if (spent_) return verdict;
    std::array<bool, kBlocks> came{};
    for (const auto &[block, from, to, written] : files_.since(&seen_)) {
      owners_[block] = to;
      if (from == kLeftOut && to == kChosen && mine_[block] && !written) verdict.kind = Verdict::kStep;
      if (to == kLeftOut) verdict.look = true;
      if (to == kLeftOut && random_() % 4) came[block] = mine_[block] = true;  // or it is not decided yet
      if (from != kLeftOut || !mine_[block]) continue;
      mine_[block] = false;
      verdict.freed.push_back({block * kBlock, kBlock});
      if (written) verdict.written.push_back({block * kBlock, kBlock});
    }
    for (uint64_t block = 0; block < kBlocks; block++)
      if (came[block] && mine_[block]) verdict.left_out.push_back({block * kBlock, kBlock});
    if (verdict.kind == Verdict::kNothing && !verdict.freed.empty()) verdict.kind = random_() % 12 ? Verdict::kFreed : Verdict::kStale;
    if (verdict.kind == Verdict::kStep || verdict.kind == Verdict::kStale) {
      spent_ = true;
      verdict.freed.clear();
      verdict.left_out.clear();
      verdict.written.clear();
    }
    return verdict;
  }
  FileSystem &files_;
  std::mt19937_64 random_;
  size_t seen_ = 0;
  Owners owners_{};
  std::array<bool, kBlocks> mine_{};
  std::optional<std::array<bool, kBlocks>> after_start_;
  bool spent_ = false;
};

struct State {
  std::array<uint32_t, kBlocks> stamps{};
  Owners owners{};
};

struct History {
  explicit History(uint64_t seed) : own(seed + 1000), device(std::make_unique<FileSystemDevice>(seed % 3 == 0, files)), memory(*device) {}
  FileSystem files;
  std::mt19937_64 own;  // of the thread that writes
  std::unique_ptr<FileSystemDevice> device;
  FileSystemDevice &memory;
  std::mutex mutex;
  std::vector<State> states{State{}};
  State now;
  uint32_t stamp = 0;
  std::array<bool, kBlocks> written{};  // since it was nobody's: what it was before is shown to nobody
  std::string writer_fault;
  std::atomic<bool> broken{false};

  bool ask(Client &client, uint16_t type, uint64_t first, uint64_t count, const Owners &owners);
  std::pair<uint64_t, uint64_t> run_of(Owner owner, uint64_t most);
  void commit(Client &client, int kinds);
  void write_all(Client &client, int operations);
  bool shows_part(size_t at, const std::array<uint32_t, kBlocks> &shown) const;
  bool judge(const std::vector<uint8_t> &image, size_t &oldest);
};

// False: the device has refused it.
bool History::ask(Client &client, uint16_t type, uint64_t first, uint64_t count, const Owners &owners) {
  State next = now;
  stamp++;
  for (uint64_t block = first; block < first + count; block++) next.stamps[block] = type == nbd::kWrite ? stamp : 0;
  next.owners = owners;
  {
    std::lock_guard lock(mutex);
    states.push_back(next);  // before it is sent: the standby may show it before we have read the reply
  }
  const std::vector<uint32_t> data(count * kBlock / 4, stamp);
  const uint32_t error = client.ask(type, first * kBlock, static_cast<uint32_t>(count * kBlock), type == nbd::kWrite ? data.data() : nullptr);
  if (error) {
    std::lock_guard lock(mutex);
    states.back() = now;  // the standby may have shown it
    if (error != nbd::kEio) writer_fault = "error " + std::to_string(error), broken = true;
    return false;
  }
  now = next;
  for (uint64_t block = first; block < first + count; block++) written[block] = true;
  return true;
}

std::pair<uint64_t, uint64_t> History::run_of(Owner owner, uint64_t most) {
  for (int tries = 0; tries < 100; tries++) {
    const uint64_t first = 1 + own() % (kBlocks - 1);
    uint64_t end = first;
    while (end < kBlocks && end - first < most && now.owners[end] == owner) end++;
    if (end > first) return {first, 1 + own() % (end - first)};
  }
  return {0, 0};
}

void History::commit(Client &client, int kinds) {
  std::vector<Change> changes;
  Owners next = now.owners;
  const auto change = [&](std::pair<uint64_t, uint64_t> run, Owner to, bool by_next = false) {
    for (uint64_t block = run.first; block < run.first + run.second; block++) {
      if (next[block] != now.owners[block]) continue;  // once in a commit
      if (to == kChosen && !written[block]) continue;
      changes.push_back({block, static_cast<Owner>(next[block]), to, by_next});
      next[block] = to;
      if (to == kNobody && !by_next) written[block] = false;
    }
  };
  for (int i = 0; i < kinds; i++) {
    switch (own() % 8) {
      case 0: case 1: change(run_of(kLeftOut, 30), kNobody); break;
      case 2: change(run_of(kChosen, 30), kNobody); break;
      case 3: if (own() % 4 == 0) change(run_of(kLeftOut, 8), kChosen); break;  // a name has come
      case 4: change(run_of(kNobody, 40), kLeftOut); break;
      case 5: change(run_of(kChosen, 8), kLeftOut); break;
      case 6: {  // its data goes before the commit
        const auto run = run_of(kNobody, 20);
        if (run.second == 0 || next != now.owners) break;
        const auto *from = written.data() + run.first;
        const bool is_there = own() % 2 && std::all_of(from, from + run.second, [](bool is) { return is; });
        if (is_there || ask(client, nbd::kWrite, run.first, run.second, now.owners)) change(run, kChosen);
        break;
      }
      default: {  // a block is used again before the commit that frees it is on the disk, for which nobody waits
        const auto run = run_of(kLeftOut, 10);
        if (run.second && next == now.owners && ask(client, nbd::kWrite, run.first, run.second, now.owners)) change(run, own() % 2 ? kChosen : kNobody, true);
      }
    }
  }
  if (broken) return;
  files.will_commit(changes);
  if (!ask(client, nbd::kWrite, 0, 1, next)) files.will_commit({});
}

void History::write_all(Client &client, int operations) {
  for (int i = 0; i < operations && !broken; i++) {
    const uint64_t kind = own() % 20;
    if (kind < 7) {
      commit(client, 1 + static_cast<int>(own() % 4));
      continue;
    }
    const uint64_t first = 1 + own() % (kBlocks - 1), count = 1 + own() % std::min<uint64_t>(kBlocks - first, own() % 8 ? 6 : 120);
    (void)ask(client, kind < 17 ? nbd::kWrite : kind < 19 ? nbd::kTrim : nbd::kWriteZeroes, first, count, now.owners);
    if (own() % 50 == 0) memory.refuse = !memory.refuse;
  }
  memory.refuse = false;
}

// A write that the filter cuts into parts is more than one record: the first of them may be there.
bool History::shows_part(size_t at, const std::array<uint32_t, kBlocks> &shown) const {
  if (at + 1 == states.size()) return false;
  const State &old = states[at], &next = states[at + 1];
  bool is_old = false;
  for (uint64_t block = 0; block < kBlocks; block++) {
    if (block && old.owners[block] != kChosen) continue;
    if (shown[block] != old.stamps[block] && (is_old || shown[block] != next.stamps[block])) return false;
    is_old |= shown[block] != next.stamps[block];
  }
  return true;
}

bool History::judge(const std::vector<uint8_t> &image, size_t &oldest) {
  std::array<uint32_t, kBlocks> shown;
  for (uint64_t block = 0; block < kBlocks; block++) shown[block] = stamp_of(image.data() + block * kBlock);
  std::lock_guard lock(mutex);
  size_t best = 0, fewest = kBlocks + 1;
  for (size_t at = oldest; at < states.size(); at++) {
    size_t different = states[at].stamps[0] != shown[0];
    for (uint64_t block = 1; block < kBlocks; block++) different += states[at].owners[block] == kChosen && states[at].stamps[block] != shown[block];
    if (different < fewest) best = at, fewest = different;
    if (different && !shows_part(at, shown)) continue;
    oldest = at;
    return true;
  }
  printf("# nearest is state %zu of %zu (not older than %zu), in all but %zu blocks:", best, states.size(), oldest, fewest);
  for (uint64_t block = 0, told = 0; block < kBlocks && told < 12; block++)
    if ((block == 0 || states[best].owners[block] == kChosen) && states[best].stamps[block] != shown[block]) {
      printf(" %lu: %u for %u", static_cast<unsigned long>(block), shown[block], states[best].stamps[block]);
      told++;
    }
  printf("\n");
  return false;
}

// What the deciding half does (src/filter/follow.ts): reads when it is told, or looks, and is slow.
class Follower {
 public:
  Follower(Group &group, FileSystem &files, uint64_t seed) : group_(group), files_(files), random_(seed + 2000) {}
  void told() { told_ = true; }
  void run() {
    for (const uint64_t from = monotonic_ns(); monotonic_ns() - from < random_() % 8'000'000;) usleep(500);
    while (!done_) {
      if (told_.exchange(false) || random_() % 100 == 0) round();
      usleep(200);
    }
  }
  void stop() { done_ = true; }
  std::atomic<int> in_force{0}, refused{0};

 private:
  template <typename Result>
  Result call(std::function<Result(Volume &)> what) {
    std::promise<Result> promise;
    group_.post([&] { promise.set_value(what(*group_.volumes()[0])); });
    return promise.get_future().get();
  }
  void round() {
    const uint64_t mark = call<uint64_t>([&](Volume &volume) { return group_.watch(volume, {}); });
    usleep(random_() % 2000);
    std::vector<FollowedFileSystem> followed;
    if (random_() % 10) {  // else a policy without rules
      RangeTable place;
      place.add(0, kSize);
      followed.push_back({nullptr, std::make_unique<ModelWatch>(files_, random_()), place, {}, random_() % 4 != 0});
    }
    usleep(random_() % 2000);
    const auto installed = call<Group::Installed>(
        [&](Volume &volume) { return group_.set_ranges(volume, {}, {}, mark, std::move(followed)); });
    (installed.refused < 0 ? in_force : refused)++;
    if (installed.refused >= 0) told_ = true;
  }
  Group &group_;
  FileSystem &files_;
  std::mt19937_64 random_;
  std::atomic<bool> told_{true}, done_{false};
};

struct Figures {
  int in_force = 0, refused = 0;
};

std::string run(uint64_t seed, int operations, Figures &figures) {
  History history(seed);
  std::mt19937_64 random(seed);
  WorkPool pool(4);
  Model model;
  std::vector<std::unique_ptr<Volume>> volumes;
  volumes.push_back(std::make_unique<Volume>("v", 0, std::move(history.device)));
  // As a start finds it: more is known to be left out than is, and files have not been read.
  for (uint64_t block = 1; block < kBlocks; block++)
    if (random() % 3 == 0) volumes[0]->excluded.add(block * kBlock, (block + 1) * kBlock);
  volumes[0]->read_again = true;
  GroupOptions options;
  options.capture = {77, 2u << 20, true, nullptr};
  options.durability = Durability::kAsync;
  if (seed % 4 == 0) options.hold_ns = 5'000'000;  // else it is held until its owner is known
  options.standby.peer_timeout_ns = 20'000'000;
  std::atomic<Follower *> told{nullptr};
  Group group(options, std::move(volumes), pool, &model, [&](const Event &event) {
    if (event.type == "watched" || event.type == "look")
      if (Follower *follower = told.load()) follower->told();
  });
  model.bind(group);
  Follower follower(group, history.files, seed);
  told = &follower;
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) return "socketpair";
  auto theirs = std::make_shared<Fd>(sockets[1]);
  group.post([&group, theirs] { group.adopt(1, {std::move(*theirs)}, *group.volumes()[0]); });
  Client client(sockets[0]);
  std::atomic<bool> done{false};
  std::thread reader([&] { follower.run(); });
  std::thread writer([&] {
    history.write_all(client, operations);
    done = true;
  });

  std::string fault;
  bool connected = false, first = true;
  size_t oldest = 0;
  const uint64_t limit = monotonic_ns() + 100'000'000'000;
  const auto settled = [&] {
    return done && group.page().get(kGroup_state) == 2 && group.page().get(kGroup_written_sequence) == model.position().sequence;
  };
  while (fault.empty() && !history.broken && !settled()) {
    if (monotonic_ns() > limit) fault = "not in sync after 100 s: a step stays open";
    if (!connected) {
      AttachRequest request = model.new_session();
      request.all_dirty = std::exchange(first, false);
      group.post([&group, request] { group.attach(request); });
      connected = true;
    }
    if (!model.pump(1 + static_cast<int>(random() % 40))) fault = "the chain is broken";
    if (model.on_cut() && !history.judge(model.image(), oldest)) fault = "the standby shows no state of the master";
    const uint64_t event = done ? 99 : random() % 400;
    if (event == 0) group.post([&group] { group.detach("requested"); }), connected = false;
    if (event == 1) model.lose_session(), connected = false;
    if (event == 2) usleep(30'000);  // nothing is taken: the log fills, the standby counts as away
    if (connected && group.page().get(kGroup_state) == 1 && random() % 4 == 0) connected = false;
    usleep(100);
  }
  follower.stop();
  if (!fault.empty()) shutdown(sockets[0], SHUT_RDWR);
  reader.join();
  writer.join();
  if (fault.empty()) fault = history.writer_fault;
  // A stop lets go of what is held. A last look may have opened a step.
  std::promise<void> let_go;
  group.post([&] { group.quiesce([&] { let_go.set_value(); }); });
  let_go.get_future().wait();
  while (fault.empty() && !settled()) {
    if (monotonic_ns() > limit) fault = "not in sync after 100 s: a step stays open in the end";
    if (group.page().get(kGroup_state) != 2) group.post([&group] { group.set_ranges(*group.volumes()[0], {}, {}, group.volumes()[0]->watched_writes); });
    if (!model.pump(100)) fault = "the chain is broken";
    usleep(1000);
  }
  if (fault.empty()) {
    std::promise<RangeTable> promise;
    group.post([&] { promise.set_value(group.volumes()[0]->left_out(0, kSize)); });
    const RangeTable left_out = promise.get_future().get();
    std::vector<uint8_t> device = history.memory.content();
    left_out.each([&](uint64_t start, uint64_t end) { memset(device.data() + start, 0, end - start); });
    const std::vector<uint8_t> image = model.image();
    for (uint64_t block = 0; block < kBlocks && fault.empty(); block++)
      if (memcmp(device.data() + block * kBlock, image.data() + block * kBlock, kBlock) != 0)
        fault = "block " + std::to_string(block) + " differs in the end, " + (left_out.touches(block * kBlock, (block + 1) * kBlock) ? "left out" : "replicated");
  }
  figures.in_force += follower.in_force;
  figures.refused += follower.refused;
  printf("# seed %lu: %zu states, %d steps, in force %d times, refused %d times\n", static_cast<unsigned long>(seed), history.states.size(),
         model.steps.load(), follower.in_force.load(), follower.refused.load());
  return fault;
}

// What came at a commit is left out, and no file says so yet: after a crash only the mark on disk tells that it may differ.
bool unstored_stays_marked() {
  WorkPool pool(1);
  Volume volume("v", 0, std::make_unique<MemoryDevice>(false));
  volume.page = CounterPages::instance().take();
  Marks marks(volume, "unused", "00000000-0000-0000-0000-000000000000");
  marks.bind({&pool, [](std::function<void()>) {}, [](const Event &) {}});
  MarkClock clock{monotonic_ns(), 1, 5, 5, true};
  const auto rounds = [&] {
    for (int i = 0; i < 4; i++) clock.now_ns += 20'000'000'000, volume.flush.good = UINT64_MAX, marks.turn(clock);
    return volume.page.get(kHotBytes);
  };
  (void)marks.ready(0, kBlock);
  volume.unstored.add(0, kBlock);
  const uint64_t kept = rounds();
  volume.unstored = {};
  const uint64_t later = rounds();
  if (later || !kept) printf("# %lu bytes marked, then %lu\n", static_cast<unsigned long>(kept), static_cast<unsigned long>(later));
  const bool good = kept > 0 && later == 0;
  CounterPages::instance().give_back(volume.page);
  return good;
}

}  // namespace

int main(int argc, char **argv) {
  Figures figures;
  int failures = 0;
  for (uint64_t seed = argc > 1 ? strtoull(argv[1], nullptr, 10) : 1; argc > 1 || seed <= 12; seed++) {
    const std::string fault = run(seed, 700, figures);
    if (!fault.empty()) printf("# seed %lu: %s\n", static_cast<unsigned long>(seed), fault.c_str()), failures++;
    if (argc > 1) break;
  }
  printf("%sok 1 - every cut is a state of the master in all that chosen files have, whatever is left out and when\n", failures ? "not " : "");
  if (argc > 1) return printf("1..1\n"), failures != 0;

  int number = 1;
  constexpr std::pair<Break, const char *> kBreaks[] = {{Break::kSwapFilterUnplaced, "a step that is not opened"},
                                                        {Break::kFreedStaysOut, "freed blocks that stay left out"},
                                                        {Break::kNewKeepsData, "what the standby keeps of a file that is left out from a commit on"},
                                                        {Break::kHeldStays, "what is held when the commit comes that names its owner"}};
  for (const auto &[what, name] : kBreaks) {
    chosen_break = what;
    bool found = false;
    // The rarest shows in one of 40 seeds: so that none is missed by chance.
    for (uint64_t seed = 1; seed <= 500 && !found; seed++) found = !run(seed, 700, figures).empty();
    chosen_break = Break::kNone;
    failures += !found;
    printf("%sok %d - it finds %s\n", found ? "" : "not ", ++number, name);
  }
  const bool marked = unstored_stays_marked();
  failures += !marked;
  printf("%sok %d - what a commit has left out stays marked until it is stored, and no longer\n", marked ? "" : "not ", ++number);
  printf("1..%d\n", number);
  return failures != 0;
}
