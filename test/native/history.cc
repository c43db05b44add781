// sources: native/replay/*.cc native/link/codec.cc native/engine/device.cc native/engine/direct-file.cc native/wire/record.cc native/core/core.cc native/core/memory-guard.cc native/core/crc32c.cc native/core/mirrored-ring.cc  libs: -lzstd -llz4 -lgnutls
// The history: any moment of it equals an independent replay of the same records, across restarts and kills.
#include <thread>

#include "clone-calls.h"
#include "history-story.h"
#include "loop-filesystem.h"
#include "replay-support.h"
#include "replay/saved-blocks.h"

using namespace clone_calls;

namespace {
std::atomic<bool> history_is_full{false};
std::atomic<int> full_for_records{0}, full_for_heads{0}, full_for_ends{0};  // so many writes find no room
std::atomic<int> full_for_syncs{0};  // of the records: what has been written finds none
std::atomic<int> clones_asked{0};
std::atomic<int> clones_fail_one_in{0};  // epochs of both kinds follow each other then
std::atomic<bool> clones_are_refused{false}, clones_are_slow{false};  // a slice a turn
int hinder_clone() {
  clones_asked++;
  const int one_in = clones_fail_one_in;
  if (history_is_full) return ENOSPC;
  if (clones_are_refused) return EOPNOTSUPP;
  if (one_in && random() % one_in == 0) return EIO;
  if (clones_are_slow) usleep(9000);
  return 0;
}
}  // namespace

extern "C" ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset) {
  counts();
  if (history_is_full && ends_with(fd, ".saved")) return fails(ENOSPC);
  if (full_for_records > 0 && ends_with(fd, ".records") && full_for_records--) return fails(ENOSPC);
  if (full_for_heads > 0 && bytes == 4096 && memcmp(data, "USDSAV01", 8) == 0 && full_for_heads--) return fails(ENOSPC);
  if (full_for_ends > 0 && bytes == 4096 && memcmp(data, "USDSFT01", 8) == 0 && full_for_ends--) return fails(ENOSPC);
  return syscall(SYS_pwrite64, fd, data, bytes, offset);
}
extern "C" int fdatasync(int fd) {
  counts();
  if (full_for_syncs > 0 && ends_with(fd, ".records") && full_for_syncs--) return fails(ENOSPC);
  return static_cast<int>(syscall(SYS_fdatasync, fd));
}

using namespace replay_test;
using namespace history_story;
using loop_filesystem::LoopFilesystem;

