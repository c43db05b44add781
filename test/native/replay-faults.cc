// sources: native/replay/*.cc native/link/codec.cc native/engine/device.cc native/engine/direct-file.cc native/wire/record.cc native/core/core.cc native/core/memory-guard.cc native/core/crc32c.cc native/core/mirrored-ring.cc  libs: -lzstd -llz4 -lgnutls
// Each fault of the standby's disk at each place (docs/faults.md): what is acknowledged meanwhile, and that it goes on
// by itself. Each case is a process of its own; all run at once, as most of their time is the standby's own pauses.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "core/fd.h"
#include "replay-support.h"
#include "replay/segment.h"
#include "replay/watermark-file.h"

namespace {
enum class Fault { kNone, kNoSpace, kBadWrite, kShortWrite, kBadSync, kBadRead, kSlow, kSlowSync, kStale };
std::atomic<Fault> fault{Fault::kNone};
std::atomic<int> hits{0};
const char *place = "";  // what the names of the files that fail end in

bool strikes(Fault kind, int fd) {
  if (fault.load() != kind) return false;
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  const auto wanted = static_cast<ssize_t>(strlen(place));
  const bool hit = length > wanted && memcmp(path + length - wanted, place, static_cast<size_t>(wanted)) == 0;
  hits += hit;
  return hit;
}
int fails(int error) {
  errno = error;
  return -1;
}
}  // namespace

// Stand in front of the C library's.
extern "C" int fdatasync(int fd) {
  if (strikes(Fault::kSlowSync, fd)) usleep(1'200'000);
  return strikes(Fault::kBadSync, fd) ? fails(EIO) : static_cast<int>(syscall(SYS_fdatasync, fd));
}
extern "C" ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset) {
  if (strikes(Fault::kNoSpace, fd)) {  // as a full disk does: a part of it finds room first
    if (bytes > 4096) return syscall(SYS_pwrite64, fd, data, size_t{4096}, offset);
    return fails(ENOSPC);
  }
  if (strikes(Fault::kBadWrite, fd)) return fails(EIO);
  if (strikes(Fault::kSlow, fd) && hits % 8 == 1) usleep(5000);
  if (strikes(Fault::kSlowSync, fd)) usleep(5000);
  if (bytes > 1 && strikes(Fault::kShortWrite, fd)) bytes = (bytes + 1) / 2;
  return syscall(SYS_pwrite64, fd, data, bytes, offset);
}
extern "C" ssize_t pread(int fd, void *data, size_t bytes, off_t offset) {
  return strikes(Fault::kBadRead, fd) ? fails(EIO) : syscall(SYS_pread64, fd, data, bytes, offset);
}

// What the disk has of the file at `place`, while the page cache shows more: it comes up when the cache is dropped.
static std::string medium;
extern "C" int posix_fadvise(int fd, off_t offset, off_t bytes, int advice) {
  if (advice == POSIX_FADV_DONTNEED && !medium.empty() && strikes(Fault::kStale, fd)) {
    (void)!ftruncate(fd, 0);
    (void)!syscall(SYS_pwrite64, fd, medium.data(), medium.size(), 0);
  }
  return static_cast<int>(-syscall(SYS_fadvise64, fd, offset, bytes, advice));
}

using namespace replay_test;

