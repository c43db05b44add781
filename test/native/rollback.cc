// sources: native/replay/*.cc native/link/codec.cc native/engine/device.cc native/engine/direct-file.cc native/wire/record.cc native/core/core.cc native/core/memory-guard.cc native/core/crc32c.cc native/core/mirrored-ring.cc  libs: -lzstd -llz4 -lgnutls
// The images become what they were at a moment, for good: exactly an independent replay of the same records up to there,
// however often that is begun, killed and begun again.
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <map>
#include <mutex>

#include "clone-calls.h"
#include "history-story.h"
#include "loop-filesystem.h"
#include "replay-support.h"

using namespace clone_calls;

namespace {
std::atomic<int> clones_fail_one_in{0};  // epochs of both kinds follow each other then
int hinder_clone() {
  const int one_in = clones_fail_one_in;
  return one_in && random() % one_in == 0 ? EOPNOTSUPP : 0;
}
// What fails from now on, with which errno: a write or a sync of an image, or what is written for the history.
std::atomic<int> image_write_error{0}, image_sync_error{0}, saving_error{0}, indexing_error{0};
std::atomic<int> saving_sync_error{0}, indexing_sync_error{0};
bool is_image(int fd) { return ends_with(fd, "/a") || ends_with(fd, "/b"); }

// A file that only grows: where a sync fails, what came since the last good one is lost, although the cache shows it. A later
// sync that succeeds brings none of it back, unless it was written once more.
struct Synced {
  std::mutex mutex;
  std::map<ino_t, off_t> ends;
  int losses = 0;
} synced;
int lose(int fd, int error) {
  struct stat info {};
  std::lock_guard lock(synced.mutex);
  if (fstat(fd, &info) != 0) return fails(EIO);
  const std::vector<uint8_t> zeroes(static_cast<size_t>(std::max<off_t>(info.st_size - synced.ends[info.st_ino], 0)));
  if (syscall(SYS_pwrite64, fd, zeroes.data(), zeroes.size(), synced.ends[info.st_ino]) < 0) return fails(EIO);
  synced.losses++;
  return fails(error);
}
void note_synced(int fd) {
  struct stat info {};
  std::lock_guard lock(synced.mutex);
  if (fstat(fd, &info) == 0) synced.ends[info.st_ino] = info.st_size;
}
}  // namespace

extern "C" ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset) {
  counts();
  if (image_write_error && is_image(fd)) return fails(image_write_error);
  if (saving_error && ends_with(fd, ".saved")) return fails(saving_error);
  if (indexing_error && ends_with(fd, ".records")) return fails(indexing_error);
  return syscall(SYS_pwrite64, fd, data, bytes, offset);
}
extern "C" int fallocate(int fd, int mode, off_t offset, off_t bytes) {
  counts();
  return static_cast<int>(syscall(SYS_fallocate, fd, mode, offset, bytes));
}
extern "C" int fdatasync(int fd) {
  counts();
  if (image_sync_error && is_image(fd)) return fails(image_sync_error);
  const bool saves = ends_with(fd, ".saved"), indexes = ends_with(fd, ".records");
  if (saves && saving_sync_error) return lose(fd, saving_sync_error);
  if (indexes && indexing_sync_error) return lose(fd, indexing_sync_error);
  if (saves || indexes) note_synced(fd);
  return static_cast<int>(syscall(SYS_fdatasync, fd));
}

using namespace replay_test;
using namespace history_story;
using loop_filesystem::LoopFilesystem;

