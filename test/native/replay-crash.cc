// sources: native/replay/*.cc native/link/codec.cc native/engine/device.cc native/engine/direct-file.cc native/wire/record.cc native/core/core.cc native/core/memory-guard.cc native/core/crc32c.cc native/core/mirrored-ring.cc  libs: -lzstd -llz4 -lgnutls
// What goes wrong under a replica: kill -9 at any moment, a full disk, a sync that fails.
#include <sys/mount.h>
#include <sys/syscall.h>

#include "replay-support.h"

namespace {
std::atomic<int> failing_syncs{0};     // so many more fdatasyncs fail ...
std::atomic<bool> fails_image{false};  // ... of the image, or else of segments

bool is_image(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  return length > 6 && memcmp(path + length - 6, "/image", 6) == 0;
}
bool is_segment(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  return length > 4 && memcmp(path + length - 4, ".seg", 4) == 0;
}
}  // namespace

// Stands in front of the C library's.
extern "C" int fdatasync(int fd) {
  if (failing_syncs > 0 && (fails_image ? is_image(fd) : is_segment(fd))) {
    failing_syncs--;
    errno = EIO;
    return -1;
  }
  return static_cast<int>(syscall(SYS_fdatasync, fd));
}

using namespace replay_test;

namespace {
constexpr uint64_t kSize = 1u << 20;

// A child that takes records from a pipe and tells after each turn what is durable.
[[noreturn]] void run_child(const ReplicaOptions &options, int records, int acks) {
  Standby &standby = *new Standby(options);
  uint64_t told = 0;
  Bytes piece(100000);
  fcntl(records, F_SETFL, O_NONBLOCK);
  size_t window = 16u << 20;  // as the link's flow control: more would be refused
  for (;;) {
    const ssize_t n = read(records, piece.data(), std::min(piece.size(), window));
    if (n > 0) {
      window -= static_cast<size_t>(n);
      const Status status = standby.replica->receive({piece.data(), static_cast<size_t>(n)});
      if (!status.ok()) fprintf(stderr, "# %s\n", status.message.c_str()), _exit(3);
    }
    window += standby.replica->take_consumed();
    const uint64_t durable = standby.replica->watermarks().durable.sequence;
    if (durable != told && write(acks, &durable, sizeof durable) == sizeof durable) told = durable;
    if (n <= 0) usleep(50);
  }
}

struct History {  // all records by wire order, and where the committed field stood
  std::vector<Record> records;
  Bytes model_at(uint64_t sequence) const {
    Bytes image(kSize);
    std::map<uint64_t, bool> voided;
    for (const Record &r : records)
      if (r.header.type == RecordType::kVoid) voided[r.header.offset] = true;
    for (const Record &r : records)
      if (wire::is_sequenced(r.header.type) && r.header.sequence <= sequence && !voided[r.header.sequence])
        apply_to(image, r);
    return image;
  }
};

void add_random(History &history, Master &master, std::mt19937_64 &random) {
  master.commits = false;
  const uint64_t length = 1 + random() % 9000, offset = random() % (kSize - length);
  history.records.push_back(random() % 7 ? master.fill(offset, length, static_cast<uint8_t>(random()))
                                         : master.make(RecordType::kTrim, offset, length));
  if (random() % 3 == 0) return;  // the outcome comes later
  for (uint64_t s = master.committed + 1; s <= master.sequence; s++)
    if (random() % 20 == 0) history.records.push_back(master.void_of(s));
  history.records.push_back(master.commit(master.sequence));
}

void test_random_kills() {
  Scratch scratch;
  std::mt19937_64 random(11);
  Master master(1);
  History history;
  history.records = {master.begin(true), master.step()};
  ReplicaOptions options = options_for(scratch.path, kSize);
  options.segment_bytes = 400'000;
  size_t next = 0;
  uint64_t acked = 0;
  bool good = true;
  int round = 0;
  for (; good && round < 25; round++) {
    int records[2], acks[2];
    if (pipe(records) || pipe(acks)) abort();
    fcntl(acks[0], F_SETFL, O_NONBLOCK);
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
      close(records[1]);
      run_child(options, records[0], acks[1]);
    }
    close(records[0]);
    const uint64_t end = monotonic_ns() + random() % 120'000'000;
    while (monotonic_ns() < end) {
      while (history.records.size() <= next) add_random(history, master, random);
      const Bytes bytes = history.records[next].wire();
      if (write(records[1], bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) break;
      next++;
      uint64_t told;
      while (read(acks[0], &told, sizeof told) == sizeof told) acked = std::max(acked, told);
    }
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    if (!(good = EXPECT(WIFSIGNALED(status)))) break;  // it did not end by itself before
    uint64_t told;
    while (read(acks[0], &told, sizeof told) == sizeof told) acked = std::max(acked, told);
    close(records[1]), close(acks[0]), close(acks[1]);

    Standby standby(options);
    good = EXPECT(standby.status.ok());
    if (!good) break;
    const wire::Position at = standby.replica->start_session();
    good = EXPECT(at.sequence >= acked);
    // A marker is repeated or not: the master sends on from the record after the position.
    next = 0;
    while (at.sequence && next < history.records.size() && history.records[next].header.sequence <= at.sequence) next++;
    good = good && EXPECT(standby.drain());
    const uint64_t applied = standby.state().applied_sequence;
    const uint64_t committed = standby.state().committed_sequence;
    good = good && EXPECT(applied == committed) && EXPECT(committed <= at.sequence);
    if (standby.phase() == ReplicaPhase::kCut) good = good && EXPECT(view_bytes(standby) == history.model_at(applied));
    // Markers of the last record that were lost with the ring come again, as a master's do.
    const auto is_news = [&](const RecordHeader &header) {
      return header.type == RecordType::kVoid     ? header.offset > committed
             : header.type == RecordType::kCommit ? header.committed > committed
                                                  : false;
    };
    while (next > 0 && is_news(history.records[next - 1].header)) next--;
  }
  printf("# %d kills, %zu records, %lu acknowledged\n", round, next, acked);
  ok(good && acked > 100, "killed at any moment it restarts from what it acknowledged or later, and shows a prefix (G2, G4)");
}

void test_failed_sync() {
  Scratch scratch;
  Master master(1);
  Bytes model(kSize);
  Standby standby(options_for(scratch.path, kSize));
  bool good = EXPECT(standby.make_cut(master)) && EXPECT(standby.drain());
  failing_syncs = 1;
  Record lost = master.fill(0, 5000, 1);
  apply_to(model, lost);
  good = good && EXPECT(standby.send(lost).ok());
  good = good && EXPECT(wait_until([&] { return standby.state().last_errno == EIO; })) &&
         EXPECT(standby.state().durable_sequence == 2);
  const size_t before = list_files(scratch.path + "/segments").size();
  good = good && EXPECT(standby.durable(3)) && EXPECT(standby.applied(3)) && EXPECT(standby.state().last_errno == 0);
  const auto segments = list_files(scratch.path + "/segments");
  good = good && EXPECT(!segments.empty()) && EXPECT(before <= segments.size()) &&
         EXPECT(standby.collector.message_count() == 1);
  ok(good && EXPECT(view_bytes(standby) == model),
     "a segment whose fdatasync failed is abandoned, nothing is acknowledged by it, and a new one takes the records");

  fails_image = true;
  failing_syncs = 2;
  for (int i = 0; i < 50; i++) {
    Record record = master.fill(1000u * static_cast<unsigned>(i), 3000, static_cast<uint8_t>(i + 2));
    apply_to(model, record);
    good = good && standby.send(record).ok();
  }
  good = good && EXPECT(wait_until([&] { return failing_syncs == 0; })) &&
         EXPECT(standby.state().last_errno == EIO) && EXPECT(standby.replica->view(0, false).status.error == EAGAIN);
  good = good && EXPECT(standby.drain()) && EXPECT(standby.state().last_errno == 0);
  ok(good && EXPECT(view_bytes(standby) == model),
     "after a failed image fdatasync all since the last good one is written again, and no view is given meanwhile");
}

// A step whose last flush fails must not count as done, nor be stuck.
void test_failed_sync_at_step() {
  Scratch scratch;
  Master master(1);
  Standby standby(options_for(scratch.path, kSize));
  bool good = EXPECT(standby.make_cut(master)) && EXPECT(standby.drain());
  fails_image = true;
  failing_syncs = 1;
  for (const Record &r : {master.begin(), master.sync(0, 4096, 5), master.step(), master.fill(4096, 10, 6)})
    good = good && EXPECT(standby.send(r).ok());
  good = good && EXPECT(wait_until([&] { return failing_syncs == 0; })) &&
         EXPECT(standby.replica->view(0, false).status.error == EAGAIN) &&
         EXPECT(standby.state().applied_sequence == 2) && EXPECT(standby.applied(master.sequence)) &&
         EXPECT(standby.drain()) && EXPECT(standby.phase() == ReplicaPhase::kCut);
  fails_image = false;
  ok(good, "a step whose flush fails is applied anew");
}

bool fill_up(const std::string &directory, const std::string &image, const std::string &title) {
  Master master(1);
  std::mt19937_64 random(4);
  Bytes model(kSize);
  ReplicaOptions options = options_for(directory, kSize);
  options.volumes[0].image_path = image;
  options.segment_bytes = 1u << 20;
  const std::string ballast = directory + "/ballast";
  bool good;
  {
    Standby standby(options);
    good = EXPECT(standby.make_cut(master)) && EXPECT(standby.drain());
    int fd = open(ballast.c_str(), O_RDWR | O_CREAT, 0600);
    Bytes mib(64 << 10);
    while (write(fd, mib.data(), mib.size()) > 0) {
    }
    close(fd);
    std::vector<Record> records;
    for (int i = 0; i < 200; i++) {
      records.push_back(master.fill(random() % (kSize - 30000), 30000, static_cast<uint8_t>(i)));
      apply_to(model, records.back());
      good = good && EXPECT(standby.send(records.back()).ok());
    }
    good = good && EXPECT(wait_until([&] { return standby.state().last_errno == ENOSPC; })) &&
           EXPECT(standby.state().durable_sequence < master.sequence) &&
           EXPECT(standby.state().received_sequence == master.sequence) &&
           EXPECT(wait_until([&] { return standby.collector.message_count() > 0; }));
    unlink(ballast.c_str());
    good = good && EXPECT(standby.durable(master.sequence)) && EXPECT(standby.applied(master.sequence)) &&
           EXPECT(standby.state().last_errno == 0) && EXPECT(standby.drain()) && EXPECT(view_bytes(standby) == model);
  }
  Standby standby(options);
  ok(good && EXPECT(standby.replica->start_session().sequence == master.sequence) && EXPECT(view_bytes(standby) == model),
     title);
  return good;
}

void test_full_disk() {
  Scratch scratch, images;
  const std::string title = "a full disk stops the acknowledgements, and it goes on by itself when there is space";
  if (mount("tmpfs", scratch.path.c_str(), "tmpfs", 0, "size=6m") != 0) {
    skip(title, "mounting a tmpfs is not permitted");
    return;
  }
  fill_up(scratch.path, images.path + "/image", title);
  umount2(scratch.path.c_str(), MNT_DETACH);
}

void test_log_maximum() {
  Scratch scratch;
  Master master(1);
  Bytes model(kSize);
  ReplicaOptions options = options_for(scratch.path, kSize);
  options.segment_bytes = 256u << 10;
  options.log_bytes_max = 1u << 20;
  Standby standby(options);
  bool good = EXPECT(standby.make_cut(master));
  master.commits = false;  // so that nothing can be applied and removed
  std::vector<Record> records;
  for (int i = 0; i < 40; i++) {
    records.push_back(master.fill(0, 50000, static_cast<uint8_t>(i)));
    apply_to(model, records.back());
    good = good && EXPECT(standby.send(records.back()).ok());
  }
  good = good && EXPECT(wait_until([&] { return standby.state().last_errno == ENOSPC; }));
  usleep(200000);
  good = good && EXPECT(standby.state().segment_bytes <= 1u << 20) &&
         EXPECT(standby.state().durable_sequence < master.sequence);
  ok(good, "the log never grows beyond its maximum; what does not fit is not acknowledged (G7)");
  const uint64_t start = monotonic_ns();
  good = EXPECT(standby.replica->drain(500'000'000).ok()) && EXPECT(monotonic_ns() - start < 2'000'000'000) &&
         EXPECT(standby.state().applied_sequence == 2);
  ok(good, "a drain beside a full log ends, with what may be applied");
}

}  // namespace

int main() {
  signal(SIGPIPE, SIG_IGN);  // of the child that was killed
  test_random_kills();
  test_failed_sync();
  test_failed_sync_at_step();
  test_full_disk();
  test_log_maximum();
  return finish();
}