namespace {
constexpr uint64_t kSize = 1u << 20;

struct Stage {
  explicit Stage(const char *where) {
    place = where;
    standby = std::make_unique<Standby>(options());
  }
  ReplicaOptions options() const { return options_for(scratch.path, kSize); }
  void begin(Fault kind) {
    hits = 0;
    fault = kind;
  }
  bool write_some(int count) {
    for (int i = 0; i < count; i++) {
      const Record record = master.fill(static_cast<uint64_t>(next * 37 % 100) * 10'000, 20'000, static_cast<uint8_t>(next + 1));
      next++;
      apply_to(model, record);
      if (!EXPECT(standby->send(record).ok())) return false;
    }
    return true;
  }
  bool ready() { return EXPECT(standby->make_cut(master)) && write_some(5) && EXPECT(standby->drain()); }
  // The fault is over: all of it arrives, unaided, and it is there after another start.
  bool recovers() {
    fault = Fault::kNone;
    if (!EXPECT(standby->durable(master.sequence)) || !EXPECT(standby->applied(master.sequence)) ||
        !EXPECT(standby->drain()) || !EXPECT(standby->state().last_errno == 0) ||
        !EXPECT(view_bytes(*standby) == model))
      return false;
    standby.reset();
    standby = std::make_unique<Standby>(options());
    return EXPECT(standby->status.ok()) && EXPECT(standby->state().durable_sequence == master.sequence) &&
           EXPECT(standby->applied(master.sequence)) && EXPECT(standby->drain()) &&
           EXPECT(view_bytes(*standby) == model);
  }

