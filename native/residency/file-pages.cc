#include "residency/file-pages.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace understudy::residency {
namespace {
constexpr uint64_t kPage = 4096;  // what an x86-64 or arm64 of Debian has; larger ones only make the counts coarser
constexpr uint64_t kPiece = 1 << 20;
constexpr uint64_t kGapMin = 64 << 10;

uint64_t page_bytes() {
  static const auto bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}
uint64_t down(uint64_t at) { return at / page_bytes() * page_bytes(); }
uint64_t up(uint64_t at) { return down(at + page_bytes() - 1); }

void join_across(std::vector<Run> &runs, uint64_t gap) {
  size_t kept = 0;
  for (size_t i = 1; i < runs.size(); i++) {
    if (runs[i].start <= runs[kept].end + gap)
      runs[kept].end = std::max(runs[kept].end, runs[i].end);
    else
      runs[++kept] = runs[i];
  }
  if (!runs.empty()) runs.resize(kept + 1);
}

// A device's size is not in its inode.
Result<uint64_t> size_of(int fd, const std::string &path) {
  const off_t end = lseek(fd, 0, SEEK_END);
  if (end < 0) return Status::failed(errno, "keep in memory: size of " + path);
  return static_cast<uint64_t>(end);
}
}  // namespace

std::vector<Run> subtract(const std::vector<Run> &from, const std::vector<Run> &without) {
  std::vector<Run> left;
  auto next = without.begin();
  for (Run run : from) {
    while (next != without.end() && next->end <= run.start) ++next;
    for (auto other = next; other != without.end() && other->start < run.end; ++other) {
      if (other->start > run.start) left.push_back({run.start, other->start});
      run.start = std::max(run.start, other->end);
    }
    if (run.start < run.end) left.push_back(run);
  }
  return left;
}

Result<std::unique_ptr<FilePages>> FilePages::open(const std::string &path, const std::atomic<bool> &leaving) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Status::failed(errno, "keep in memory: open " + path);
  const auto size = size_of(fd.get(), path);
  if (!size.ok()) return size.status;
  const uint64_t bytes = up(size.value);
  char *mapping = nullptr;
  if (bytes > 0) {
    void *const mapped = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd.get(), 0);
    if (mapped == MAP_FAILED) return Status::failed(errno, "keep in memory: map " + path);
    mapping = static_cast<char *>(mapped);
    // Locking faults what is not there yet in, and more around it, holes too; and a child process has no use for it.
    (void)madvise(mapping, bytes, MADV_RANDOM);
    (void)madvise(mapping, bytes, MADV_DONTFORK);
  }
  // No readahead: it makes large folios.
  (void)posix_fadvise(fd.get(), 0, 0, POSIX_FADV_RANDOM);
  return std::unique_ptr<FilePages>(new FilePages(path, std::move(fd), bytes, mapping, leaving));
}

FilePages::FilePages(std::string path, Fd fd, uint64_t bytes, char *mapping, const std::atomic<bool> &leaving)
    : path_(std::move(path)), fd_(std::move(fd)), bytes_(bytes), mapping_(mapping), leaving_(leaving) {}

FilePages::~FilePages() {
  for (const Run &run : locked_) unlock(run);  // in pieces: the end of a locked mapping keeps the whole process waiting
  if (mapping_) munmap(mapping_, bytes_);
}

Result<Survey> FilePages::survey() {
  if (Status found = find_data(); !found.ok()) return found;
  for (const Run &hole : subtract(locked_, data_)) unlock(hole);
  locked_ = subtract(locked_, subtract(locked_, data_));
  Survey survey;
  for (const Run &run : data_) {
    survey.data_bytes += run.end - run.start;
    survey.resident_bytes += resident_bytes(run);
  }
  survey.locked_bytes = locked_bytes();
  return survey;
}

