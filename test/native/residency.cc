// sources: native/core/core.cc native/residency/*.cc  libs:
// Files kept in memory: real files, the kernel's own word (mincore, VmLck) for what is there, and what is refused.
#include "residency/file-pages.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

using namespace understudy;
using residency::FilePages;
using residency::Run;
using residency::subtract;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
// A sanitizer answers these calls itself, and locks nothing.
extern "C" {
int mlock(const void *address, size_t bytes) { return static_cast<int>(syscall(SYS_mlock, address, bytes)); }
int munlock(const void *address, size_t bytes) { return static_cast<int>(syscall(SYS_munlock, address, bytes)); }
}
#endif

namespace {
constexpr uint64_t kKiB = 1024, kMiB = 1024 * kKiB;
int failures = 0, tests = 0;
void check(bool good, const char *title) {
  printf("%sok %d - %s\n", good ? "" : "not ", ++tests, title);
  failures += !good;
}

std::atomic<bool> leaving{false};
std::string directory;

uint64_t locked_by_kernel() {
  FILE *file = fopen("/proc/self/status", "r");
  char line[256];
  uint64_t kib = 0;
  while (fgets(line, sizeof line, file))
    if (strncmp(line, "VmLck:", 6) == 0) kib = strtoull(line + 6, nullptr, 10);
  fclose(file);
  return kib * kKiB;
}

// A file of this test's own; what is written is on the disk, and not in memory any more.
struct File {
  explicit File(uint64_t bytes) : path(directory + "/image" + std::to_string(++count)) {
    fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (ftruncate(fd, static_cast<off_t>(bytes)) != 0) abort();
  }
  ~File() {
    close(fd);
    unlink(path.c_str());
  }
  void write(uint64_t offset, uint64_t bytes, char with = 'x') {
    const std::string text(bytes, with);
    if (pwrite(fd, text.data(), bytes, static_cast<off_t>(offset)) != static_cast<ssize_t>(bytes)) abort();
  }
  void forget() {
    if (fdatasync(fd) != 0) abort();
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  }
  // Of the whole file, holes too, which a survey does not look at.
  uint64_t in_memory() {
    const auto bytes = static_cast<size_t>(lseek(fd, 0, SEEK_END));
    void *const mapping = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
    std::vector<unsigned char> pages(bytes / 4096);
    if (mapping == MAP_FAILED || mincore(mapping, bytes, pages.data()) != 0) abort();
    munmap(mapping, bytes);
    uint64_t resident = 0;
    for (const unsigned char page : pages) resident += (page & 1) * 4096;
    return resident;
  }
  std::unique_ptr<FilePages> pages() {
    auto opened = FilePages::open(path, leaving);
    if (!opened.ok()) abort();
    return std::move(opened.value);
  }
  static inline int count = 0;
  std::string path;
  int fd;
};

constexpr uint64_t kAll = UINT64_MAX / 2;

void locks_data_and_no_holes() {
  File file(256 * kMiB);
  for (uint64_t i = 0; i < 4; i++) file.write(i * 64 * kMiB, kMiB);
  file.forget();
  const auto pages = file.pages();
  const auto before = pages->survey().value;
  check(before.data_bytes == 4 * kMiB && before.resident_bytes == 0 && before.locked_bytes == 0,
        "a survey counts what holds data, and brings nothing into memory");
  const uint64_t locked = pages->lock(kAll, kAll).value;
  const auto after = pages->survey().value;
  check(locked == 4 * kMiB && after.locked_bytes == 4 * kMiB && after.resident_bytes == 4 * kMiB && file.in_memory() == 4 * kMiB,
        "what holds data is locked, and holes, or what readahead would bring, take no memory");
  check(locked_by_kernel() == 4 * kMiB, "... by the kernel's own count");
  file.forget();
  check(pages->survey().value.resident_bytes == 4 * kMiB, "what is locked stays when it is told to go");
  pages->drop();
  const auto dropped = pages->survey().value;
  check(dropped.resident_bytes == 0 && dropped.locked_bytes == 0 && locked_by_kernel() == 0,
        "what is dropped is unlocked, and has left the memory");
}

void follows_the_file() {
  File file(64 * kMiB);
  file.write(0, 2 * kMiB);
  const auto pages = file.pages();
  (void)pages->survey();
  (void)pages->lock(kAll, kAll);
  file.write(32 * kMiB, 4 * kKiB);
  check(pages->survey().value.data_bytes == 2 * kMiB + 4 * kKiB, "a block that was written in a hole is found");
  check(pages->lock(kAll, kAll).value == 2 * kMiB + 4 * kKiB, "... and locked");
  if (fallocate(file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kMiB) != 0) abort();
  const auto punched = pages->survey().value;
  check(punched.locked_bytes == kMiB + 4 * kKiB && locked_by_kernel() == kMiB + 4 * kKiB,
        "what has become a hole is let go");
  file.write(kMiB, kMiB, 'y');
  char seen = 0;
  if (pread(file.fd, &seen, 1, static_cast<off_t>(kMiB + 5)) != 1) abort();
  check(seen == 'y', "a write goes to what is locked");
}

void drop_leaves_what_is_dirty() {
  File file(8 * kMiB);
  file.write(0, 8 * kMiB);
  file.forget();
  const auto pages = file.pages();
  (void)pages->survey();
  (void)pages->lock(kAll, kAll);
  file.write(3 * kMiB, 64 * kKiB, 'z');
  pages->drop();
  char seen[2] = {};
  if (pread(file.fd, seen, 2, static_cast<off_t>(3 * kMiB)) != 2) abort();
  check(seen[0] == 'z' && locked_by_kernel() == 0, "what is written while it gives way is not lost");
}

void in_steps_and_up_to_a_maximum() {
  File file(16 * kMiB);
  file.write(0, 16 * kMiB);
  file.forget();
  const auto pages = file.pages();
  (void)pages->survey();
  check(pages->lock(2 * kMiB, kAll).value == 2 * kMiB, "a step locks as much as it may");
  check(pages->survey().value.resident_bytes < 4 * kMiB, "... and reads no more");
  check(pages->lock(kAll, 5 * kMiB + 100).value == 5 * kMiB, "never beyond the maximum");
  check(pages->lock(kAll, 5 * kMiB).value == 5 * kMiB, "... also when asked again");
  leaving = true;
  check(pages->lock(kAll, kAll).value < 16 * kMiB, "a process that is leaving does not read on");
  leaving = false;
}

// 1. a client writes 4 KiB at random places  2. each is an extent, and each lock a mapping of the kernel, of which there
// are 65530 in a process.
void many_extents() {
  constexpr uint64_t kExtents = 4500, kApart = 256 * kKiB;
  File file(kExtents * kApart);
  for (uint64_t i = 0; i < kExtents; i++) file.write(i * kApart, 4 * kKiB);
  const auto pages = file.pages();
  const auto survey = pages->survey().value;
  check(survey.data_bytes > kExtents * 4 * kKiB, "extents beyond the maximum are joined across gaps");
  FILE *maps = fopen("/proc/self/maps", "r");
  check(pages->lock(kAll, 4 * kMiB).ok(), "... and locked");
  uint64_t lines = 0;
  for (int c = fgetc(maps); c != EOF; c = fgetc(maps)) lines += c == '\n';
  fclose(maps);
  check(lines < 2 * FilePages::kRunsMax + 200, "... in a bounded number of mappings");
}

void edges() {
  check(!FilePages::open(directory + "/none", leaving).ok(), "a file that is not there is said to be so");
  File empty(0);
  const auto pages = empty.pages();
  check(pages->survey().value.data_bytes == 0 && pages->lock(kAll, kAll).value == 0, "an empty file needs nothing");
  File odd(0);
  odd.write(0, 10'000);
  const auto few = odd.pages();
  (void)few->survey();
  check(few->lock(kAll, kAll).value == 12 * kKiB, "a last page that is not whole is locked too");
  File cut(4 * kMiB);
  cut.write(0, 4 * kMiB);
  const auto shrunk = cut.pages();
  (void)shrunk->survey();
  (void)shrunk->lock(kAll, kAll);
  if (ftruncate(cut.fd, static_cast<off_t>(kMiB)) != 0) abort();
  check(shrunk->survey().value.locked_bytes == kMiB, "a file that was cut off is no harm");
}

void random_sets() {
  std::mt19937 random(7);
  bool good = true;
  for (int round = 0; round < 2000; round++) {
    bool in[2][40];
    std::vector<Run> runs[2];
    for (int set = 0; set < 2; set++)
      for (uint64_t at = 0; at < 40; at++) {
        in[set][at] = random() % 3 > 0;
        if (!in[set][at]) continue;
        if (at > 0 && in[set][at - 1] && random() % 4 > 0)
          runs[set].back().end = at + 1;
        else
          runs[set].push_back({at, at + 1});
      }
    bool left[40] = {};
    for (const Run &run : subtract(runs[0], runs[1]))
      for (uint64_t at = run.start; at < run.end; at++) left[at] = true;
    for (int at = 0; at < 40; at++) good = good && left[at] == (in[0][at] && !in[1][at]);
  }
  check(good, "what one set of runs has and another has not (2000 random pairs)");
}

// In a process of its own, without the capability: as understudy runs that is not root.
void refused() {
  const pid_t child = fork();
  if (child == 0) {
    const rlimit limit{2 * kMiB, 2 * kMiB};
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct none[2] = {};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || syscall(SYS_capset, &header, none) != 0) _exit(10);
    File file(8 * kMiB);
    file.write(0, 8 * kMiB);
    const auto pages = file.pages();
    (void)pages->survey();
    const auto locked = pages->lock(kAll, kAll);
    if (locked.ok() || (locked.status.error != ENOMEM && locked.status.error != EPERM)) _exit(11);
    const uint64_t kept = pages->survey().value.locked_bytes;
    _exit(kept >= kMiB && kept <= 2 * kMiB && kept == locked_by_kernel() ? 0 : 12);
  }
  int status = 0;
  waitpid(child, &status, 0);
  check(WIFEXITED(status) && WEXITSTATUS(status) == 0,
        "beyond RLIMIT_MEMLOCK it is refused, and what was locked before stays");
}
}  // namespace

int main() {
  std::string name = std::string(getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp") + "/residency.XXXXXX";
  if (!mkdtemp(name.data())) abort();
  directory = name;
  locks_data_and_no_holes();
  follows_the_file();
  drop_leaves_what_is_dirty();
  in_steps_and_up_to_a_maximum();
  many_extents();
  edges();
  random_sets();
  refused();
  rmdir(directory.c_str());
  printf("1..%d\n", tests);
  return failures != 0;
}
