// sources: native/replay/*.cc native/link/codec.cc native/engine/device.cc native/engine/direct-file.cc native/wire/record.cc native/core/core.cc native/core/memory-guard.cc native/core/crc32c.cc native/core/mirrored-ring.cc  libs: -lzstd -llz4 -lgnutls
// Files of a volume by reflink: exact while the volume goes on changing, whole or not there.
#include <signal.h>
#include <sys/wait.h>

#include <thread>

#include "clone-calls.h"
#include "loop-filesystem.h"
#include "replay-support.h"

using clone_calls::before_clone;

namespace {
std::function<void()> before_name;
}  // namespace

extern "C" int linkat(int from, const char *path, int to, const char *name, int flags) {
  if (before_name) before_name();
  return static_cast<int>(syscall(SYS_linkat, from, path, to, name, flags));
}

using namespace replay_test;
using loop_filesystem::LoopFilesystem;

namespace {
constexpr uint64_t kSize = (2u << 20) + 1234;
const Bytes kTail(512, 0xf0);

struct Hooks {  // until the end of a test
  ~Hooks() { before_clone = nullptr, before_name = nullptr; }
};

// The image changes between the moment that is cloned and the cloning of each stretch: of all that, nothing is in the file.
void test_exact(const std::string &directory) {
  Scratch scratch;
  Hooks hooks;
  std::mt19937_64 random(11);
  Master master(1);
  Bytes model(kSize);
  Standby standby(options_for(scratch.path, kSize));
  bool good = EXPECT(standby.make_cut(master));
  const auto change = [&] {
    for (int i = 0; i < 60; i++) {
      const uint64_t length = 1 + random() % (random() % 4 ? 6000 : 200000), offset = random() % (kSize - length);
      Record record = i % 7 ? master.fill(offset, length, static_cast<uint8_t>(random()))
                            : master.make(i % 2 ? RecordType::kTrim : RecordType::kZero, offset, length);
      apply_to(model, record);
      good = good && EXPECT(standby.send(record).ok());
    }
    good = good && EXPECT(standby.applied(master.sequence));
    return 0;
  };
  for (int round = 0; good && round < 8; round++) {
    change();
    if (round % 3 == 0) good = good && EXPECT(standby.drain());
    Bytes expected = model;
    expected.insert(expected.end(), kTail.begin(), kTail.end());
    const uint64_t sequence = master.sequence;
    before_clone = change;
    const std::string path = directory + "/copy-" + std::to_string(round);
    auto made = standby.replica->clone(0, path, kTail);
    good = good && EXPECT(made.ok()) && EXPECT((made.value.position == wire::Position{1, sequence})) &&
           EXPECT(read_file(path) == expected) && EXPECT(sequence < master.sequence);
    if (!made.ok()) printf("# %s\n", made.status.message.c_str());
    unlink(path.c_str());
  }
  ok(good && EXPECT(standby.drain()) && EXPECT(read_file(scratch.path + "/image") == model),
     "a file that is cloned while records are applied is the volume at one position, the image is not touched (G2)");
}

// Two blocks that are written in turn with one number, in the first and in the last of several stretches.
void test_stretches(const std::string &directory) {
  Scratch scratch;
  Hooks hooks;
  constexpr uint64_t kLarge = 1u << 30, kLast = kLarge - 4096;
  Master master(1);
  Standby standby(options_for(scratch.path, kLarge));
  std::atomic<bool> good = EXPECT(standby.make_cut(master)), stop{false};
  std::thread writer([&] {
    for (uint32_t number = 1; !stop && good; number++) {
      const auto *bytes = reinterpret_cast<uint8_t *>(&number);
      for (uint64_t at : {uint64_t{0}, kLast})
        if (!standby.send(master.write(at, Bytes(bytes, bytes + 4))).ok()) good = false;
      while (standby.state().received_sequence - standby.state().applied_sequence > 20) usleep(50);
    }
  });
  int stretches = 0;
  before_clone = [&] {
    const uint64_t applied = standby.state().applied_sequence;
    if (!wait_until([&] { return standby.state().applied_sequence > applied + 4; })) good = false;
    stretches++;
    return 0;
  };
  int files = 0;
  for (; good && files < 20; files++) {
    const std::string path = directory + "/stretches";
    auto made = standby.replica->clone(0, path, {});
    if (!EXPECT(made.ok())) printf("# %s\n", made.status.message.c_str()), good = false;
    uint32_t first = 0, last = 0;
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (pread(fd, &first, 4, 0) != 4 || pread(fd, &last, 4, kLast) != 4) good = false;
    close(fd);
    unlink(path.c_str());
    good = good && EXPECT(made.value.position.sequence == 2 + uint64_t{first} + last) && EXPECT(first - last <= 1);
  }
  stop = true;
  writer.join();
  ok(good && EXPECT(stretches >= 4 * files), "and so is one of several stretches, while replay goes on between them (G2)");
}

void test_names(const std::string &directory) {
  Scratch scratch;
  Hooks hooks;
  Master master(1);
  Standby standby(options_for(scratch.path, kSize));
  const std::string path = directory + "/there";
  const auto clone = [&] { return standby.replica->clone(0, path, kTail).status.error; };
  bool good = EXPECT(clone() == ENODATA) && EXPECT(standby.make_cut(master));
  before_clone = [] { return EIO; };
  good = good && EXPECT(clone() == EIO) && EXPECT(list_files(directory).empty());
  before_clone = nullptr;
  size_t files = 99;
  before_name = [&] { files = list_files(directory).size(); };
  good = good && EXPECT(clone() == 0) && EXPECT(files == 0) && EXPECT(list_files(directory).size() == 1);
  before_name = nullptr;
  write_file(path, Bytes(3, 'x'));
  good = good && EXPECT(clone() == EEXIST) && EXPECT(read_file(path) == Bytes(3, 'x'));
  unlink(path.c_str());
  before_name = [&] { write_file(path, Bytes(3, 'y')); };
  good = good && EXPECT(clone() == EEXIST) && EXPECT(read_file(path) == Bytes(3, 'y'));
  unlink(path.c_str());
  ok(good && EXPECT(standby.replica->clone(1, path, {}).status.error == EINVAL) && EXPECT(list_files(directory).empty()),
     "it has a name once it is whole, and never takes another one's; a copy that is no cut is refused");
}

void test_elsewhere(const std::string &directory) {
  Scratch scratch;
  Master master(1);
  setenv("TMPDIR", "/dev/shm", 1);
  Scratch other;
  unsetenv("TMPDIR");
  Standby standby(options_for(other.path, kSize));
  const bool good = EXPECT(standby.make_cut(master));
  const int error = standby.replica->clone(0, directory + "/elsewhere", {}).status.error;
  ok(good && EXPECT(error == EXDEV) && EXPECT(list_files(directory).empty()), "on another file system it is refused, and nothing is left");
}

// A process that is killed before a stretch is cloned, or when only the name is missing.
void test_killed(const std::string &directory) {
  Scratch scratch;
  constexpr uint64_t kLarge = 600u << 20;  // three stretches
  bool good = true;
  for (int at = 0; good && at < 4; at++) {
    const std::string store = scratch.path + "/" + std::to_string(at);
    if (mkdir(store.c_str(), 0700) != 0) abort();
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
      Master master(1);
      Standby &standby = *new Standby(options_for(store, kLarge));
      if (!standby.make_cut(master)) _exit(1);
      int stretches = 0;
      const auto die = [] { kill(getpid(), SIGKILL); };
      before_clone = [&] { return stretches++ == at ? die(), 0 : 0; };
      if (at == 3) before_name = die;
      _exit(standby.replica->clone(0, directory + "/killed", kTail).status.error ? 2 : 3);
    }
    int status = 0;
    waitpid(child, &status, 0);
    good = EXPECT(WIFSIGNALED(status)) && EXPECT(list_files(directory).empty());
    Standby standby(options_for(store, kLarge));
    good = good && EXPECT(standby.status.ok()) && EXPECT(standby.replica->clone(0, directory + "/killed", kTail).ok()) &&
           EXPECT(unlink((directory + "/killed").c_str()) == 0);
  }
  ok(good, "whoever is killed in the middle leaves nothing, and the next one makes it");
}