  Scratch scratch;
  Master master{1};
  Bytes model = Bytes(kSize);
  int next = 0;
  std::unique_ptr<Standby> standby;
};

// It stops acknowledging, and what it says names the error.
bool stops(const char *where, Fault kind, int error) {
  Stage stage(where);
  if (!stage.ready()) return false;
  if (kind == Fault::kBadRead) {  // what is still in memory is not read back: more of it, that may not be applied yet
    stage.master.commits = false;
    if (!stage.write_some(1000) || !EXPECT(stage.standby->durable(stage.master.sequence))) return false;
    stage.master.commits = true;
  }
  stage.begin(kind);
  bool good = stage.write_some(5) &&
              EXPECT(wait_until([&] { return stage.standby->state().last_errno == static_cast<uint64_t>(error); }));
  uint64_t acknowledged;
  do {  // what was being synced in that moment may still become durable
    acknowledged = stage.standby->state().durable_sequence;
    usleep(200'000);
  } while (stage.standby->state().durable_sequence != acknowledged);
  good = good && stage.write_some(20);
  usleep(1'300'000);  // longer than its own pause before it tries again
  good = good && EXPECT(stage.standby->state().durable_sequence == acknowledged) &&
         EXPECT(stage.standby->state().received_sequence == stage.master.sequence) &&
         EXPECT(stage.standby->collector.message_count() > 0) && EXPECT(hits > 0);
  return good && stage.recovers();
}

// The record where the applier stands is not committed yet, and what commits it has not come: it is the first to be read
// again when the fault is over, and is not applied then either.
bool unreadable_before_its_commit() {
  Stage stage(".seg");
  if (!stage.ready()) return false;
  stage.master.commits = false;
  stage.begin(Fault::kBadRead);
  const auto is_hit = [&] { return stage.standby->state().last_errno == EIO; };
  bool good = true;
  for (int i = 0; i < 1000 && good && !is_hit(); i++) {
    good = stage.write_some(1);
    usleep(2000);  // a turn of the applier for each, from memory or from the segment
  }
  good = good && EXPECT(is_hit()) && stage.write_some(5);
  stage.begin(Fault::kNone);
  good = good && EXPECT(stage.standby->durable(stage.master.sequence));
  stage.master.commits = true;
  return good && stage.write_some(5) && stage.recovers();
}

bool short_write(const char *where) {
  Stage stage(where);
  if (!stage.ready()) return false;
  stage.begin(Fault::kShortWrite);
  return stage.write_some(20) && EXPECT(stage.standby->durable(stage.master.sequence)) &&
         EXPECT(stage.standby->drain()) && EXPECT(hits > 0) && EXPECT(stage.standby->collector.message_count() == 0) &&
         stage.recovers();
}

bool killed_in_the_middle(const char *where, Fault kind) {
  struct Left {
    uint64_t acknowledged;
    char path[256];
  };
  void *shared = mmap(nullptr, sizeof(Left), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) abort();
  auto *left = static_cast<Left *>(shared);
  const bool killed = in_doomed_child([&] {
    auto *stage = new Stage(where);  // for ever: nothing of it is to end in order
    if (!stage->ready()) return false;
    stage->begin(kind);
    if (!stage->write_some(20) || !EXPECT(wait_until([&] { return stage->standby->state().last_errno != 0; }))) return false;
    left->acknowledged = stage->standby->state().durable_sequence;
    return snprintf(left->path, sizeof left->path, "%s", stage->scratch.path.c_str()) > 0;
  });
  if (!killed) return false;
  bool good;
  {
    Standby again(options_for(left->path, kSize));
    good = EXPECT(again.status.ok()) && EXPECT(again.state().durable_sequence >= left->acknowledged) && EXPECT(again.drain());
  }
  remove_tree(left->path);
  return good;
}

bool unreadable_image() {
  Stage stage("/image");
  if (!stage.ready()) return false;
  stage.begin(Fault::kBadRead);
  wire::VerifyPayload payload{};
  payload.id = 7;
  Bytes bytes(sizeof payload);
  memcpy(bytes.data(), &payload, sizeof payload);
  Collector &collector = stage.standby->collector;
  bool good = EXPECT(stage.standby->send(stage.master.make(RecordType::kVerify, 0, 65536, bytes)).ok()) &&
              stage.write_some(3) && EXPECT(stage.standby->applied(stage.master.sequence));
  std::lock_guard lock(collector.mutex);
  good = good && EXPECT(collector.results.size() == 1) && EXPECT(collector.results[0].equal == 0) &&
         EXPECT(collector.results[0].error == EIO) && EXPECT(collector.messages.empty());
  fault = Fault::kNone;
  return good;
}

bool unhashable_image() {
  Stage stage("/image");
  if (!stage.ready()) return false;
  stage.begin(Fault::kBadRead);
  const Record begin = stage.master.begin();
  wire::HashRequestBody request{};
  request.begin_sequence = begin.header.sequence;
  request.count = 2;
  bool good = EXPECT(stage.standby->send(begin).ok()) && EXPECT(stage.standby->replica->hash(request).ok()) &&
              EXPECT(wait_until([&] { return stage.standby->collector.hash_count() == 1; }));
  fault = Fault::kNone;
  std::lock_guard lock(stage.standby->collector.mutex);
  for (const wire::HashEntry &entry : stage.standby->collector.hashes[0].second)
    good = good && EXPECT(entry.flags & wire::kHashUnknown);
  return good;
}

bool unreadable_at_start(const char *where) {
  Stage stage(where);
  if (!stage.ready() || !stage.write_some(5)) return false;
  if (!EXPECT(stage.standby->drain()) || !stage.write_some(5) || !EXPECT(stage.standby->drain())) return false;
  stage.standby.reset();
  stage.begin(Fault::kBadRead);
  {
    Standby refused(stage.options());
    if (!EXPECT(!refused.status.ok()) || !EXPECT(refused.status.error == EIO)) return false;
  }
  fault = Fault::kNone;
  stage.standby = std::make_unique<Standby>(stage.options());
  return stage.recovers();
}

// Only space helps: to wait thirty seconds for it would be in vain.
bool torn_image_refuses_views() {
  Stage stage("/image");
  if (!stage.ready()) return false;
  stage.begin(Fault::kNoSpace);
  if (!stage.write_some(3) || !EXPECT(wait_until([&] { return stage.standby->state().last_errno == ENOSPC; }))) return false;
  const auto view = stage.standby->replica->view(0, false);
  return EXPECT(!view.ok()) && EXPECT(view.status.error == ENOSPC) &&
         EXPECT(view.status.message.find("only in part") != std::string::npos) && stage.recovers();
}

// It was synced a second after the last sync: with one that took longer than that, hardly anything else was done.
bool slow_syncs() {
  Scratch scratch;
  Master master(7);
  place = "/image";
  Standby standby(options_for(scratch.path, kSize));
  bool good = EXPECT(standby.make_cut(master));
  fault = Fault::kSlowSync;
  const uint64_t before = standby.state().image_syncs.load(), end = monotonic_ns() + 5'000'000'000;
  for (int64_t ahead = 0; good && monotonic_ns() < end; usleep(100)) {  // there is always something to apply
    ahead -= static_cast<int64_t>(standby.replica->take_consumed());
    for (; good && ahead < (8 << 20); ahead += 65536) good = EXPECT(standby.send(master.fill(0, 65536, 1)).ok());
  }
  const uint64_t syncs = standby.state().image_syncs.load() - before;
  fault = Fault::kNone;
  return good && EXPECT(syncs == 1) && EXPECT(standby.drain());
}

// The applier takes what it can from memory and the rest from segments, while the link goes round and round the ring.
bool slow_image() {
  Scratch scratch;
  std::mt19937_64 random(5);
  Master master(7);
  Bytes model(kSize);
  ReplicaOptions options = options_for(scratch.path, kSize);
  options.ring_bytes = 1u << 20;
  options.segment_bytes = 2u << 20;
  place = "/image";
  Standby standby(options);
  bool good = EXPECT(standby.make_cut(master));
  // The link's: what has not come back as credit is not sent. Room for the markers at the end of each round beside it.
  size_t window = 600'000 - 2 * sizeof(RecordHeader);
  for (int i = 0; good && i < 40; i++) {
    if (i % 2) good = good && EXPECT(standby.applied(master.sequence));
    hits = 0;
    fault = i % 2 ? Fault::kSlow : Fault::kNone;
    master.commits = i % 2;  // or the applier falls behind, and finds less of it in memory the longer that takes
    for (uint64_t left = 1 + random() % 1'500'000; good && left;) {
      const uint64_t bytes = std::min<uint64_t>(left, 1 + random() % 40'000);
      const Record record = master.fill(random() % (kSize - bytes), bytes, static_cast<uint8_t>(random()));
      apply_to(model, record);
      const Bytes sent = record.wire();
      good = EXPECT(wait_until([&] { return (window += standby.replica->take_consumed()) >= sent.size(); })) &&
             EXPECT(standby.replica->receive(sent).ok());
      window -= sent.size();
      left -= bytes;
    }
    master.commits = true;
    const Record last = master.commit(master.sequence);
    window -= last.wire().size();
    good = good && EXPECT(standby.send(last).ok());
  }
  return good && EXPECT(standby.drain()) && EXPECT(standby.state().applied_sequence == master.sequence) &&
         EXPECT(view_bytes(standby) == model);
}

std::string content_of(const std::string &path) {
  std::string content(64u << 10, 0);
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  content.resize(static_cast<size_t>(std::max<ssize_t>(0, pread(fd.get(), content.data(), content.size(), 0))));
  return content;
}

// 1. a slot is written, and its fdatasync fails 2. the process is killed 3. the next one must not go on from that slot:
// it is in the page cache only, marked clean. (The log was damaged once power was lost: what was below it had gone.)
bool unsynced_watermark_is_not_believed() {
  Scratch scratch;
  place = "/watermark";
  const auto at = [](uint64_t sequence) {
    Watermark mark;
    mark.applied = {1, sequence};
    return mark;
  };
  {
    auto file = WatermarkFile::open(scratch.path);
    if (!EXPECT(file.ok()) || !EXPECT(file.value.load().ok()) || !EXPECT(file.value.store(at(7)) == 0)) return false;
    medium = content_of(scratch.path + "/watermark");
    fault = Fault::kBadSync;
    if (!EXPECT(file.value.store(at(8)) == EIO)) return false;
  }
  fault = Fault::kStale;
  auto file = WatermarkFile::open(scratch.path);
  const auto found = file.value.load();
  return EXPECT(found.ok() && found.value) && EXPECT(found.value->applied.sequence == 7) && EXPECT(hits > 0);
}

bool unsynced_records_are_not_believed() {
  Scratch scratch;
  place = ".seg";
  {
    auto segment = Segment::create(scratch.path, 1, 0, {}, 0);
    if (!EXPECT(segment.ok()) || !EXPECT(segment.value->append("good", 4) == 0)) return false;
    medium = content_of(Segment::path_of(scratch.path, 1));
    fault = Fault::kBadSync;
    if (!EXPECT(segment.value->append("lost", 4) == EIO)) return false;
  }
  fault = Fault::kStale;
  auto segment = Segment::open(scratch.path, 1);
  char data[8] = {};
  size_t done = 0;
  return EXPECT(segment.ok()) && EXPECT(segment.value->read(data, sizeof data, 0, &done) == 0) &&
         EXPECT(memcmp(data, "good", 4) == 0) && EXPECT(done == 4 || memcmp(data + 4, "lost", 4) != 0);
}

struct Case {
  std::string title;
  std::function<bool()> body;
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  const std::pair<const char *, const char *> places[] = {{".seg", "segments"}, {"/image", "image"}, {"/watermark", "watermark file"}};
  for (const auto &[where, name] : places) {
    const std::string of = std::string("the ") + name + ": ";
    cases.push_back({of + "ENOSPC stops the acknowledgements, loses none, and ends unaided", [=] { return stops(where, Fault::kNoSpace, ENOSPC); }});
    cases.push_back({of + "EIO of a write stops the acknowledgements, loses none, and ends unaided", [=] { return stops(where, Fault::kBadWrite, EIO); }});
    cases.push_back({of + "a failed fdatasync stops the acknowledgements, is not believed, and ends unaided", [=] { return stops(where, Fault::kBadSync, EIO); }});
    cases.push_back({of + "a short write goes on where it stopped", [=] { return short_write(where); }});
    cases.push_back({of + "what was acknowledged before a fault is there after a kill in the middle of it", [=] { return killed_in_the_middle(where, Fault::kBadSync); }});
  }
  cases.push_back({"the segments: one that cannot be read back stops the acknowledgements, loses none, and ends unaided", [] { return stops(".seg", Fault::kBadRead, EIO); }});
  cases.push_back({"the segments: one that cannot be read back before its records are committed: the same", unreadable_before_its_commit});
  cases.push_back({"the image: a slow one gets the same records from memory as from segments, and holds no memory for long", slow_image});
  cases.push_back({"the image: while there is work, one that is slow to sync is synced a quarter of the time at most", slow_syncs});
  cases.push_back({"the segments: what a failed fdatasync left in the page cache is not believed by the next process", unsynced_records_are_not_believed});
  cases.push_back({"the watermark file: what a failed fdatasync left in the page cache is not believed by the next process", unsynced_watermark_is_not_believed});
  cases.push_back({"the watermark file: unreadable at the start, it is refused and left as it is", [] { return unreadable_at_start("/watermark"); }});
  cases.push_back({"the image: what cannot be read is told by a verify and holds nothing up", unreadable_image});
  cases.push_back({"the image: what cannot be read has no hash, so that the master sends it", unhashable_image});
  cases.push_back({"the image: a record that is in it only in part ends an export at once, with the reason", torn_image_refuses_views});
  return cases;
}

}  // namespace

int main() {
  const std::vector<Case> cases = all_cases();
  std::vector<pid_t> children;
  for (const Case &one : cases) {
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
      const bool good = one.body();
      fflush(stdout);
      _exit(good ? 0 : 1);
    }
    children.push_back(child);
  }
  for (size_t i = 0; i < cases.size(); i++) {
    int status = 0;
    waitpid(children[i], &status, 0);
    ok(WIFEXITED(status) && WEXITSTATUS(status) == 0, cases[i].title);
  }
  return finish();
}
