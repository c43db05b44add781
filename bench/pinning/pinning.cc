// Which way recovery images are kept in memory: the figures behind docs/recovery.md ("What is kept in memory").
//
//   g++ -O2 -std=c++20 bench/pinning/pinning.cc -o /tmp/pinning && /tmp/pinning DIRECTORY [MiB]
//
// One image with MiB of data in DIRECTORY, and what a standby does with it, in rounds: 4 KiB writes in random order with
// an fdatasync every 2048, as its applier does; 4 KiB reads; coming into memory and leaving it. Ways:
//   page cache    as it is without --cache-size
//   locked large  a mapping is locked; its pages were brought in by readahead (large folios)
//   locked small  the same, brought in without readahead (POSIX_FADV_RANDOM): folios of one page
//   memfd         a second copy in a memfd: each write goes to both
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace {
constexpr size_t kPage = 4096, kPiece = 1 << 20;
constexpr int kWrites = 8192, kSyncEvery = 2048, kReads = 20000, kRounds = 5;

double now() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}
void must(bool good, const char *what) {
  if (good) return;
  perror(what);
  exit(1);
}
double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}
double resident_mib(int fd, size_t bytes) {
  void *mapping = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  must(mapping != MAP_FAILED, "mmap");
  std::vector<unsigned char> pages(bytes / kPage);
  must(mincore(mapping, bytes, pages.data()) == 0, "mincore");
  munmap(mapping, bytes);
  return std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return page & 1; }) * kPage / 1048576.0;
}

struct Image {
  int fd;
  size_t bytes;
  void *mapping = nullptr;
  int copy = -1;

  void drop() {
    must(fdatasync(fd) == 0, "fdatasync");
    must(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0, "fadvise");
  }
  void read_in(bool small) {
    static std::vector<char> buffer(kPiece);
    posix_fadvise(fd, 0, 0, small ? POSIX_FADV_RANDOM : POSIX_FADV_SEQUENTIAL);
    for (size_t at = 0; at < bytes; at += kPiece) must(pread(fd, buffer.data(), kPiece, at) > 0, "pread");
    posix_fadvise(fd, 0, 0, POSIX_FADV_NORMAL);
  }
  void lock() {
    mapping = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
    must(mapping != MAP_FAILED, "mmap");
    must(mlock(mapping, bytes) == 0, "mlock");
  }
  void unlock() {
    if (mapping) munmap(mapping, bytes);
    mapping = nullptr;
  }
  void make_copy() {
    copy = memfd_create("image", MFD_CLOEXEC);
    must(ftruncate(copy, bytes) == 0, "ftruncate");
    std::vector<char> buffer(kPiece);
    for (size_t at = 0; at < bytes; at += kPiece) {
      must(pread(fd, buffer.data(), kPiece, at) > 0, "pread");
      must(pwrite(copy, buffer.data(), kPiece, at) > 0, "pwrite");
    }
  }
  void drop_copy() {
    if (copy >= 0) close(copy);
    copy = -1;
  }
};

std::mt19937_64 random_source(1);

struct Written {
  double write_us, sync_ms;
};
Written replay(Image &image) {
  char block[kPage];
  memset(block, 7, sizeof block);
  double writing = 0, syncing = 0;
  for (int i = 0; i < kWrites; i++) {
    const off_t at = random_source() % (image.bytes / kPage) * kPage;
    const double start = now();
    must(pwrite(image.fd, block, kPage, at) == kPage, "pwrite");
    if (image.copy >= 0) must(pwrite(image.copy, block, kPage, at) == kPage, "pwrite");
    writing += now() - start;
    if (i % kSyncEvery != kSyncEvery - 1) continue;
    const double before = now();
    must(fdatasync(image.fd) == 0, "fdatasync");
    syncing += now() - before;
  }
  return {writing / kWrites * 1e6, syncing / (kWrites / kSyncEvery) * 1e3};
}
double reads_us(int fd, size_t bytes, int count) {
  char block[kPage];
  const double start = now();
  for (int i = 0; i < count; i++) {
    const off_t at = random_source() % (bytes / kPage) * kPage;
    must(pread(fd, block, kPage, at) == kPage, "pread");
  }
  return (now() - start) / count * 1e6;
}
}  // namespace