void test_without_reflink() {
  const std::string title = "where the file system has no reflink it is refused, and nothing is left";
  LoopFilesystem there("ext4", "256M");
  if (!there.why().empty()) return skip(title, there.why());
  const std::string directory = there.path() + "/files";
  if (mkdir(directory.c_str(), 0700) != 0) abort();
  setenv("TMPDIR", there.path().c_str(), 1);
  Scratch scratch;
  unsetenv("TMPDIR");
  Master master(1);
  Standby standby(options_for(scratch.path, kSize));
  const bool good = EXPECT(standby.make_cut(master));
  const int error = standby.replica->clone(0, directory + "/refused", kTail).status.error;
  ok(good && EXPECT(error == EOPNOTSUPP) && EXPECT(list_files(directory).empty()), title);
}

void test_kind(const std::string &kind) {
  LoopFilesystem there(kind, "512M");
  if (!there.why().empty()) return skip("files of a volume by reflink", there.why());
  printf("# %s\n", kind.c_str());
  const std::string directory = there.path() + "/files";
  if (mkdir(directory.c_str(), 0700) != 0) abort();
  setenv("TMPDIR", there.path().c_str(), 1);
  test_exact(directory);
  test_stretches(directory);
  test_names(directory);
  test_elsewhere(directory);
  setenv("TMPDIR", there.path().c_str(), 1);
  test_killed(directory);
  unsetenv("TMPDIR");
}

}  // namespace

int main() {
  for (const std::string kind : {"xfs", "btrfs"}) test_kind(kind);
  test_without_reflink();
  return finish();
}
