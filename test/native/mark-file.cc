// sources: native/core/*.cc native/wire/*.cc native/log/dirty-map.cc native/log/mark-file.cc native/engine/marks.cc  libs:
// The dirty map on disk, and the engine's half that keeps it a superset of what may differ on the standby (G4).
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "engine/volume.h"

using namespace understudy;
using engine::MarkClock;
using engine::Marks;
using engine::Volume;
using log::DirtyMap;
using log::MarkFile;

namespace {

constexpr uint64_t kRegion = DirtyMap::kRegion, kExtent = 64 * kRegion;
int failures = 0, tests = 0;
void check(bool good, const char *title) {
  printf("%sok %d - %s\n", good ? "" : "not ", ++tests, title);
  failures += !good;
}

class NoDevice final : public Device {  // only its size matters here
 public:
  explicit NoDevice(uint64_t size) { traits_.size_bytes = size; }
  int read(void *, size_t, uint64_t) override { return EIO; }
  int write(const void *, size_t, uint64_t) override { return EIO; }
  int zero(uint64_t, uint64_t, ZeroHow, bool) override { return EIO; }
  int flush() override { return EIO; }
};

// One volume's marks, with the engine's loop in the hands of the test.
struct Stage {
  explicit Stage(uint64_t size, const std::string &file, WorkPool &workers) : path(file), volume("v", 0, std::make_unique<NoDevice>(size)) {
    volume.page = CounterPages::instance().take();
    volume.marks = std::make_unique<Marks>(volume, path, "uuid");
    volume.marks->bind({&workers,
                        [this](std::function<void()> task) {
                          std::lock_guard lock(mutex);
                          tasks.push_back(std::move(task));
                        },
                        [this](Event event) { events.push_back(std::move(event)); }});
    clock.now_ns = UINT64_C(1) << 60;  // later than any round that has begun
  }
  ~Stage() {
    settle();
    CounterPages::instance().give_back(volume.page);
  }
  Marks &marks() { return *volume.marks; }
  void turn(double seconds = 0) {
    clock.now_ns += static_cast<uint64_t>(seconds * 1e9);
    marks().turn(clock);
    wait_for_job();
  }
  void wait_for_job() {  // its result waits in tasks
    for (;;) {
      std::lock_guard lock(mutex);
      if (!marks().busy() || !tasks.empty()) return;
    }
  }
  void hear() {
    std::vector<std::function<void()>> now;
    {
      std::lock_guard lock(mutex);
      now.swap(tasks);
    }
    for (auto &task : now) task();
  }
  void settle(double seconds = 0) {
    for (int i = 0; i < 400; i++) turn(i ? 0 : seconds), hear();
  }
  void flush_device() {  // as the group's: everything asked for so far
    volume.flush.wanted = false;
    volume.flush.good = ++volume.flush.started;
  }
  // What a start would find now.
  DirtyMap stored(MarkFile::Floor *floor = nullptr) {
    DirtyMap found(volume.size_bytes);
    auto opened = MarkFile::open(path, {"uuid", volume.size_bytes}, found);
    if (!opened.ok()) found.mark(0, volume.size_bytes);
    if (floor && opened.ok()) *floor = opened.value.floor;
    return found;
  }

