// sources: native/core/*.cc native/wire/*.cc native/log/*.cc native/engine/marks.cc native/engine/spilling.cc  libs: -lgnutls
// The log beyond its memory (engine/spilling.h) when its file refuses or is silent, one case each: a real file, with the
// faults put in front of it, and a clock of our own.
#include "engine/spilling.h"

#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

using namespace understudy;
using namespace understudy::engine;

static int g_tests = 0, g_failures = 0;
static void ok(bool good, const std::string &title) {
  printf("%s %d - %s\n", good ? "ok" : "not ok", ++g_tests, title.c_str());
  if (!good) g_failures++;
}

namespace {
constexpr uint64_t kMiB = 1 << 20, kSecond = 1'000'000'000;
constexpr uint64_t kIncarnation = 7, kSize = 1024 * kMiB;

class FlatDevice final : public Device {
 public:
  FlatDevice() { traits_.size_bytes = kSize; }
  int read(void *, size_t, uint64_t) override { return EIO; }
  int write(const void *, size_t, uint64_t) override { return EIO; }
  int zero(uint64_t, uint64_t, ZeroHow, bool) override { return EIO; }
  int flush() override { return EIO; }
};

enum class Call { kNone, kEmpty, kWrite, kRead, kSync };

// While a fault is on, its call ends with the error, or does not end.
class FaultyFile final : public log::SpillFile {
 public:
  explicit FaultyFile(std::shared_ptr<log::SpillFile> file) : SpillFile(file->path(), file->bytes_max()), file_(std::move(file)) {}
  void set(Call call, int error, bool hangs = false) {
    std::lock_guard lock(mutex_);
    call_ = call, error_ = error, hangs_ = hangs;
    changed_.notify_all();
  }
  void clear() { set(Call::kNone, 0); }
  int empty() override {
    const int error = meets(Call::kEmpty);
    return error ? error : file_->empty();
  }
  int sync() override {
    const int error = meets(Call::kSync);
    return error ? error : file_->sync();
  }
  int write(const uint8_t *data, uint64_t bytes, uint64_t position) override {
    const int error = meets(Call::kWrite);
    return error ? error : file_->write(data, bytes, position);
  }
  int read(uint8_t *data, uint64_t bytes, uint64_t position) override {
    const int error = meets(Call::kRead);
    return error ? error : file_->read(data, bytes, position);
  }

 private:
  int meets(Call call) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return call_ != call || !hangs_; });
    return call_ == call ? error_ : 0;
  }
  const std::shared_ptr<log::SpillFile> file_;
  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  Call call_ = Call::kNone;
  int error_ = 0;
  bool hangs_ = false;
};

// An engine thread's part, and a standby that takes what is in the ring when told to.
class Stage {
 public:
  explicit Stage(const std::string &path)
      : file(std::make_shared<FaultyFile>(log::SpillFile::open(path, 64 * kMiB).value)), page_(CounterPages::instance().take()) {
    volumes_.push_back(std::make_unique<Volume>("v", 0, std::make_unique<FlatDevice>()));
    spilling = std::make_unique<Spilling>(file, volumes_, page_, 8 * kMiB);
    spilling->bind({[this](std::function<void()> task) {
                      std::lock_guard lock(mutex_);
                      posted_.push_back(std::move(task));
                      arrived_.notify_all();
                    },
                    [this] { detach(); },
                    [this](Event event) { said.push_back(std::get<std::string>(event.fields[1].second)); }});
    attach();
    settle();
  }
  ~Stage() {
    file->clear();
    settle();
    spilling.reset();
    CounterPages::instance().give_back(page_);
  }