Status FilePages::find_data() {
  std::vector<Run> runs;
  uint64_t gap = kGapMin;
  for (off_t at = 0; static_cast<uint64_t>(at) < bytes_ && !is_leaving();) {
    const off_t start = lseek(fd_.get(), at, SEEK_DATA);
    if (start < 0 && errno == ENXIO) break;  // only a hole from here on
    const off_t end = start < 0 ? -1 : lseek(fd_.get(), start, SEEK_HOLE);
    if (end < 0) return Status::failed(errno, "keep in memory: find the data of " + path_);
    runs.push_back({down(static_cast<uint64_t>(start)), std::min(up(static_cast<uint64_t>(end)), bytes_)});
    at = end;
    if (runs.size() < 2 * kRunsMax) continue;
    for (join_across(runs, gap); runs.size() > kRunsMax; join_across(runs, gap)) gap *= 2;
  }
  if (is_leaving()) return Status::failed(ECANCELED, "keep in memory: " + path_);
  for (join_across(runs, gap); runs.size() > kRunsMax; join_across(runs, gap)) gap *= 2;
  data_ = std::move(runs);
  return Status::good();
}

Result<uint64_t> FilePages::lock(uint64_t step, uint64_t locked_max) {
  uint64_t locked = locked_bytes();
  uint64_t left = locked >= locked_max ? 0 : std::min(step, (locked_max - locked) / page_bytes() * page_bytes());
  for (const Run &run : subtract(data_, locked_)) {
    for (uint64_t at = run.start; at < run.end && left > 0 && !is_leaving();) {
      const Run piece{at, std::min({run.end, at + kPiece, at + left})};
      if (Status read = read_in(piece); !read.ok()) return read;
      // A write of the whole range may be under way just now: EAGAIN of a page that cannot be had is tried again later.
      if (mlock(mapping_ + piece.start, piece.end - piece.start) != 0) {
        const int error = errno;
        unlock(piece);
        return Status::failed(error, "keep in memory: lock " + std::to_string(piece.end - piece.start) + " bytes of " + path_);
      }
      locked_.insert(std::lower_bound(locked_.begin(), locked_.end(), piece,
                                      [](const Run &a, const Run &b) { return a.start < b.start; }),
                     piece);
      left -= piece.end - piece.start;
      at = piece.end;
    }
  }
  join_across(locked_, 0);
  return locked_bytes();
}

// Into the page cache, one page a folio. What is all there stays as it is: nothing is read twice.
Status FilePages::read_in(Run piece) {
  if (is_resident(piece)) return Status::good();
  static thread_local std::vector<char> buffer(kPiece);
  (void)posix_fadvise(fd_.get(), static_cast<off_t>(piece.start), static_cast<off_t>(piece.end - piece.start),
                      POSIX_FADV_DONTNEED);
  for (uint64_t at = piece.start; at < piece.end;) {
    const ssize_t got = pread(fd_.get(), buffer.data(), piece.end - at, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Status::failed(errno, "keep in memory: read " + path_);
    if (got == 0) break;  // the last page is not a whole one
    at += static_cast<uint64_t>(got);
  }
  return Status::good();
}

bool FilePages::is_resident(Run piece) { return resident_bytes(piece) == piece.end - piece.start; }

uint64_t FilePages::resident_bytes(Run run) {
  static thread_local std::vector<unsigned char> pages(64 * kPiece / kPage);
  const uint64_t piece_max = pages.size() * page_bytes();
  uint64_t resident = 0;
  for (uint64_t at = run.start; at < run.end && !is_leaving(); at += piece_max) {
    const uint64_t bytes = std::min(piece_max, run.end - at);
    if (mincore(mapping_ + at, bytes, pages.data()) != 0) continue;  // beyond the end of a file that was cut off
    for (uint64_t i = 0; i < bytes / page_bytes(); i++) resident += (pages[i] & 1) * page_bytes();
  }
  return resident;
}

void FilePages::unlock(Run run) {
  for (uint64_t at = run.start; at < run.end; at += kPiece)
    (void)munlock(mapping_ + at, std::min(kPiece, run.end - at));
}

void FilePages::drop() {
  for (const Run &run : locked_) unlock(run);
  locked_.clear();
  for (uint64_t at = 0; at < bytes_ && !is_leaving(); at += 16 * kPiece) {
    const uint64_t bytes = std::min(16 * kPiece, bytes_ - at);
    (void)madvise(mapping_ + at, bytes, MADV_DONTNEED);  // a page that is mapped stays
    (void)posix_fadvise(fd_.get(), static_cast<off_t>(at), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
  }
}

uint64_t FilePages::locked_bytes() const {
  uint64_t bytes = 0;
  for (const Run &run : locked_) bytes += run.end - run.start;
  return bytes;
}

}  // namespace understudy::residency