int main(int count, char **arguments) {
  const std::string directory = count > 1 ? arguments[1] : ".";
  const size_t bytes = (count > 2 ? atoll(arguments[2]) : 512) << 20;
  const std::string path = directory + "/pinning.image";
  Image image{open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600), bytes};
  must(image.fd >= 0, "open");
  unlink(path.c_str());
  std::vector<char> piece(kPiece);
  for (size_t at = 0; at < bytes; at += kPiece) {
    for (size_t i = 0; i < kPiece; i += 8) *reinterpret_cast<uint64_t *>(&piece[i]) = random_source();
    must(pwrite(image.fd, piece.data(), kPiece, at) == kPiece, "pwrite");
  }
  const char *names[] = {"page cache", "locked large", "locked small", "memfd"};
  std::vector<double> in_cold[4], in_warm[4], out[4], writes[4], syncs[4], read[4], memory[4];
  std::vector<double> cold;
  for (int round = 0; round < kRounds; round++)
    for (int turn = 0; turn < 4; turn++) {
      const int way = (turn + round) % 4;
      image.drop();
      if (way == 0) cold.push_back(reads_us(image.fd, bytes, 500));
      image.drop();
      double start = now();
      image.read_in(way == 2);
      const double read_in = now() - start;
      start = now();
      if (way == 1 || way == 2) image.lock();
      if (way == 3) image.make_copy();
      in_warm[way].push_back((now() - start) * 1e3);
      in_cold[way].push_back(in_warm[way].back() + read_in * 1e3);
      memory[way].push_back(resident_mib(image.fd, bytes) + (image.copy >= 0 ? resident_mib(image.copy, bytes) : 0));
      read[way].push_back(reads_us(way == 3 ? image.copy : image.fd, bytes, kReads));
      const Written written = replay(image);
      writes[way].push_back(written.write_us);
      syncs[way].push_back(written.sync_ms);
      start = now();
      image.unlock();
      image.drop_copy();
      image.drop();
      out[way].push_back((now() - start) * 1e3);
    }
  printf("%zu MiB, %d rounds, medians; a read of 4 KiB from the disk: %.0f us\n", bytes >> 20, kRounds, median(cold));
  printf("%-13s %10s %10s %8s %9s %9s %9s %9s\n", "", "in cold ms", "in warm ms", "out ms", "read us", "write us",
         "sync ms", "memory MiB");
  for (int way = 0; way < 4; way++)
    printf("%-13s %10.0f %10.1f %8.1f %9.2f %9.2f %9.1f %9.0f\n", names[way], median(in_cold[way]), median(in_warm[way]),
           median(out[way]), median(read[way]), median(writes[way]), median(syncs[way]), median(memory[way]));

  // A hole costs memory once it is locked: an image of 2 GiB with 32 MiB of data.
  const size_t sparse_bytes = size_t{2} << 30;
  Image sparse{open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600), sparse_bytes};
  unlink(path.c_str());
  must(ftruncate(sparse.fd, sparse_bytes) == 0, "ftruncate");
  for (size_t i = 0; i < 32; i++) must(pwrite(sparse.fd, piece.data(), kPiece, i * (64 << 20)) == kPiece, "pwrite");
  sparse.drop();
  void *mapping = mmap(nullptr, sparse_bytes, PROT_READ, MAP_SHARED, sparse.fd, 0);
  madvise(mapping, sparse_bytes, MADV_RANDOM);
  for (size_t i = 0; i < 32; i++)
    must(mlock(static_cast<char *>(mapping) + i * (64 << 20), kPiece) == 0, "mlock data");
  printf("2 GiB with 32 MiB of data: resident when the data is locked %.0f MiB", resident_mib(sparse.fd, sparse_bytes));
  must(mlock(mapping, sparse_bytes) == 0, "mlock");
  printf(", when the whole is %.0f MiB\n", resident_mib(sparse.fd, sparse_bytes));
}