  void attach() {
    log_ = log::ReplicationLog::create(4 * kMiB).value;
    spilling->begin(log_);
    position_ = 0;
    chain_.last = {kIncarnation, sequence_};
  }
  // As Capture: what was spilled is dirty, then the log is given up.
  void detach() {
    lost++;
    spilling->mark_dirty();
    spilling->end();
    log_.reset();
  }
  // One turn of the engine: what is posted, then (after requests) the spilling's.
  void turn() {
    commands();
    spilling->turn(now_ns, false);
    spilling->show();
  }
  void commands() {
    std::deque<std::function<void()>> tasks;
    {
      std::lock_guard lock(mutex_);
      tasks.swap(posted_);
    }
    for (const auto &task : tasks) task();
  }
  // Turns until no job is under way; jobs must not hang.
  void settle() {
    for (turn(); spilling->working(); turn()) await_job();
  }
  void await_job() {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return !posted_.empty(); });
  }
  // A record of 1 MiB, at the next MiB of the volume. False: no room.
  bool write() {
    std::vector<uint8_t> payload(kMiB, static_cast<uint8_t>(sequence_ + 1));
    if (!log_) return false;
    wire::RecordHeader header{};
    header.magic = wire::kRecordMagic;
    header.type = wire::RecordType::kWrite;
    header.incarnation = kIncarnation;
    header.sequence = sequence_ + 1;
    header.predecessor = sequence_;
    header.offset = sequence_ % 1024 * kMiB;
    header.length = header.payload_bytes = kMiB;
    const uint64_t bytes = log::ReplicationLog::record_bytes(header);
    if (!spilling->active() && log_->room(bytes)) log_->append(header, payload.data());
    else if (spilling->room(bytes)) spilling->append(header, payload.data());
    else return false;
    sequence_++;
    return true;
  }
  // So many records, as fast as the file takes them. How many found room.
  int spill(int records) {
    for (int done = 0; done < records; done++) {
      for (int tries = 0; !write(); tries++) {
        if (tries == 3 || !log_) return done;
        settle();
      }
    }
    return records;
  }
  // Takes all that comes into the ring; the sequence of the last good record that followed.
  uint64_t drain() {
    for (bool moved = true; moved && log_;) {
      moved = false;
      for (; log_ && position_ < log_->head(); moved = true) {
        const wire::RecordHeader header = log_->header_at(position_);
        const uint8_t *payload = log_->at(position_) + sizeof header;
        if (wire::check_header(header) != wire::RecordFault::kNone || !chain_.follows(header)) return 0;
        if (wire::check_payload(header, payload) != wire::RecordFault::kNone) return 0;
        chain_.advance(header);
        position_ += log::ReplicationLog::record_bytes(header);
        log_->release(position_);
        settle();
      }
      const uint64_t before = log_ ? log_->head() : 0;
      settle();
      moved |= log_ && log_->head() != before;
    }
    return chain_.last.sequence;
  }
  bool dirty(uint64_t from, uint64_t to) const {  // records
    for (uint64_t record = from; record < to; record++)
      if (!volumes_[0]->dirty.is_dirty(record * kMiB) || !volumes_[0]->dirty.is_dirty((record + 1) * kMiB - 1)) return false;
    return true;
  }
  int error() const { return static_cast<int>(page_.get(kGroup_log_file_errno)); }
  uint64_t written() const { return sequence_; }

  const std::shared_ptr<FaultyFile> file;
  std::unique_ptr<Spilling> spilling;
  uint64_t now_ns = kSecond;
  int lost = 0;
  std::vector<std::string> said;

 private:
  std::vector<std::unique_ptr<Volume>> volumes_;
  CounterPage page_;
  std::shared_ptr<log::ReplicationLog> log_;
  uint64_t sequence_ = 0, position_ = 0;
  wire::Chain chain_;
  std::mutex mutex_;  // of posted_
  std::condition_variable arrived_;
  std::deque<std::function<void()>> posted_;
};

// The fault goes on for one more try, is over, and the file is used again.
void comes_back(Stage &stage, const std::string &name, bool repeats) {
  const uint64_t sequence = stage.written();
  stage.attach();
  ok(stage.spill(8) == 3 && !stage.spilling->active(), name + ": meanwhile the log is in memory only");
  stage.now_ns += 2 * kSecond;
  stage.settle();
  ok(stage.error() != 0, name + ": it is not tried again at once");
  if (repeats) {
    stage.now_ns += 4 * kSecond;
    stage.settle();
    ok(stage.error() != 0 && stage.said.size() == 1, name + ": one try more that fails is not told again");
  }
  stage.file->clear();
  stage.now_ns += 6 * kSecond;
  stage.settle();
  ok(stage.error() == 0 && stage.said.size() == 2 && stage.said[1].find("can be used again") != std::string::npos,
     name + ": once it is over the file is used again, unaided");
  ok(stage.spill(20) == 20 && stage.spilling->active() && stage.drain() == stage.written() && stage.written() == sequence + 23,
     name + ": and what goes through it comes back whole and in order");
  ok(stage.lost == 1 && !stage.spilling->active(), name + ": nothing else was given up");
}

void refuses(const std::string &path, const std::string &name, Call call, int error, const std::string &says) {
  Stage stage(path);
  ok(stage.spill(9) == 9 && stage.spilling->active() && stage.lost == 0, name + ": an overflow is in the file first");
  stage.file->set(call, error);
  stage.spill(30);
  if (call == Call::kRead) stage.drain();
  ok(stage.lost == 1 && stage.error() == error, name + ": the log is given up, once, and the error is shown");
  ok(stage.dirty(4, stage.written()), name + ": every range that passed through the file is dirty (G4)");
  ok(stage.said.size() == 1 && stage.said[0].find(says) != std::string::npos, name + ": the log of the daemon says it");
  comes_back(stage, name, true);
}

