#include "log/dirty-map.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "core/check.h"
#include "core/crc32c.h"
#include "core/fd.h"

namespace understudy::log {
namespace {

// | FileHeader (32 bytes) | words of the bitmap, region 0 in bit 0 of word 0 |
struct FileHeader {
  uint64_t magic;  // kFileMagic
  uint64_t size_bytes;
  uint32_t region_bytes;
  uint32_t words_crc32c;
  uint32_t header_crc32c;  // of the bytes before it
  uint32_t reserved;
};
static_assert(sizeof(FileHeader) == 32);
constexpr uint64_t kFileMagic = 0x31504d5954444455;  // "UDDTYMP1"

bool transfer_all(int fd, void *data, size_t bytes, bool writing) {
  auto *at = static_cast<char *>(data);
  while (bytes) {
    const ssize_t n = writing ? write(fd, at, bytes) : read(fd, at, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) errno = EIO;
    if (n <= 0) return false;
    at += n, bytes -= static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

DirtyMap::DirtyMap(uint64_t size_bytes) : size_bytes_(size_bytes), bits_((regions() + 63) / 64) {}

// Sets or clears regions [first, last) and returns how many changed.
uint64_t DirtyMap::change(uint64_t first, uint64_t last, bool dirty) {
  uint64_t changed = 0;
  while (first < last) {
    const uint64_t bit = first % 64, count = std::min<uint64_t>(64 - bit, last - first);
    const uint64_t mask = (count == 64 ? ~0ull : (1ull << count) - 1) << bit;
    uint64_t &word = bits_[first / 64];
    changed += static_cast<uint64_t>(std::popcount(mask & (dirty ? ~word : word)));
    word = dirty ? word | mask : word & ~mask;
    first += count;
  }
  return changed;
}

void DirtyMap::mark(uint64_t start, uint64_t end) {
  CHECK(end <= size_bytes_);
  if (start < end) dirty_regions_ += change(start / kRegion, (end + kRegion - 1) / kRegion, true);
}

void DirtyMap::clear(uint64_t start, uint64_t end) {
  CHECK(end <= size_bytes_);
  const uint64_t first = (start + kRegion - 1) / kRegion;
  const uint64_t last = end == size_bytes_ ? regions() : end / kRegion;
  if (first < last) dirty_regions_ -= change(first, last, false);
}

uint64_t DirtyMap::find(uint64_t region, bool dirty) const {
  while (region < regions()) {
    const uint64_t word = (dirty ? bits_[region / 64] : ~bits_[region / 64]) >> (region % 64);
    if (word) return std::min(regions(), region + static_cast<uint64_t>(std::countr_zero(word)));
    region = (region / 64 + 1) * 64;
  }
  return regions();
}

bool DirtyMap::touches(uint64_t start, uint64_t end) const {
  return dirty_regions_ != 0 && start < end && find(start / kRegion, true) * kRegion < end;
}

uint64_t DirtyMap::dirty_bytes() const {
  uint64_t bytes = dirty_regions_ * kRegion;
  const uint64_t tail = size_bytes_ % kRegion;
  if (tail && is_dirty(size_bytes_ - 1)) bytes -= kRegion - tail;
  return bytes;
}

DirtyMap::Run DirtyMap::next_run(uint64_t from, uint64_t bytes_max) const {
  if (!any()) return {size_bytes_, size_bytes_};
  const uint64_t start = std::min(size_bytes_, find((from + kRegion - 1) / kRegion, true) * kRegion);
  if (start == size_bytes_) return {start, start};
  const uint64_t end = find(start / kRegion, false) * kRegion;
  // bytes_max may be as good as infinite: start + bytes_max would wrap.
  const uint64_t limit = bytes_max < size_bytes_ - start ? start + bytes_max : size_bytes_;
  return {start, std::min(end, limit)};
}

Status DirtyMap::save(const std::string &path) const {
  const std::string scratch = path + ".new";
  Fd fd(open(scratch.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd) return Status::failed(errno, "save dirty map: " + scratch);
  FileHeader header{kFileMagic, size_bytes_, kRegion, crc32c(0, bits_.data(), bits_.size() * 8), 0, 0};
  header.header_crc32c = crc32c(0, &header, offsetof(FileHeader, header_crc32c));
  const bool written = transfer_all(fd.get(), &header, sizeof header, true) &&
                       transfer_all(fd.get(), const_cast<uint64_t *>(bits_.data()), bits_.size() * 8, true) &&
                       fsync(fd.get()) == 0 && rename(scratch.c_str(), path.c_str()) == 0;
  if (written) return Status::good();
  Status status = Status::failed(errno, "save dirty map: " + path);
  unlink(scratch.c_str());
  return status;
}

Status DirtyMap::load(const std::string &path) {
  Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Status::failed(errno, "load dirty map: " + path);
  FileHeader header{};
  if (!transfer_all(fd.get(), &header, sizeof header, false)) return Status::failed(errno, "load dirty map: " + path);
  if (header.magic != kFileMagic || header.size_bytes != size_bytes_ || header.region_bytes != kRegion ||
      header.header_crc32c != crc32c(0, &header, offsetof(FileHeader, header_crc32c)))
    return Status::failed(EINVAL, "load dirty map: " + path + ": it is damaged or of another volume");
  std::vector<uint64_t> words(bits_.size());
  if (!transfer_all(fd.get(), words.data(), words.size() * 8, false))
    return Status::failed(errno, "load dirty map: " + path);
  if (crc32c(0, words.data(), words.size() * 8) != header.words_crc32c)
    return Status::failed(EINVAL, "load dirty map: " + path + ": its checksum differs");
  dirty_regions_ = 0;
  for (size_t i = 0; i < bits_.size(); i++) {
    bits_[i] |= words[i];
    dirty_regions_ += static_cast<uint64_t>(std::popcount(bits_[i]));
  }
  return Status::good();
}

}  // namespace understudy::log