namespace {
constexpr uint64_t kLongNs = 60'000'000'000, kPartBytes = 100'000;

ReplicaOptions options_of_small_epochs(const std::string &store) {
  ReplicaOptions options = options_with_history(store);
  options.history.epoch_bytes = 250'000;
  return options;
}
ReplicaOptions held(ReplicaOptions options) {
  options.history.is_held = true;
  return options;
}

// The newest moment at or before record `count`, and what it holds.
Story::State state_at(const Story &story, size_t count) {
  Story::State found;
  story.replay([&](size_t now, const Story::State &state) {
    if (now == count) found = state;
  });
  return found;
}

bool is_exactly(const std::string &store, const Story::State &state) {
  for (size_t volume = 0; volume < 2; volume++) {
    const Bytes image = read_file(store + (volume ? "/b" : "/a"));
    const Bytes &wanted = state.volumes[volume];
    size_t at = 0;
    while (at < std::min(image.size(), wanted.size()) && image[at] == wanted[at]) at++;
    if (image.size() == wanted.size() && at == image.size()) continue;
    printf("# volume %zu differs at %zu of %zu bytes\n", volume, at, image.size());
    return false;
  }
  return true;
}

// As a promotion does it: everything durable is applied, then goes what came after the moment. An errno.
int roll_back(Replica &replica, wire::Position to, const std::function<void()> &begins = [] {}) {
  if (Status status = replica.seal(kLongNs); !status.ok()) return status.error;
  if (Status status = replica.drain(kLongNs); !status.ok()) return status.error;
  begins();
  for (;;) {
    const auto made = replica.roll_back(to, kPartBytes);
    if (!made.ok()) printf("# %s\n", made.status.message.c_str());
    if (!made.ok()) return made.status.error;
    if (!EXPECT(made.value.done_bytes <= made.value.total_bytes)) return EINVAL;
    if (made.value.is_done) return made.value.done_bytes == made.value.total_bytes ? 0 : EINVAL;
  }
}

// A store of 700 to 1300 records, of which the last are not applied: whoever took them was killed.
size_t fill(const std::string &store, Story &story, std::mt19937_64 &random, size_t count) {
  while (story.records.size() < count) story.add_random(random);
  const size_t applied = count - random() % 200;
  const bool good = in_doomed_child([&] {
    Standby &standby = *new Standby(options_of_small_epochs(store));
    if (!standby.status.ok() || !standby.send(story.records[0]).ok() || !standby.send(story.records[1]).ok()) return false;
    if (!standby.applied(2) || !has_begun(standby)) return false;
    for (size_t i = 2; i < count; i++) {
      if (!standby.send(story.records[i]).ok()) return false;
      if (i < applied && i % 60 == 59 && !standby.drain()) return false;
    }
    return standby.durable(1);
  });
  return good ? applied / 60 * 60 : 0;
}

// One child after the other, each killed a little later, until one comes to the end.
bool killed_until_done(const std::string &store, wire::Position to, std::mt19937_64 &random, LoopFilesystem *power, int *kills) {
  auto *is_rolling = static_cast<std::atomic<bool> *>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  double limit = 12;
  for (int attempt = 0; attempt < 100; attempt++, limit *= 1.4) {
    const auto calls = static_cast<int>(random() % static_cast<uint64_t>(limit));
    const bool counts_from_start = attempt % 3 == 2;  // or from where it is rolled back
    *is_rolling = false;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
      if (counts_from_start) calls_left = calls;
      Standby &standby = *new Standby(held(options_of_small_epochs(store)));
      if (!standby.status.ok()) _exit(2);
      const int error = roll_back(*standby.replica, to, [&] {
        *is_rolling = true;
        if (!counts_from_start) calls_left = calls;
      });
      fflush(stdout);
      _exit(error ? 3 : 0);  // as if killed: nothing is closed
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (power && !EXPECT(power->cut_power())) return false;
    if (WIFEXITED(status)) return EXPECT(WEXITSTATUS(status) == 0);
    *kills += *is_rolling;
  }
  return EXPECT(!"it came to an end");
}

void test_kills(uint64_t seed, int rounds, LoopFilesystem *power = nullptr) {
  std::mt19937_64 random(seed);
  int kills = 0;
  bool good = true;
  for (int round = 0; good && round < rounds; round++) {
    Scratch scratch;
    Story story = begun();
    const size_t applied = fill(scratch.path, story, random, 700 + random() % 600);
    if (power && !(good = EXPECT(power->cut_power()))) break;
    // Far back, or a little, or nothing at all.
    const size_t back = round % 3 == 0 ? random() % (applied - 2) : round % 3 == 1 ? random() % 100 : 0;
    const Story::State wanted = state_at(story, applied - back);
    good = EXPECT(applied > 100) && killed_until_done(scratch.path, wanted.position, random, power, &kills) &&
           EXPECT(is_exactly(scratch.path, wanted));
    // Killed before anybody has noted that it is done.
    good = good && killed_until_done(scratch.path, wanted.position, random, power, &kills) && EXPECT(is_exactly(scratch.path, wanted));
    if (!good) printf("# seed %lu, round %d: %zu of %zu records back\n", seed, round, back, applied);
  }
  printf("# killed %d times in the middle of it\n", kills);
  ok(good && EXPECT(kills > 2 * rounds), std::string("killed at any write, zero or sync") + (power ? ", what was not synced lost" : "") +
                                         ", it goes on, and the images are exactly the moment (G2)");
}

// What the limits would have removed, and what has no room.
void test_held() {
  Scratch scratch;
  std::mt19937_64 random(5);
  Story story = begun();
  ReplicaOptions options = options_of_small_epochs(scratch.path);
  options.history.bytes_max = 3u << 20;
  options.history.epoch_bytes = 100'000;
  auto standby = std::make_unique<Standby>(options);
  size_t sent = send_some(*standby, story, 0, 2, random);
  bool good = EXPECT(standby->applied(2)) && EXPECT(has_begun(*standby));
  sent = send_some(*standby, story, sent, 40, random);
  good = good && EXPECT(standby->drain());
  const Story::State wanted = state_at(story, sent);
  standby->replica->hold_history(true);
  const auto found = standby->replica->find({.position = wanted.position});
  good = good && EXPECT(found.ok()) && EXPECT(found.value.point.position == wanted.position);
  for (int round = 0; good && round < 10; round++) {
    sent = send_some(*standby, story, sent, 60, random);
    good = EXPECT(standby->drain());
  }
  good = good && EXPECT(standby->replica->history()->bytes > 2 * options.history.bytes_max);
  for (auto *error : {&saving_error, &indexing_error}) {  // nothing more is applied, and nothing is lost
    *error = ENOSPC;
    for (int i = 0; i < 1100; i++)  // more than the index keeps in memory
      story.add(story.master.fill(random() % 250 * 4096, 300, static_cast<uint8_t>(i)), 0);
    while (good && sent < story.records.size()) good = EXPECT(standby->send(story.records[sent++]).ok());
    good = good && EXPECT(wait_until([&] { return standby->collector.message_count() > 0; })) &&
           EXPECT(standby->replica->drain(1'500'000'000).error == ETIMEDOUT);
    *error = 0;
    good = good && EXPECT(standby->drain());
    std::lock_guard lock(standby->collector.mutex);
    for (const std::string &message : standby->collector.messages) printf("# %s\n", message.c_str());
    standby->collector.messages.clear();
  }
  good = good && EXPECT(standby->replica->find({.position = wanted.position}).ok());
  standby.reset();
  standby = std::make_unique<Standby>(held(options));
  good = good && EXPECT(roll_back(*standby->replica, wanted.position) == 0) && EXPECT(is_exactly(scratch.path, wanted));
  ok(good, "while the history is held its limits remove nothing, and a full disk stops what would have been lost");

  Scratch other;
  options = options_of_small_epochs(other.path);
  options.history.bytes_max = 3u << 20;
  options.history.epoch_bytes = 100'000;
  Story next = begun();
  Standby let_go(options);
  sent = send_some(let_go, next, 0, 2, random);
  good = EXPECT(let_go.applied(2)) && EXPECT(has_begun(let_go));
  let_go.replica->hold_history(true);
  const auto more = [&] {
    sent = send_some(let_go, next, sent, 100, random);
    return EXPECT(let_go.drain());
  };
  for (int round = 0; good && round < 8; round++) good = more();
  good = good && EXPECT(let_go.replica->find({.position = wire::Position{7, 2}}).ok());
  let_go.replica->hold_history(false);
  for (int round = 0; good && round < 8; round++) good = more();
  good = good && EXPECT(wait_until([&] { return let_go.replica->find({.position = wire::Position{7, 2}}).status.error == ERANGE; }));
  ok(good, "a history that is held no more goes on within its limits");
}

// Of what a failed sync covered the disk has nothing, and the page cache says otherwise.
void test_failed_syncs() {
  Scratch scratch;
  std::mt19937_64 random(9);
  Story story = begun();
  const ReplicaOptions options = options_of_small_epochs(scratch.path);
  auto standby = std::make_unique<Standby>(options);
  size_t sent = send_some(*standby, story, 0, 2, random);
  bool good = EXPECT(standby->applied(2)) && EXPECT(has_begun(*standby));
  standby->replica->hold_history(true);
  sent = send_some(*standby, story, sent, 10, random);
  good = good && EXPECT(standby->drain());
  const Story::State wanted = state_at(story, sent);
  uint64_t block = 0;  // each is overwritten for the first time
  for (auto *error : {&saving_sync_error, &indexing_sync_error, &saving_sync_error}) {
    *error = EIO;
    for (int i = 0; i < 80; i++) story.add(story.master.fill(block++ * 4096, 300, static_cast<uint8_t>(i)), 0);
    while (good && sent < story.records.size()) good = EXPECT(standby->send(story.records[sent++]).ok());
    good = good && EXPECT(wait_until([&] { return standby->collector.message_count() > 0; })) &&
           EXPECT(standby->replica->drain(500'000'000).error == ETIMEDOUT);
    *error = 0;
    good = good && EXPECT(standby->drain());
    std::lock_guard lock(standby->collector.mutex);
    for (const std::string &message : standby->collector.messages) printf("# %s\n", message.c_str());
    standby->collector.messages.clear();
  }
  good = good && EXPECT(synced.losses >= 3);
  standby.reset();
  standby = std::make_unique<Standby>(held(options));
  good = good && EXPECT(roll_back(*standby->replica, wanted.position) == 0) && EXPECT(is_exactly(scratch.path, wanted));
  ok(good, "while it is held a sync that fails loses nothing of it: what that covered is saved once more (G8)");
}

void test_faults() {
  Scratch scratch;
  std::mt19937_64 random(6);
  Story story = begun();
  Standby standby(options_of_small_epochs(scratch.path));
  Replica &replica = *standby.replica;
  size_t sent = send_some(standby, story, 0, 2, random);
  bool good = EXPECT(standby.applied(2)) && EXPECT(has_begun(standby));
  for (int round = 0; good && round < 10; round++) {
    sent = send_some(standby, story, sent, 60, random);
    good = EXPECT(standby.drain());
  }
  const Story::State wanted = state_at(story, sent - 300);
  replica.hold_history(true);
  image_sync_error = EIO;  // what is applied now is not safe
  sent = send_some(standby, story, sent, 20, random);
  good = good && EXPECT(replica.drain(500'000'000).error == ETIMEDOUT) &&
         EXPECT(replica.roll_back(wanted.position, kPartBytes).status.error == EBUSY);
  image_sync_error = 0;
  good = good && EXPECT(replica.seal(kLongNs).ok()) && EXPECT(replica.drain(kLongNs).ok());
  for (const wire::Position nowhere : {wire::Position{7, 1}, wire::Position{99, 1}, wire::Position{7, 1u << 30}})
    good = good && EXPECT(replica.roll_back(nowhere, kPartBytes).status.error == ERANGE);
  for (auto *fault : {&image_write_error, &image_sync_error}) {
    *fault = fault == &image_write_error ? ENOSPC : EIO;
    good = good && EXPECT(roll_back(replica, wanted.position) == *fault);
    *fault = 0;
  }
  // What a flush that failed covered is written again: it may be in the page cache only.
  auto first = replica.roll_back(wanted.position, 1);
  good = good && EXPECT(first.ok()) && EXPECT(first.value.done_bytes < first.value.total_bytes) && EXPECT(!first.value.is_done);
  good = good && EXPECT(roll_back(replica, wanted.position) == 0) && EXPECT(is_exactly(scratch.path, wanted));
  ok(good, "a disk that is full or fails is said, and it can be done again; not before everything is applied, not to no moment");

  Scratch without;
  Standby none(options_for(without.path, 1u << 20));
  ok(EXPECT(none.replica->roll_back({7, 1}, 1).status.error == ENODATA) && EXPECT(none.replica->find({.time_ns = 1}).status.error == ENODATA),
     "without a history there is nothing to go back to");
}

// The operator had given the cut up, and the step that went into the images instead is not complete.
void test_no_cut() {
  Scratch scratch;
  std::mt19937_64 random(7);
  Story story = begun();
  Standby standby(options_of_small_epochs(scratch.path));
  size_t sent = send_some(standby, story, 0, 2, random);
  bool good = EXPECT(standby.applied(2)) && EXPECT(has_begun(standby));
  sent = send_some(standby, story, sent, 300, random);
  good = good && EXPECT(standby.drain());
  const Story::State wanted = state_at(story, sent - 50);
  story.add(story.master.begin(), 0);
  for (int i = 0; i < 50; i++) story.add(story.master.sync(static_cast<uint64_t>(i) * 4096, 4096, 0xee), 0);
  while (sent < story.records.size()) good = EXPECT(standby.send(story.records[sent++]).ok()) && good;
  good = good && EXPECT(wait_until([&] { return standby.phase() == ReplicaPhase::kStaging; })) &&
         EXPECT(standby.replica->give_up_cut().ok()) &&
         EXPECT(wait_until([&] { return standby.phase() == ReplicaPhase::kInitial; }));
  standby.replica->hold_history(true);
  good = good && EXPECT(roll_back(*standby.replica, wanted.position) == 0) && EXPECT(is_exactly(scratch.path, wanted));
  ok(good, "images that are no cut any more become one again");
}

// A copy on a device of the host's own: no holes, no clones, whole sectors.
void test_block_device() {
  const std::string title = "a copy on a block device becomes the moment, too";
  if (geteuid() != 0) return skip(title, "needs root");
  Scratch scratch;
  constexpr uint64_t kBytes = 4u << 20;
  const std::string file = scratch.path + "/disk";
  write_file(file, Bytes(kBytes));
  std::string device;
  if (FILE *made = popen(("losetup -f --show '" + file + "' 2>/dev/null").c_str(), "r")) {
    char line[128];
    if (fgets(line, sizeof line, made)) device = std::string(line, strcspn(line, "\n"));
    pclose(made);
  }
  if (device.empty()) return skip(title, "needs loop devices");
  bool good;
  Bytes wanted(kBytes);
  {
    ReplicaOptions options = options_for(scratch.path, kBytes);
    options.volumes = {{"v", device, kBytes, false}};
    options.history.bytes_max = uint64_t{1} << 40;
    options.history.epoch_bytes = 200'000;
    Standby standby(options);
    std::mt19937_64 random(8);
    Master master(7);
    good = EXPECT(standby.status.ok()) && EXPECT(standby.make_cut(master)) && EXPECT(has_begun(standby));
    wire::Position to;
    for (int i = 0; good && i < 400; i++) {
      const uint64_t bytes = 512 * (1 + random() % 40), offset = 512 * (random() % ((kBytes - bytes) / 512));
      const Record record = random() % 5 ? master.fill(offset, bytes, static_cast<uint8_t>(random()))
                                         : master.make(random() % 2 ? RecordType::kTrim : RecordType::kZero, offset, bytes);
      good = EXPECT(standby.send(record).ok()) && (i % 50 || EXPECT(standby.drain()));
      if (i < 150) apply_to(wanted, record);
      if (i == 149) to = {7, record.header.sequence};
    }
    standby.replica->hold_history(true);
    good = good && EXPECT(roll_back(*standby.replica, to) == 0);
  }
  good = good && EXPECT(read_file(device) == wanted);
  if (system(("losetup -d " + device).c_str()) != 0) good = false;
  ok(good, title);
}

}  // namespace

int main() {
  before_clone = hinder_clone;
  const char *seed = getenv("UNDERSTUDY_SEED"), *longer = getenv("UNDERSTUDY_LONG");
  const int more = longer ? 10 * atoi(longer) : 1;
  test_kills(seed ? strtoull(seed, nullptr, 10) : 1, 4 * more);
  test_held();
  test_failed_syncs();
  test_faults();
  test_no_cut();
  test_block_device();
  LoopFilesystem there("xfs", "512M");
  if (!there.why().empty()) {
    skip("the same on xfs, by reflink", there.why());
    return finish();
  }
  setenv("TMPDIR", there.path().c_str(), 1);
  test_kills(2, 2 * more, &there);
  test_no_cut();
  clones_fail_one_in = 2;
  test_kills(3, 2 * more, &there);
  unsetenv("TMPDIR");
  ok(clones > 5, "on xfs epochs begin with clones");
  return finish();
}