  const std::string path;
  Volume volume;
  MarkClock clock{0, 7, 0, 0, true};
  std::mutex mutex;
  std::vector<std::function<void()>> tasks;
  std::vector<Event> events;
};

bool same(const DirtyMap &a, const DirtyMap &b) {
  for (uint64_t i = 0; i < a.words(); i++)
    if (a.word(i) != b.word(i)) return false;
  return a.words() == b.words() && a.dirty_bytes() == b.dirty_bytes();
}

void round_trip(const std::string &path) {
  std::mt19937_64 random(5);
  const uint64_t size = 3 * MarkFile::kBlockWords * kExtent + 12345;
  const MarkFile::Owner owner{"a-uuid", size};
  DirtyMap map(size);
  bool right = MarkFile::blocks_of(size) == 4;
  std::vector<uint64_t> words(MarkFile::kBlockWords);
  const auto words_of = [&](uint64_t block) {
    for (uint64_t i = 0; i < words.size(); i++) {
      const uint64_t at = block * words.size() + i;
      words[i] = at < map.words() ? map.word(at) : 0;
    }
    return words.data();
  };
  {
    auto file = std::move(MarkFile::create(path, owner, {1, 2}).value);
    for (uint64_t block = 0; block < 4; block++) right &= file->fill(block, words_of(block)) == 0;
    right &= access(path.c_str(), F_OK) != 0 && file->publish() == 0;
    for (int i = 0; i < 200; i++) {
      const uint64_t start = random() % size, end = start + random() % std::min<uint64_t>(size - start, 10 * kExtent) + 1;
      map.mark(start, end);
      for (uint64_t block = 0; block < 4; block++) right &= file->write(block, words_of(block)) == 0;
      right &= file->write_floor({9, random()}) == 0;
      DirtyMap found(size);
      auto opened = MarkFile::open(path, owner, found);
      right &= opened.ok() && same(found, map) && opened.value.floor.incarnation == 9 && !opened.value.damaged_blocks;
    }
  }
  check(right, "what is written is what a start finds, also in a volume with an odd tail");
  DirtyMap other(size), smaller(size - kRegion);
  check(!MarkFile::open(path, {"another", size}, other).ok() && !MarkFile::open(path, {"a-uuid", size - kRegion}, smaller).ok() && !other.any(),
        "a map of another volume or size is refused");

  std::ifstream in(path, std::ios::binary);
  const std::vector<char> good((std::istreambuf_iterator<char>(in)), {});
  bool covered = true, noticed = true;
  for (int i = 0; i < 2000; i++) {
    std::vector<char> bad = good;
    const size_t at = random() % bad.size();
    bad[at] ^= static_cast<char>(1 << random() % 8);
    std::ofstream(path, std::ios::binary).write(bad.data(), static_cast<ptrdiff_t>(bad.size()));
    DirtyMap found(size);
    auto opened = MarkFile::open(path, owner, found);
    if (!opened.ok()) continue;
    if (at >= 8192) noticed &= opened.value.damaged_blocks == 1;
    for (uint64_t w = 0; w < map.words(); w++) covered &= (map.word(w) & ~found.word(w)) == 0;
  }
  check(covered && noticed, "a flipped bit never takes a mark away: the block that it hits is dirty as a whole (G4, G8)");
}

void waits_for_the_disk(const std::string &path, WorkPool &pool) {
  Stage stage(64 * kExtent, path, pool);
  Marks &marks = stage.marks();
  check(marks.ready(0, 1), "without a map on disk a write waits for nothing");
  bool filled = false;
  marks.fill([&](const Status &status) { filled = status.ok(); });
  stage.settle();
  check(filled && stage.stored().is_dirty(0) && stage.stored().dirty_bytes() == kExtent, "a map that is made later has what was touched before");
  const bool asked = !marks.ready(5 * kExtent, 5 * kExtent + 4096);
  const bool before = !stage.stored().is_dirty(5 * kExtent);
  stage.turn();
  const bool on_disk = stage.stored().is_dirty(5 * kExtent), still = !marks.ready(5 * kExtent, 5 * kExtent + 4096);
  stage.hear();
  check(asked && before && on_disk && still && marks.ready(5 * kExtent, 5 * kExtent + 4096), "a write to a cold extent waits until it is hot on disk (G4)");
  check(!marks.ready(6 * kExtent - 4096, 6 * kExtent + 4096), "so does one that touches a cold extent with its last block only");
  stage.settle();
  check(marks.ready(6 * kExtent, 10 * kExtent), "a stream finds the next extents marked");
}

void cools(const std::string &path, WorkPool &pool) {
  Stage stage(64 * kExtent, path, pool);
  Marks &marks = stage.marks();
  marks.fill([](const Status &) {});
  stage.settle();
  marks.ready(kExtent, 2 * kExtent);
  marks.ready(9 * kExtent, 10 * kExtent);
  stage.settle();
  stage.clock.last_sequence = 100;
  stage.settle(11);  // touched in this round
  stage.settle(11);  // asks for the flush
  const auto hot = [&](uint64_t extent) { return stage.stored().is_dirty(extent * kExtent); };
  stage.clock.durable = 100;
  stage.settle(1);
  const bool without_flush = hot(1) && stage.volume.flush.wanted;
  stage.clock.durable = 99;
  stage.flush_device();
  stage.settle(1);
  const bool without_durable = hot(1);
  marks.ready(9 * kExtent, 9 * kExtent + 1);  // touched again meanwhile
  stage.clock.durable = 100;
  stage.settle(1);
  MarkFile::Floor floor;
  stage.stored(&floor);
  check(without_flush && without_durable && !hot(1), "a mark goes only above a flushed device and a durable standby");
  check(hot(9) && marks.ready(9 * kExtent, 9 * kExtent + 1) && !marks.ready(kExtent, kExtent + 1), "one that was touched meanwhile stays, and a cold one is marked again");
  check(floor.incarnation == 7 && floor.durable == 100, "the file says what a copy must have for the marks that went");

  stage.clock.streaming = false;  // detached: what is not durable is in the dirty map
  stage.volume.dirty.mark(9 * kExtent + kRegion, 9 * kExtent + 2 * kRegion);
  stage.settle(11);
  stage.settle(11);
  stage.flush_device();
  stage.settle(1);
  check(stage.stored().dirty_bytes() == kRegion && stage.stored().is_dirty(9 * kExtent + kRegion), "detached, a hot extent becomes the regions that are dirty");

  marks.ready(20 * kExtent, 20 * kExtent + 1);
  stage.settle();
  stage.clock.streaming = true;
  marks.keep(9 * kExtent, 10 * kExtent);
  stage.volume.dirty.clear(9 * kExtent, 10 * kExtent);
  marks.note(21 * kExtent, 21 * kExtent + 1);
  stage.settle();
  check(stage.stored().is_dirty(9 * kExtent + kRegion), "what a resynchronisation has sent stays marked until the standby is durable");
  bool finished = false;
  marks.finish(stage.clock, [&](const Status &status) { finished = status.ok(); });
  stage.settle();
  check(finished && !stage.stored().any(), "a clean stop leaves exactly what is dirty");
}

void handed_over(const std::string &path, WorkPool &pool) {
  const uint64_t size = 3 * MarkFile::kBlockWords * kExtent + 5 * kRegion + 1;
  std::vector<uint64_t> map;
  Stage first(size, path, pool);
  first.marks().fill([](const Status &) {});
  first.settle();
  first.volume.dirty.mark(4 * kExtent + kRegion, 4 * kExtent + 2 * kRegion);
  first.marks().note(4 * kExtent, 4 * kExtent + 1);
  first.marks().ready(size - 1, size);  // the last extent is a part of one
  first.settle();
  const DirtyMap before = first.stored();
  first.volume.dirty.mark(9 * kExtent, 9 * kExtent + 1);  // on its way to the file, and not there
  first.marks().note(9 * kExtent, 9 * kExtent + 1);
  first.marks().hand_over();
  first.settle(20);
  check(same(first.stored(), before) && before.is_dirty(size - 1), "what hands a map over writes nothing any more");
  map = first.volume.dirty.sparse();

  Stage second(size, path, pool);
  const bool inherited = second.marks().inherit(map, true).ok() && second.marks().stored() && second.marks().loaded();
  check(inherited && same(second.volume.dirty, first.volume.dirty), "whoever goes on has exactly that map");
  check(second.marks().ready(4 * kExtent, 4 * kExtent + 1) && second.marks().ready(size - 1, size) && !second.marks().ready(20 * kExtent, 20 * kExtent + 1),
        "what is hot in the file is hot, and the rest is not");
  second.settle();
  check(second.stored().is_dirty(9 * kExtent), "what was on its way to the file gets there");
  second.clock.last_sequence = second.clock.durable = 5;
  second.settle(11), second.settle(11), second.flush_device(), second.settle(1);
  second.settle(11), second.flush_device(), second.settle(1);
  check(same(second.stored(), second.volume.dirty), "and in the end the file says what is dirty, and nothing else");

  Stage third(size, path, pool);
  const bool unkept = third.marks().inherit(map, false).ok() && !third.marks().stored() && third.marks().loaded();
  check(unkept && same(third.volume.dirty, first.volume.dirty) && third.marks().ready(20 * kExtent, 20 * kExtent + 1),
        "without a file that was kept the map is in memory only");
  unlink(path.c_str());
  Stage fourth(size, path, pool);
  check(!fourth.marks().inherit(map, true).ok() && !fourth.marks().stored() && fourth.marks().loaded() && same(fourth.volume.dirty, first.volume.dirty),
        "so it is with a file that cannot be read");
  const std::vector<uint64_t> alien{fourth.volume.dirty.words(), 1};
  Stage fifth(size, path, pool);
  check(!fifth.marks().inherit(alien, false).ok() && !fifth.marks().loaded(), "a map of another volume is refused");
}

void failing(const std::string &path, WorkPool &pool) {
  signal(SIGXFSZ, SIG_IGN);
  Stage stage(64 * kExtent, path, pool);
  Marks &marks = stage.marks();
  marks.fill([](const Status &) {});
  stage.settle();
  rlimit before{}, none{4096, 4096};
  getrlimit(RLIMIT_FSIZE, &before);
  none.rlim_max = before.rlim_max;
  setrlimit(RLIMIT_FSIZE, &none);
  marks.ready(kExtent, kExtent + 1);
  stage.turn();
  const bool gone = access(path.c_str(), F_OK) != 0, waits = !marks.ready(kExtent, kExtent + 1);
  stage.hear();
  check(gone && waits && marks.ready(kExtent, kExtent + 1), "a map that cannot be written is removed before the write that waited for it may go on");
  check(stage.events.size() == 1 && stage.events[0].type == "map-failed", "and the deciding half hears of it");
  marks.ready(8 * kExtent, 9 * kExtent);
  Status status;
  marks.fill([&](const Status &outcome) { status = outcome; });
  stage.settle();
  check(!status.ok() && access(path.c_str(), F_OK) != 0, "made again while that lasts, it fails again");
  setrlimit(RLIMIT_FSIZE, &before);
  marks.fill([&](const Status &outcome) { status = outcome; });
  stage.settle();
  check(status.ok() && stage.stored().is_dirty(kExtent) && stage.stored().is_dirty(8 * kExtent) && stage.stored().dirty_bytes() == 2 * kExtent,
        "when there is room again a new one has all of it");
}

// Writes, flushes, acknowledgements, detaches, resynchronisations in any order; jobs end at any time. Killed at any
// moment, what the standby may lack is marked.
void histories(const std::string &path, WorkPool &pool, uint64_t seed) {
  std::mt19937_64 random(seed);
  const uint64_t extents = 24, size = extents * kExtent - 3 * kRegion, regions = size / kRegion;
  Stage stage(size, path, pool);
  Marks &marks = stage.marks();
  struct Written {
    uint64_t sequence = 0;
    bool flushed = true;
  };
  std::map<uint64_t, Written> written;  // region -> its last write
  DirtyMap &dirty = stage.volume.dirty;
  bool filled = false, covered = true;
  const auto judge = [&] {
    if (!filled) return;
    const DirtyMap found = stage.stored();
    for (const auto &[region, write] : written)
      if (write.sequence > stage.clock.durable || !write.flushed) covered &= found.is_dirty(region * kRegion);
    for (uint64_t i = 0; i < dirty.words(); i++) covered &= (dirty.word(i) & ~found.word(i)) == 0;
  };
  marks.fill([&](const Status &status) { filled = status.ok(); });
  for (int step = 0; step < 1500; step++) {
    const uint64_t what = random() % 100, region = random() % regions;
    if (what < 40) {
      const uint64_t start = region * kRegion, end = std::min(size, start + (1 + random() % 3) * kRegion);
      if (marks.ready(start, end)) {
        stage.clock.last_sequence++;
        for (uint64_t at = start; at < end; at += kRegion) written[at / kRegion] = {stage.clock.last_sequence, false};
        if (!stage.clock.streaming) dirty.mark(start, end);
      }
    } else if (what < 50) {
      for (auto &entry : written) entry.second.flushed = true;
      stage.flush_device();
    } else if (what < 65 && stage.clock.streaming) {
      stage.clock.durable += random() % (stage.clock.last_sequence - stage.clock.durable + 1);
    } else if (what < 68) {
      if (stage.clock.streaming)
        for (const auto &[at, write] : written)
          if (write.sequence > stage.clock.durable) dirty.mark(at * kRegion, std::min(size, (at + 1) * kRegion));
      stage.clock.streaming = !stage.clock.streaming;
    } else if (what < 80 && stage.clock.streaming && dirty.any()) {  // a resynchronisation sends a run
      const auto run = dirty.next_run(0, 1 + random() % (8 * kRegion));
      const uint64_t end = std::min(size, (run.end + kRegion - 1) / kRegion * kRegion);
      stage.clock.last_sequence++;
      for (uint64_t at = run.start; at < end; at += kRegion) written[at / kRegion].sequence = stage.clock.last_sequence;
      marks.keep(run.start, end);
      dirty.clear(run.start, end);
    } else if (what < 90) {
      stage.hear();
    } else {
      stage.turn(static_cast<double>(random() % 12));
    }
    judge();
  }
  for (auto &entry : written) entry.second.flushed = true;
  for (int i = 0; i < 4; i++) {
    stage.clock.durable = stage.clock.last_sequence;
    stage.flush_device();
    stage.settle(11);
  }
  stage.flush_device();
  stage.settle(1);
  const bool exact = same(stage.stored(), dirty);
  if (!covered || !exact) printf("# seed %llu: covered %d, exact %d\n", static_cast<unsigned long long>(seed), covered, exact);
  static bool all = true;
  static int count = 0;
  all &= covered && exact;
  if (++count == 20) check(all, "killed at any moment of 20 random histories, whatever the standby may lack is marked, and in the end nothing else is (G4)");
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // time and memory are not ours alone
#else
constexpr bool kSanitized = false;
#endif

long resident_bytes() {
  long pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

void large(const std::string &path, WorkPool &pool) {
  const uint64_t size = 16ull << 40;
  const long before = resident_bytes();
  {
    Stage stage(size, path, pool);
    for (uint64_t i = 0; i < 64; i++) stage.marks().ready(i * (size / 64) + 4096, i * (size / 64) + 8192);
    bool filled = false;
    stage.marks().fill([&](const Status &status) { filled = status.ok(); });
    stage.settle();
    check(filled, "a map of 16 TiB is made");
  }
  const std::clock_t began = std::clock();  // CPU: whatever else the machine is busy with
  Stage stage(size, path, pool);
  uint64_t damaged = 0;
  const bool loaded = stage.marks().load(&damaged).ok();
  const double seconds = static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC;
  const long used = resident_bytes() - before;
  printf("# 16 TiB: %.3f s, %ld MiB\n", seconds, used >> 20);
  check(loaded && (kSanitized || seconds < 1) && stage.volume.dirty.dirty_bytes() == 64 * kExtent, "64 touched places of 16 TiB are 64 hot extents after a crash, known in under a second of CPU");
  check(kSanitized || used <= 64 << 20, "and the map takes at most 64 MiB of memory");
}

}  // namespace

int main() {
  char directory[] = "/tmp/understudy-marks-XXXXXX";
  if (!mkdtemp(directory)) return 1;
  const std::string path = std::string(directory) + "/v.map";
  WorkPool pool(1);
  round_trip(path);
  waits_for_the_disk(path, pool);
  cools(path, pool);
  handed_over(path, pool);
  failing(path, pool);
  for (uint64_t seed = 1; seed <= 20; seed++) histories(path, pool, seed);
  large(path, pool);
  unlink(path.c_str());
  rmdir(directory);
  printf("1..%d\n", tests);
  return failures != 0;
}