namespace {
bool is_within(const Story &story, wire::Position oldest, size_t i) {  // is record i at or after the oldest point?
  for (size_t j = 0; j <= i; j++) {
    const RecordHeader &h = story.records[j].header;
    if (wire::is_sequenced(h.type) && wire::Position{h.incarnation, h.sequence} == oldest) return true;
  }
  return false;
}

bool shows(Replica::Views &views, const Story::State &state, std::mt19937_64 &random) {
  for (size_t volume = 0; volume < 2; volume++) {
    const Bytes seen = read_device(*views.devices[volume], 0, kSizes[volume]);
    if (seen != state.volumes[volume]) {
      size_t at = 0;
      while (at < seen.size() && seen[at] == state.volumes[volume][at]) at++;
      printf("# volume %zu differs at %zu of %zu\n", volume, at, seen.size());
      return false;
    }
    for (int i = 0; i < 5; i++) {
      const uint64_t length = 1 + random() % 20'000, offset = random() % (kSizes[volume] - length);
      const Bytes part = read_device(*views.devices[volume], offset, length);
      if (part.size() != length || memcmp(part.data(), state.volumes[volume].data() + offset, length) != 0) return false;
      const Device::Extent extent = views.devices[volume]->extent(offset, length);
      if (!extent.bytes || extent.bytes > length) return false;
      for (uint64_t b = 0; extent.hole && b < extent.bytes; b++)
        if (state.volumes[volume][offset + b]) return false;
    }
  }
  return true;
}

// Some of all moments that are there, and one before them.
bool every_moment(Replica &replica, const Story &story, size_t sent, std::mt19937_64 &random, uint64_t one_in) {
  auto summary = replica.history();
  if (!EXPECT(summary.has_value())) return false;
  bool good = true, passed_newest = false;
  size_t checked = 0;
  story.replay([&](size_t count, const Story::State &state) {
    const RecordHeader &last = story.records[count - 1].header;
    if (!good || count > sent || passed_newest || !wire::is_sequenced(last.type)) return;
    const wire::Position position{last.incarnation, last.sequence};
    const bool is_newest = position == summary->newest.position;
    passed_newest = is_newest;
    if (random() % one_in && !is_newest && position != summary->oldest.position) return;
    Moment moment;
    if (random() % 2) moment.position = position;
    else moment.time_ns = last.time_ns + random() % (kSecondNs / 2);
    auto views = replica.views({0, 1}, moment, random() % 4 == 0);
    if (!is_within(story, summary->oldest.position, count - 1)) {
      if (moment.position) good = EXPECT(views.status.error == ERANGE);
      return;
    }
    if (views.status.error == ERANGE) {  // it may have expired meanwhile
      const wire::Position newest = summary->newest.position;
      summary = replica.history();
      summary->newest.position = newest;
      if (!is_within(story, summary->oldest.position, count - 1)) return;
    }
    if (!views.ok()) printf("# %s\n", views.status.message.c_str());
    good = EXPECT(views.ok()) && EXPECT(views.value.point.position == state.position) && EXPECT(shows(views.value, state, random));
    if (!good) printf("# at %lu:%lu, %zu of %zu records\n", position.incarnation, position.sequence, count, sent);
    checked++;
  });
  printf("# %zu moments, %lu epochs, %lu segments, %lu compressed, oldest %lu:%lu\n", checked, summary->epochs,
         summary->segments, summary->compressed_segments, summary->oldest.position.incarnation, summary->oldest.position.sequence);
  return good && EXPECT(checked > 0);
}

// The timeline counts what was written, and has the newest flush.
bool adds_up(Replica &replica, const Story &story, size_t sent) {
  uint64_t written = 0, flushes = 0;
  wire::Position flush;
  const uint64_t first_ns = story.records[0].header.time_ns;
  for (size_t i = 2; i < sent; i++) {
    const RecordHeader &h = story.records[i].header;
    if (h.type == RecordType::kWrite && !story.is_voided(i)) written += h.length;
    if (h.type == RecordType::kFlush) flush = {h.incarnation, h.sequence}, flushes++;
  }
  const auto made = replica.timeline(first_ns, story.records.back().header.time_ns + 1, 7);
  if (!EXPECT(made.ok())) return false;
  uint64_t counted = 0;
  for (uint64_t bytes : made.value.written_bytes) counted += bytes;
  // What has no outcome yet is not in it.
  return EXPECT(made.value.written_bytes.size() == 7) && EXPECT(counted <= written && counted + 200'000 >= written) &&
         EXPECT(made.value.flushes.size() == flushes) && EXPECT(flushes == 0 || made.value.flushes.back().position == flush) &&
         EXPECT(replica.timeline(1, 2, 3).value.flushes.empty());
}

void test_moments(uint64_t seed) {
  Scratch scratch;
  std::mt19937_64 random(seed);
  Story story = begun();
  bool good = true;
  size_t sent = 0;
  for (int start = 0; good && start < 3; start++) {
    Standby standby(options_with_history(scratch.path));
    if (!(good = EXPECT(standby.status.ok()))) break;
    if (!start) {
      sent = send_some(standby, story, 0, 2, random);
      good = EXPECT(standby.applied(2)) && EXPECT(has_begun(standby));
    }
    for (int round = 0; good && round < 4; round++) {
      sent = send_some(standby, story, sent, 120, random);
      good = sent && EXPECT(standby.drain());
    }
    good = good && every_moment(*standby.replica, story, sent, random, 16);
    good = good && EXPECT(standby.replica->history()->oldest.position == (wire::Position{7, 2}));
    good = good && adds_up(*standby.replica, story, sent);
  }
  ok(good, "any moment equals a replay of the same records, in two volumes, with steps and voids, over restarts (seed " +
               std::to_string(seed) + ")");
}

void test_frozen() {
  Scratch scratch;
  std::mt19937_64 random(3);
  Story story = begun();
  ReplicaOptions options = options_with_history(scratch.path);
  options.history.epoch_bytes = 300'000;
  Standby standby(options);
  size_t sent = send_some(standby, story, 0, 2, random);
  bool good = EXPECT(standby.applied(2)) && EXPECT(has_begun(standby));
  struct Open {
    size_t count;
    Replica::Views views;
  };
  std::vector<Open> open;
  for (int round = 0; good && round < 8; round++) {
    sent = send_some(standby, story, sent, 80, random);
    good = EXPECT(standby.drain());
    for (size_t back : {5, 30, 75}) {
      const RecordHeader &h = story.records[sent - back].header;
      auto views = standby.replica->views({0, 1}, {.time_ns = h.time_ns}, false);
      good = good && EXPECT(views.ok());
      if (good) open.push_back({sent - back + 1, std::move(views.value)});
    }
  }
  story.replay([&](size_t count, const Story::State &state) {
    for (Open &one : open)
      if (one.count == count)
        good = good && EXPECT(one.views.point.position == state.position) && EXPECT(shows(one.views, state, random));
  });
  ok(good, "views of moments stay as they are while replication goes on, several at once (G2)");
}

void test_expiry() {
  Scratch scratch;
  std::mt19937_64 random(4);
  Story story = begun();
  ReplicaOptions options = options_with_history(scratch.path);
  options.history.bytes_max = 6u << 20;
  options.history.epoch_bytes = 200'000;
  Standby standby(options);
  size_t sent = send_some(standby, story, 0, 2, random);
  bool good = EXPECT(standby.applied(2)) && EXPECT(has_begun(standby));
  sent = send_some(standby, story, sent, 100, random);
  good = good && EXPECT(standby.drain());
  auto oldest = standby.replica->views({0, 1}, {.position = wire::Position{7, 2}}, false);
  good = good && EXPECT(oldest.ok());
  for (int round = 0; good && round < 14; round++) {
    sent = send_some(standby, story, sent, 100, random);
    good = EXPECT(standby.drain());
  }
  good = good && EXPECT(wait_until([&] { return standby.replica->history()->bytes <= options.history.bytes_max; }));
  const auto summary = standby.replica->history();
  good = good && EXPECT(summary->oldest.position != (wire::Position{7, 2})) && EXPECT(summary->epochs > 1);
  auto gone = standby.replica->views({0, 1}, {.position = wire::Position{7, 2}}, false);
  printf("# %s\n", gone.status.message.c_str());
  good = good && EXPECT(gone.status.error == ERANGE) &&
         EXPECT(standby.replica->views({0}, {.time_ns = 5}, false).status.error == ERANGE) &&
         EXPECT(standby.replica->views({0}, {.position = wire::Position{99, 1}}, false).status.error == ERANGE);
  const auto bytes_on_disk = [&] {
    uint64_t bytes = 0;
    for (const std::string &directory : {scratch.path + "/history", scratch.path + "/segments"})
      for (const std::string &path : list_files(directory)) {
        struct stat info {};
        if (path.find(".seg") == std::string::npos && stat(path.c_str(), &info) == 0) bytes += static_cast<uint64_t>(info.st_size);
      }
    return bytes;
  };
  good = good && EXPECT(wait_until([&] { return bytes_on_disk() <= options.history.bytes_max + (1u << 20); })) &&
         EXPECT(bytes_on_disk() + (1u << 20) >= standby.replica->history()->bytes);
  good = good && every_moment(*standby.replica, story, sent, random, 20);
  story.replay([&](size_t count, const Story::State &state) {
    if (count == 2) good = good && EXPECT(shows(oldest.value, state, random));
  });
  ok(good, "the oldest epochs go when it is too large, and never under an open view; what has gone is named");
}

void test_no_room() {
  Scratch scratch;
  std::mt19937_64 random(5);
  Story story = begun();
  Standby standby(options_with_history(scratch.path));
  size_t sent = send_some(standby, story, 0, 2, random);
  bool good = EXPECT(standby.applied(2)) && EXPECT(has_begun(standby));
  sent = send_some(standby, story, sent, 50, random);
  good = good && EXPECT(standby.drain());
  history_is_full = true;
  sent = send_some(standby, story, sent, 100, random);
  good = good && EXPECT(standby.drain()) && EXPECT(!standby.replica->history()) && EXPECT(standby.collector.message_count() > 0);
  history_is_full = false;
  auto newest = standby.replica->views({0, 1}, {}, false);
  good = good && EXPECT(newest.ok());
  story.replay([&](size_t count, const Story::State &state) {
    if (count == sent) good = good && EXPECT(shows(newest.value, state, random));
  });
  ok(good && EXPECT(list_files(scratch.path + "/history").empty()), "without room the history is given up, and replication goes on");
}

// A full disk took all of the history when it was the index of records, or the head or end of an epoch, that found no room.
void test_little_room() {
  Scratch scratch;
  std::mt19937_64 random(15);
  Story story = begun();
  ReplicaOptions options = options_with_history(scratch.path);
  options.history.epoch_bytes = 200'000;
  Standby standby(options);
  size_t sent = send_some(standby, story, 0, 2, random);
  bool good = EXPECT(standby.applied(2)) && EXPECT(has_begun(standby));
  const auto several = [&] {
    sent = send_some(standby, story, sent, 60, random);
    return EXPECT(standby.drain()) && EXPECT(standby.replica->history().has_value());
  };
  while (good && standby.replica->history()->epochs < 5) good = several();
  for (std::atomic<int> *full : {&full_for_records, &full_for_syncs, &full_for_heads, &full_for_ends}) {
    const auto before = good ? standby.replica->history() : std::nullopt;
    *full = 2;
    for (int i = 0; good && i < 30 && *full > 0; i++) good = several();
    good = good && EXPECT(*full == 0) && EXPECT(standby.replica->history()->oldest.position != before->oldest.position);
    while (good && standby.replica->history()->epochs < 5) good = several();
  }
  good = good && EXPECT(standby.collector.message_count() == 0) && every_moment(*standby.replica, story, sent, random, 10);
  ok(good, "without room for one the oldest epochs go, whatever it is that finds none, and the rest stays");
}

void test_without() {
  Scratch scratch;
  std::mt19937_64 random(6);
  Story story = begun();
  size_t sent = 0;
  bool good = true;
  ReplicaOptions options = options_with_history(scratch.path);
  for (int start = 0; good && start < 3; start++) {
    ReplicaOptions these = options;
    if (start == 1) these.history = {};
    Standby standby(these);
    sent = send_some(standby, story, sent, start ? 100 : 2, random);
    good = EXPECT(standby.drain());
    if (start != 1) good = good && EXPECT(has_begun(standby));
    if (start != 1) sent = send_some(standby, story, sent, 100, random);
    good = good && EXPECT(standby.drain());
    if (start == 1) good = good && EXPECT(!standby.replica->history()) && EXPECT(list_files(scratch.path + "/history").empty());
    if (start == 2)
      good = good && every_moment(*standby.replica, story, sent, random, 20) &&
             EXPECT(standby.replica->views({0}, {.position = wire::Position{7, 2}}, false).status.error == ERANGE);
  }
  ok(good, "what was applied without a history is in none: an older one is removed");
}

// A history begins, and several epochs end: each with a sync, as they are small.
bool fill_epochs(Standby &standby, Story &story, size_t *sent, size_t first, std::mt19937_64 &random) {
  *sent = send_some(standby, story, *sent, first, random);
  bool good = EXPECT(standby.drain()) && EXPECT(has_begun(standby));
  for (int round = 0; good && round < 4; round++) {
    *sent = send_some(standby, story, *sent, 100, random);
    good = EXPECT(standby.drain());
  }
  return good;
}

// The process was killed when it had made an epoch's file and not written it. The next one removed it, and gave its number to
// nobody: what was before the gap was taken for something else at the start after that, and went.
void test_interrupted_making() {
  Scratch scratch;
  std::mt19937_64 random(9);
  Story story = begun();
  ReplicaOptions options = options_with_history(scratch.path);
  options.history.epoch_bytes = 200'000;
  size_t sent = 0;
  bool good = true;
  for (int start = 0; good && start < 3; start++) {
    if (start == 1) {
      uint64_t newest = 0;
      for (const std::string &path : list_files(scratch.path + "/history"))
        newest = std::max<uint64_t>(newest, std::stoull(path.substr(path.rfind('/') + 1), nullptr, 16));
      close(open(SavedBlocks::path_of(scratch.path + "/history", newest + 1).c_str(), O_CREAT | O_WRONLY, 0600));
    }
    Standby standby(options);
    good = fill_epochs(standby, story, &sent, start ? 100 : 2, random);
    const auto summary = standby.replica->history();
    good = good && EXPECT(summary->oldest.position == (wire::Position{7, 2})) && EXPECT(summary->epochs > 3);
    if (start == 2) good = good && every_moment(*standby.replica, story, sent, random, 20);
  }
  ok(good, "an epoch whose making was interrupted leaves no gap: what is before it stays");
}

// Before each epoch all pieces of the images were counted, a tenth of a second a GiB at worst, only to hear that ext4 has no clones.
void test_refused() {
  Scratch scratch;
  std::mt19937_64 random(10);
  Story story = begun();
  ReplicaOptions options = options_with_history(scratch.path);
  options.history.epoch_bytes = 200'000;
  size_t sent = 0;
  bool good = true;
  clones_are_refused = true;
  for (int start = 0; good && start < 2; start++) {
    clones_asked = 0;
    Standby standby(options);
    good = fill_epochs(standby, story, &sent, start ? 100 : 2, random);
    good = good && EXPECT(standby.replica->history()->epochs > 3) && EXPECT(clones_asked == 1);
  }
  clones_are_refused = false;
  ok(good, "a file system that has no clones is asked once a start, and not before each epoch");
}

// Of a stopped standby: an epoch that has ended has its clones, all of them, or none; how many have clones, and saved blocks as well.
bool are_whole(const std::string &store, int *mixed) {
  const std::vector<std::string> files = list_files(store + "/history");
  for (const std::string &path : files) {
    if (!path.ends_with(".saved")) continue;
    const uint64_t number = std::stoull(path.substr(path.rfind('/') + 1), nullptr, 16);
    const auto saved = SavedBlocks::open(store + "/history", number, {kSizes[0], kSizes[1]});
    if (!EXPECT(saved.ok())) return false;
    const auto count = std::count_if(files.begin(), files.end(), [&](const std::string &file) {
      return file.ends_with(".image") && file.compare(0, path.size() - 6, path, 0, path.size() - 6) == 0;
    });
    if (!EXPECT(count == (saved.value->is_cloned() ? 2 : 0) || !saved.value->is_closed())) return false;  // it was stopped meanwhile
    uint64_t blocks = saved.value->entries().size();
    if (saved.value->is_closed() && !EXPECT(saved.value->find(0, ~uint64_t{0}, [&](const SavedBlock &) { blocks++; }) == 0)) return false;
    *mixed += saved.value->is_cloned() && blocks > 0;
  }
  return true;
}

void test_slices() {
  Scratch scratch;
  std::mt19937_64 random(11);
  Story story = begun();
  bool good = true;
  size_t sent = 0;
  int mixed = 0;
  clones_are_slow = true;
  for (int start = 0; good && start < 3; start++) {
    clones_fail_one_in = start == 2 ? 4 : 0;
    auto standby = std::make_unique<Standby>(options_with_history(scratch.path));
    if (!start) sent = send_some(*standby, story, 0, 2, random);
    good = EXPECT(standby->drain()) && EXPECT(has_begun(*standby));
    for (int round = 0; good && round < 3; round++) {
      for (int i = 0; good && i < 20; i++) {  // while the images are cloned
        sent = send_some(*standby, story, sent, 10, random);
        good = sent > 0;
        usleep(3000);
      }
      good = good && EXPECT(standby->drain());
    }
    good = good && every_moment(*standby->replica, story, sent, random, 30);
    standby.reset();
    good = good && are_whole(scratch.path, &mixed);
  }
  clones_are_slow = false;
  clones_fail_one_in = 0;
  printf("# %d epochs with clones and saved blocks\n", mixed);
  ok(good && EXPECT(mixed > 2), "the images are cloned a slice at a time: what replay overwrites meanwhile is in the history (G2)");
}

// A turn of 4 MiB came after each 100 ms of cloning: some 80 MiB of a client's writes at full speed were saved in each epoch.
void test_little_is_saved() {
  constexpr uint64_t kBytes = 16u << 20, kBlocks = kBytes / 4096;
  Scratch scratch;
  std::mt19937_64 random(12);
  Master master(7);
  ReplicaOptions options = options_for(scratch.path, kBytes);
  options.history.bytes_max = uint64_t{1} << 40;
  Standby standby(options);
  clones_are_slow = true;
  clones_asked = 0;
  bool good = EXPECT(standby.make_cut(master)) && EXPECT(wait_until([&] { return standby.replica->history().has_value(); }));
  for (uint64_t i = 0; good && i < kBlocks * 2; i++) good = EXPECT(standby.send(master.fill(random() % kBlocks * 4096, 4096, 1)).ok());
  good = good && EXPECT(standby.applied(master.sequence));
  clones_are_slow = false;
  size_t blocks = kBlocks;
  for (const std::string &path : list_files(scratch.path + "/history")) {
    if (!path.ends_with(".saved")) continue;
    const auto saved = SavedBlocks::open(scratch.path + "/history", std::stoull(path.substr(path.rfind('/') + 1), nullptr, 16), {kBytes});
    good = good && EXPECT(saved.ok()) && EXPECT(saved.value->is_cloned());
    if (good) blocks = saved.value->entries().size();
  }
  printf("# %d slices, %zu of %lu blocks saved\n", clones_asked.load(), blocks, kBlocks);
  ok(good && EXPECT(blocks < kBlocks / 2), "while the images are cloned replay takes short turns that lie far apart: little of what a client overwrites is saved");
}

// A child that takes all records, and is killed at some write, sync, clone, rename or unlink; then the power goes, too.
void test_kills(LoopFilesystem *power = nullptr) {
  Scratch scratch;
  std::mt19937_64 random(8);
  Story story = begun();
  while (story.records.size() < 4000) story.add_random(random);
  ReplicaOptions options = options_with_history(scratch.path);
  options.history.epoch_bytes = 250'000;
  options.history.bytes_max = 8u << 20;
  bool good = true;
  size_t next = 0;
  int round = 0, with_history = 0;
  const int rounds = getenv("UNDERSTUDY_LONG") ? 40 * atoi(getenv("UNDERSTUDY_LONG")) : 9;
  for (; good && round < rounds && next < 3500; round++) {
    fflush(stdout);
    const int limit = static_cast<int>(random() % 400);
    const pid_t child = fork();
    if (child == 0) {
      calls_left = limit;
      Standby &standby = *new Standby(options);
      if (!standby.status.ok()) _exit(3);
      for (size_t i = next; i < story.records.size(); i++) {
        if (!standby.send(story.records[i]).ok()) _exit(4);
        if (i % 40 == 39) (void)standby.replica->drain(10'000'000'000);
      }
      _exit(5);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (!(good = EXPECT(WIFSIGNALED(status)))) {
      printf("# it ended with %d\n", WEXITSTATUS(status));
      break;
    }
    if (power && !(good = EXPECT(power->cut_power()))) break;
    Standby standby(options);
    if (!(good = EXPECT(standby.status.ok()))) break;
    for (const std::string &message : standby.collector.messages) printf("# %s\n", message.c_str());
    const wire::Position at = standby.replica->start_session();
    next = 0;
    for (size_t i = 0; at.sequence && i < story.records.size(); i++) {
      const RecordHeader &h = story.records[i].header;
      if (wire::is_sequenced(h.type) && wire::Position{h.incarnation, h.sequence} == at) next = i + 1;
    }
    good = EXPECT(next > 0 || !at.sequence) && EXPECT(standby.drain());
    // Markers behind the last record may be lost with it, or not: what is news is sent again, as a master does.
    const uint64_t committed = standby.state().committed_sequence;
    for (; good && next && next < story.records.size() && !wire::is_sequenced(story.records[next].header.type); next++) {
      const RecordHeader &h = story.records[next].header;
      if (h.type == RecordType::kVoid ? h.offset > committed : h.committed > committed)
        good = EXPECT(standby.send(story.records[next]).ok());
    }
    good = good && EXPECT(standby.drain());
    if (good && standby.replica->history() && next > 50) {
      with_history++;
      good = every_moment(*standby.replica, story, next, random, 80);
    }
  }
  printf("# %d kills, %zu records, %d times with a history\n", round, next, with_history);
  ok(good && EXPECT(with_history > 3), std::string("killed at any write, sync, clone, rename or unlink") +
                                           (power ? ", and what was not synced is lost" : "") + ", every moment that is offered is exact");
}

void test_all(uint64_t seed) {
  test_moments(seed);
  test_frozen();
  test_expiry();
  test_no_room();
  test_little_room();
  test_without();
  test_interrupted_making();
  test_kills();
}

}  // namespace

int main() {
  before_clone = hinder_clone;
  const char *seed = getenv("UNDERSTUDY_SEED");
  test_all(seed ? strtoull(seed, nullptr, 10) : 1);
  test_refused();
  // The longer run (npm run test:long) has btrfs, and more of both.
  const bool is_long = getenv("UNDERSTUDY_LONG");
  for (const std::string kind : {"xfs", "btrfs"}) {
    if (kind == "btrfs" && !is_long) break;
    LoopFilesystem there(kind, "512M");
    if (!there.why().empty()) {
      skip("the same on " + kind + ", by reflink", there.why());
      continue;
    }
    printf("# on %s\n", kind.c_str());
    setenv("TMPDIR", there.path().c_str(), 1);
    clones = 0;
    test_all(2);
    test_slices();
    test_little_is_saved();
    clones_fail_one_in = 4;
    clones_are_slow = true;
    if (is_long) test_moments(3);
    test_kills(kind == "xfs" ? &there : nullptr);
    clones_fail_one_in = 0;
    clones_are_slow = false;
    unsetenv("TMPDIR");
    ok(clones > 20, "on " + kind + " epochs begin with clones");
  }
  return finish();
}