// Once a standby was away, clients that wrote faster than the file's disk could find the buffer full in the moment
// between two jobs; the log was given up as full, although the file had room.
void between_jobs(const std::string &path) {
  Stage stage(path);
  while (stage.write() || !stage.spilling->active()) continue;  // the ring, then the buffer
  stage.turn();
  stage.await_job();
  stage.commands();
  ok(!stage.spilling->working() && stage.write(), "when a job has ended there is room");
  while (stage.write()) continue;
  ok(stage.spilling->busy() && stage.spilling->busy_since_ns(stage.now_ns) == stage.now_ns,
     "when that is used up before the next job begins, the log is not full: its disk is to be waited for");
  ok(stage.spill(40) == 40 && stage.drain() == stage.written() && stage.lost == 0, "and it goes on");
}

void silent(const std::string &path) {
  const std::string name = "a write that does not end";
  Stage stage(path);
  ok(stage.spill(5) == 5, name + ": there is an overflow");
  stage.file->set(Call::kWrite, 0, true);
  for (int record = 0; record < 4; record++) stage.write();
  stage.turn();
  ok(stage.spilling->busy(), name + ": clients that need room learn that its disk has to answer");
  stage.now_ns += 29 * kSecond;
  stage.turn();
  ok(stage.lost == 0 && stage.spilling->busy() && stage.spilling->wait_limit_ms(stage.now_ns) <= 1001,
     name + ": when nobody waits for it, it has 30 seconds");
  stage.now_ns += 2 * kSecond;
  stage.turn();
  ok(stage.lost == 1 && stage.error() == ETIMEDOUT && !stage.spilling->busy() && stage.spilling->working(),
     name + ": then the log is given up, though the call is still under way");
  ok(stage.dirty(4, stage.written()), name + ": every range that passed through the file is dirty (G4)");
  stage.now_ns += 2 * kSecond;
  stage.file->clear();  // it ends well after all; what it wrote belongs to a log that is gone
  stage.settle();
  ok(stage.lost == 1 && stage.error() == ETIMEDOUT, name + ": its late answer changes nothing");
  comes_back(stage, name, false);
}

// The next log wrote where the job of the one before was reading. What that read was of no use to anybody any more, but
// two threads were at one byte.
void given_up_meanwhile(const std::string &path) {
  const std::string name = "a log that is given up while a job reads the buffer";
  Stage stage(path);
  stage.spill(5);
  stage.file->set(Call::kWrite, 0, true);
  for (int record = 0; record < 4; record++) stage.write();
  stage.turn();
  stage.detach();
  stage.attach();
  while (stage.write()) continue;
  ok(!stage.spilling->active() && stage.spilling->busy(),
     name + ": the next one finds no room in it, and learns that the disk has to answer");
  stage.file->clear();
  stage.settle();
  ok(stage.spill(20) == 20 && stage.drain() == stage.written() && stage.lost == 1, name + ": when it has, there is room");
}

void asked_to_give_up(const std::string &path) {
  const std::string name = "a client that waited for its disk for the peer timeout";
  Stage stage(path);
  stage.spill(5);
  stage.file->set(Call::kWrite, EIO, true);
  for (int record = 0; record < 4; record++) stage.write();
  stage.turn();
  stage.spilling->give_up();
  stage.turn();
  ok(stage.lost == 1 && stage.error() == ETIMEDOUT && stage.dirty(4, stage.written()), name + ": the dirty map takes its place");
  stage.now_ns += 60 * kSecond;
  stage.turn();
  ok(stage.spilling->working() && stage.error() == ETIMEDOUT, name + ": so it stays while that call is under way");
  stage.file->set(Call::kWrite, EIO);  // badly
  stage.settle();
  ok(stage.lost == 1 && stage.said.size() == 1, name + ": that the call fails in the end is nothing new");
}
}  // namespace

int main() {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  alarm(100);  // what waits for ever
  char folder[] = "/tmp/us-spilling-XXXXXX";
  if (!mkdtemp(folder)) return perror("mkdtemp"), 1;
  const std::string path = std::string(folder) + "/log";
  {
    Stage stage(path);
    ok(stage.spill(40) == 40 && stage.drain() == 40 && stage.lost == 0 && stage.said.empty(),
       "an overflow goes through the file and comes back whole and in order");
  }
  refuses(path, "a write fails (EIO)", Call::kWrite, EIO, "write");
  refuses(path, "a write finds no space (ENOSPC)", Call::kWrite, ENOSPC, "(ENOSPC)");
  refuses(path, "fdatasync fails (EIO)", Call::kSync, EIO, "write");
  refuses(path, "a read fails (EIO)", Call::kRead, EIO, "read");
  between_jobs(path);
  silent(path);
  given_up_meanwhile(path);
  asked_to_give_up(path);
  unlink(path.c_str());
  rmdir(folder);
  printf("1..%d\n", g_tests);
  return g_failures ? 1 : 0;
}
