// sources: native/replay/*.cc native/link/codec.cc native/engine/device.cc native/engine/direct-file.cc native/wire/record.cc native/core/core.cc native/core/memory-guard.cc native/core/crc32c.cc native/core/mirrored-ring.cc  libs: -lzstd -llz4 -lgnutls
// A long history: a moment of it is open soon, however much lies between, and what expires stops nobody. Segments are a
// 256th of what they are, and have eight to an epoch, as they do.
#include <pthread.h>
#include <sys/syscall.h>

#include "replay-support.h"

namespace {
std::atomic<int> removed{0}, removed_by_applier{0};
std::atomic<unsigned> removal_us{0};  // what the removal of a file takes on this disk
}  // namespace

// Stands in front of the C library's.
extern "C" int unlink(const char *path) {
  char name[16] = "";
  pthread_getname_np(pthread_self(), name, sizeof name);
  const bool is_kept = strstr(path, ".kept") || strstr(path, ".saved") || strstr(path, ".records");
  if (is_kept) removed++;
  if (is_kept && strcmp(name, "us-applier") == 0) removed_by_applier++;
  if (is_kept) usleep(removal_us);
  return static_cast<int>(syscall(SYS_unlink, path));
}

using namespace replay_test;

namespace {
constexpr uint64_t kVolumeBytes = 64u << 20, kSegmentBytes = 256u << 10, kBlockBytes = 4096;
constexpr uint64_t kRecordsInSegment = 60;
constexpr uint64_t kSegmentsInEpoch = 8;

ReplicaOptions options_for_history(const std::string &store) {
  ReplicaOptions options = options_for(store, kVolumeBytes);
  options.segment_bytes = kSegmentBytes;
  options.history.bytes_max = uint64_t{1} << 40;
  options.history.epoch_bytes = kSegmentsInEpoch * kSegmentBytes;
  return options;
}

struct Load {
  Standby &standby;
  Master master{7};
  std::mt19937_64 random{1};
  Bytes block = Bytes(kBlockBytes);

  // A segment's worth of 4 KiB writes anywhere. Gives the longest that one of them took to be applied, in ns; 0: failed.
  uint64_t segment(bool one_by_one) {
    uint64_t longest = 1;
    for (uint64_t i = 0; i < kRecordsInSegment; i++) {
      for (uint8_t &byte : block) byte = static_cast<uint8_t>(random());
      const uint64_t since = monotonic_ns();
      if (!standby.send(master.write(random() % (kVolumeBytes / kBlockBytes) * kBlockBytes, block)).ok()) return 0;
      if (!one_by_one) continue;
      if (!standby.applied(master.sequence)) return 0;
      longest = std::max(longest, monotonic_ns() - since);
    }
    return standby.drain() ? longest : 0;
  }
};

double open_ms(Replica &replica, const Moment &moment) {
  const uint64_t since = monotonic_ns();
  auto views = replica.views({0}, moment, false);
  if (!EXPECT(views.ok()) || !EXPECT(read_device(*views.value.devices[0], 12345, 4096).size() == 4096)) return 1e9;
  return static_cast<double>(monotonic_ns() - since) / 1e6;
}

void test_distance() {
  Scratch scratch;
  Standby standby(options_for_history(scratch.path));
  Load load{standby};
  bool good = EXPECT(standby.make_cut(load.master)) && EXPECT(wait_until([&] { return standby.replica->history().has_value(); }));
  std::vector<wire::Position> ends;
  for (int i = 0; good && i < 1010; i++) {
    good = EXPECT(load.segment(false));
    ends.push_back({load.master.incarnation, load.master.sequence});
  }
  const auto summary = standby.replica->history();
  printf("# %lu epochs, %lu segments\n", summary->epochs, summary->segments);
  for (const size_t distance : {1u, 10u, 100u, 1000u}) {
    std::vector<double> times;
    for (int i = 0; good && i < 5; i++) times.push_back(open_ms(*standby.replica, {.position = ends[ends.size() - 1 - distance]}));
    std::sort(times.begin(), times.end());
    if (good) printf("# %zu segments back: %.2f ms until 4 KiB are read, at most %.2f\n", distance, times[2], times[4]);
    good = good && EXPECT(times[2] < 1000);
  }
  ok(good && EXPECT(summary->epochs > 100), "a moment a thousand segments back is open within a second");
}

// Hundreds of segments are too many from one moment to the next: the limit is smaller after a restart.
void test_expiry() {
  Scratch scratch;
  ReplicaOptions options = options_for_history(scratch.path);
  auto standby = std::make_unique<Standby>(options);
  Load load{*standby};
  bool good = EXPECT(standby->make_cut(load.master)) && EXPECT(wait_until([&] { return standby->replica->history().has_value(); }));
  for (int i = 0; good && i < 400; i++) good = EXPECT(load.segment(false));
  uint64_t longest = 0, longest_before = 0;
  for (int i = 0; good && i < 10; i++) longest_before = std::max(longest_before, load.segment(true));
  const auto before = standby->replica->history();
  standby.reset();
  options.history.bytes_max = 8u << 20;
  removed = removed_by_applier = 0;
  removal_us = 5000;
  standby = std::make_unique<Standby>(options);
  Load after{*standby, load.master, load.random};
  int rounds = 0;
  for (; good && rounds < 100 && (rounds < 10 || standby->replica->history()->bytes > options.history.bytes_max); rounds++)
    good = EXPECT((longest = std::max(longest, after.segment(true))));
  const auto left = standby->replica->history();
  good = good && EXPECT(left.has_value()) && EXPECT(before->segments > 400) && EXPECT(left->segments < 50);
  good = good && EXPECT(wait_until([] { return removed > 400; }));
  removal_us = 0;
  printf("# %lu segments, %lu left; %d files removed, %d of them by the applier; a write applied in at most %.2f ms, %.2f before\n",
         before->segments, left->segments, removed.load(), removed_by_applier.load(), static_cast<double>(longest) / 1e6,
         static_cast<double>(longest_before) / 1e6);
  ok(good && EXPECT(removed_by_applier == 0), "what expires is removed while replay goes on, which does not wait for it");
}

}  // namespace

int main() {
  setenv("TMPDIR", "/dev/shm", 1);  // a disk of this size would only make the history slowly
  test_distance();
  test_expiry();
  return finish();
}
