// What the replay tests share: a master that makes records and keeps a model of the image, a listener that collects
// answers, and TAP.
#pragma once
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "core/clock.h"
#include "replay/replica.h"
#include "wire/record.h"

namespace replay_test {
using namespace understudy;
using namespace understudy::replay;
using wire::RecordHeader;
using wire::RecordType;
using Bytes = std::vector<uint8_t>;

inline int tests = 0, failures = 0;
inline void ok(bool good, const std::string &title) {
  printf("%sok %d - %s\n", good ? "" : "not ", ++tests, title.c_str());
  fflush(stdout);
  failures += !good;
}
inline void skip(const std::string &title, const std::string &why) {
  printf("ok %d - %s # SKIP %s\n", ++tests, title.c_str(), why.c_str());
}
inline int finish() {
  printf("1..%d\n", tests);
  return failures ? 1 : 0;
}
// Within a test: says where, and makes the test fail.
#define EXPECT(condition) \
  ((condition) ? true : (printf("# %s:%d: expected %s\n", __FILE__, __LINE__, #condition), fflush(stdout), false))

inline std::string make_directory() {
  const char *base = getenv("TMPDIR");
  std::string path = std::string(base ? base : "/tmp") + "/replay-test-XXXXXX";
  if (!mkdtemp(path.data())) abort();
  return path;
}
inline void remove_tree(const std::string &path) {
  if (DIR *listing = opendir(path.c_str())) {
    while (dirent *entry = readdir(listing)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") remove_tree(path + "/" + name);
    }
    closedir(listing);
    rmdir(path.c_str());
  } else {
    unlink(path.c_str());
  }
}
struct Scratch {  // a directory for the length of a test
  std::string path = make_directory();
  ~Scratch() { remove_tree(path); }
};

inline Bytes read_file(const std::string &path) {
  Bytes bytes;
  if (FILE *file = fopen(path.c_str(), "rb")) {
    uint8_t piece[65536];
    for (size_t n; (n = fread(piece, 1, sizeof piece, file)) > 0;) bytes.insert(bytes.end(), piece, piece + n);
    fclose(file);
  }
  return bytes;
}
inline void write_file(const std::string &path, const Bytes &bytes) {
  FILE *file = fopen(path.c_str(), "wb");
  if (!file || (!bytes.empty() && fwrite(bytes.data(), 1, bytes.size(), file) != bytes.size())) abort();
  fclose(file);
}
inline std::vector<std::string> list_files(const std::string &directory) {
  std::vector<std::string> names;
  if (DIR *listing = opendir(directory.c_str())) {
    while (dirent *entry = readdir(listing))
      if (entry->d_name[0] != '.') names.push_back(directory + "/" + entry->d_name);
    closedir(listing);
  }
  std::sort(names.begin(), names.end());
  return names;
}
// All files of a store by path, to be put back as they were.
using Snapshot = std::map<std::string, Bytes>;
inline Snapshot take_snapshot(const std::string &store) {
  Snapshot files;
  for (const auto &path : list_files(store + "/segments")) files[path] = read_file(path);
  files[store + "/watermark"] = read_file(store + "/watermark");
  files[store + "/image"] = read_file(store + "/image");
  return files;
}
inline void put_back(const std::string &store, const Snapshot &files) {
  for (const auto &path : list_files(store + "/segments")) unlink(path.c_str());
  for (const auto &[path, bytes] : files) write_file(path, bytes);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kSlower = 10;
#else
constexpr double kSlower = 1;
#endif

inline bool wait_until(const std::function<bool()> &condition, double seconds = 60) {
  const uint64_t end = monotonic_ns() + static_cast<uint64_t>(seconds * kSlower * 1e9);
  while (!condition()) {
    if (monotonic_ns() > end) return false;
    usleep(500);
  }
  return true;
}

// Runs `body` in a child that is killed as soon as it returns: no destructors, and no sanitizer's pause at exit.
inline bool in_doomed_child(const std::function<bool()> &body) {
  fflush(stdout);
  int verdict[2];
  if (pipe(verdict) != 0) abort();
  const pid_t child = fork();
  if (child == 0) {
    const uint8_t good = body();
    fflush(stdout);
    if (write(verdict[1], &good, 1) == 1) kill(getpid(), SIGKILL);
    _exit(1);
  }
  close(verdict[1]);
  uint8_t good = 0;
  const bool told = read(verdict[0], &good, 1) == 1;
  close(verdict[0]);
  waitpid(child, nullptr, 0);
  return told && good;
}

struct Collector : ReplicaListener {
  std::mutex mutex;
  std::vector<std::pair<wire::HashReplyBody, std::vector<wire::HashEntry>>> hashes;
  std::vector<std::pair<wire::DataReplyBody, std::vector<uint8_t>>> pieces;
  std::vector<wire::VerifyResultBody> results;
  std::vector<std::string> messages;
  std::atomic<int> progress{0};
  void progressed() override { progress++; }
  void hashed(const wire::HashReplyBody &reply, std::vector<wire::HashEntry> entries) override {
    std::lock_guard lock(mutex);
    hashes.emplace_back(reply, std::move(entries));
  }
  void told(const wire::DataReplyBody &reply, const std::vector<uint8_t> &bytes) override {
    std::lock_guard lock(mutex);
    pieces.emplace_back(reply, bytes);
  }
  size_t piece_count() {
    std::lock_guard lock(mutex);
    return pieces.size();
  }
  void verified(const wire::VerifyResultBody &result) override {
    std::lock_guard lock(mutex);
    results.push_back(result);
  }
  void failed(const std::string &message) override {
    std::lock_guard lock(mutex);
    messages.push_back(message);
  }
  size_t message_count() {
    std::lock_guard lock(mutex);
    return messages.size();
  }
  size_t hash_count() {
    std::lock_guard lock(mutex);
    return hashes.size();
  }
};

// A master: makes the record stream, and keeps each record so that any prefix can be modelled.
struct Record {
  RecordHeader header{};
  Bytes payload;
  Bytes wire() const {
    Bytes bytes(sizeof header + payload.size());
    memcpy(bytes.data(), &header, sizeof header);
    std::copy(payload.begin(), payload.end(), bytes.begin() + sizeof header);
    return bytes;
  }
};
struct Master {
  uint64_t incarnation, sequence = 0, predecessor = 0, committed = 0, written = 0;
  bool commits = true;  // each record is committed when it is sent
  explicit Master(uint64_t id) : incarnation(id) {}

  Record make(RecordType type, uint64_t offset, uint64_t length, Bytes payload = {}, uint8_t flags = 0) {
    Record record;
    RecordHeader &header = record.header;
    header.magic = wire::kRecordMagic;
    header.type = type;
    header.flags = flags;
    header.incarnation = incarnation;
    if (wire::is_sequenced(type)) {
      header.predecessor = predecessor;
      predecessor = header.sequence = ++sequence;
      if (commits) committed = sequence;
    } else {
      header.sequence = header.predecessor = predecessor;
    }
    header.committed = committed;
    header.offset = offset;
    header.length = length;
    if (type == RecordType::kWrite) written += length;
    header.written_bytes = written;
    header.payload_bytes = static_cast<uint32_t>(payload.size());
    record.payload = std::move(payload);
    wire::seal(header, record.payload.data());
    return record;
  }
  Record write(uint64_t offset, Bytes data) {
    const uint64_t length = data.size();
    return make(RecordType::kWrite, offset, length, std::move(data));
  }
  Record fill(uint64_t offset, size_t bytes, uint8_t value) { return write(offset, Bytes(bytes, value)); }
  Record sync(uint64_t offset, size_t bytes, uint8_t value) {
    return make(RecordType::kSync, offset, bytes, Bytes(bytes, value));
  }
  Record begin(bool initial = false) {
    return make(RecordType::kBegin, 0, 0, {}, initial ? uint8_t{wire::kBeginInitial} : uint8_t{0});
  }
  Record step() { return make(RecordType::kStep, 0, 0); }
  Record commit(uint64_t up_to) {
    committed = up_to;
    return make(RecordType::kCommit, 0, 0);
  }
  Record void_of(uint64_t which) { return make(RecordType::kVoid, which, 0); }
};
inline void apply_to(Bytes &image, const Record &record) {
  const RecordHeader &h = record.header;
  if (h.type == RecordType::kWrite || h.type == RecordType::kSync)
    std::copy(record.payload.begin(), record.payload.end(), image.begin() + static_cast<ptrdiff_t>(h.offset));
  if (h.type == RecordType::kZero || h.type == RecordType::kTrim)
    std::fill_n(image.begin() + static_cast<ptrdiff_t>(h.offset), h.length, 0);
}

inline ReplicaOptions options_for(const std::string &store, uint64_t size) {
  ReplicaOptions options;
  options.directory = store;
  options.volumes = {{"v", store + "/image", size, true}};
  options.ring_bytes = 64u << 20;
  return options;
}

struct Standby {
  Collector collector;
  std::unique_ptr<Replica> replica;
  Status status;
  explicit Standby(const ReplicaOptions &options) {
    auto opened = Replica::open(options, collector);
    status = opened.status;
    if (opened.ok()) {
      replica = std::move(opened.value);
      replica->start_session();
    } else {
      printf("# %s\n", status.message.c_str());
    }
  }
  Status send(const Record &record) {
    Bytes bytes = record.wire();
    return replica->receive(bytes);
  }
  const ReplicaState &state() const { return replica->state(); }
  ReplicaPhase phase() const { return static_cast<ReplicaPhase>(state().phase.load()); }
  bool durable(uint64_t sequence) {
    return wait_until([&] { return state().durable_sequence.load() >= sequence; });
  }
  bool applied(uint64_t sequence) {
    return wait_until([&] { return state().applied_sequence.load() >= sequence; });
  }
  bool drain() {
    Status status = replica->drain(10'000'000'000);
    if (!status.ok()) printf("# %s\n", status.message.c_str());
    return status.ok();
  }
  // Initial synchronisation of nothing: from here on there is a cut.
  bool make_cut(Master &master) {
    return send(master.begin(true)).ok() && send(master.step()).ok() && applied(master.sequence) &&
           wait_until([&] { return phase() == ReplicaPhase::kCut; });
  }
};
inline Bytes read_device(Device &device, uint64_t offset, size_t bytes) {
  Bytes data(bytes);
  if (device.read(data.data(), bytes, offset) != 0) return {};
  return data;
}
inline Bytes view_bytes(Standby &standby) {
  auto view = standby.replica->view(0, false);
  if (!view.ok()) {
    printf("# %s\n", view.status.message.c_str());
    return {};
  }
  return read_device(*view.value.device, 0, view.value.device->traits().size_bytes);
}

}  // namespace replay_test
