#include "replay/segment.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

#include "core/breakage.h"
#include "core/check.h"
#include "core/crc32c.h"
#include "core/on-disk.h"
#include "replay/file-io.h"

namespace understudy::replay {
namespace {
uint32_t checksum(SegmentHeader header) {
  header.header_crc32c = 0;
  return crc32c(0, &header, sizeof header);
}

int write_header(int fd, const SegmentHeader &header) {
  std::array<uint8_t, kSegmentHeaderBytes> page{};
  memcpy(page.data(), &header, sizeof header);
  return write_at(fd, page.data(), page.size(), 0);
}

std::string name_of(const std::string &directory, uint64_t index, const char *suffix) {
  char name[32];
  snprintf(name, sizeof name, "/%016llx%s", static_cast<unsigned long long>(index), suffix);
  return directory + name;
}

SegmentHeader header_of(uint64_t index, uint64_t base, wire::Position last) {
  SegmentHeader header{kSegmentMagic, kSegmentVersion, 0, index, base, last};
  header.header_crc32c = checksum(header);
  return header;
}

// Only a help: a full disk shows itself at the write, where it is handled. Returns how many bytes are there.
uint64_t preallocate(int fd, uint64_t have_bytes, uint64_t want_bytes) {
  if (have_bytes >= want_bytes) return have_bytes;
  const auto start = static_cast<off_t>(have_bytes), bytes = static_cast<off_t>(want_bytes - have_bytes);
  return fallocate(fd, 0, start, bytes) == 0 ? want_bytes : have_bytes;
}

// To sync what was written into allocated blocks for the first time is a commit of the file system's journal, twice the
// time of a sync of blocks that were written before. So small appends, each of which somebody may wait for, find zeroes.
constexpr size_t kSmallAppendBytes = 64u << 10;
constexpr uint64_t kZeroesAheadBytes = 1u << 20;
}  // namespace

std::string Segment::path_of(const std::string &directory, uint64_t index) { return name_of(directory, index, ".seg"); }
std::string Segment::set_aside_path_of(const std::string &directory, uint64_t index) {
  return name_of(directory, index, ".old");
}

Result<std::shared_ptr<Segment>> Segment::create(const std::string &directory, uint64_t index, uint64_t base,
                                                 wire::Position last, uint64_t preallocate_bytes) {
  const std::string path = path_of(directory, index);
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) return Status::failed(errno, "create segment " + path);
  const SegmentHeader header = header_of(index, base, last);
  int error = write_header(fd.get(), header);
  // The header before any record, so that records behind a bad header are known for damage.
  if (!error && fdatasync(fd.get()) != 0) error = errno;
  if (!error) error = sync_directory(directory);
  if (error) {
    unlink(path.c_str());
    return Status::failed(error, "create segment " + path);
  }
  const uint64_t allocated = preallocate(fd.get(), kSegmentHeaderBytes, kSegmentHeaderBytes + preallocate_bytes);
  return std::shared_ptr<Segment>(new Segment(std::move(fd), path, header, kSegmentHeaderBytes, allocated));
}

Result<std::shared_ptr<Segment>> Segment::write_over(const std::string &set_aside, const std::string &directory,
                                                     uint64_t index, uint64_t base, wire::Position last,
                                                     uint64_t preallocate_bytes) {
  const std::string path = path_of(directory, index);
  Fd fd(::open(set_aside.c_str(), O_RDWR | O_CLOEXEC));
  struct stat info {};
  int error = fd && fstat(fd.get(), &info) == 0 ? 0 : errno;
  const SegmentHeader header = header_of(index, base, last);
  if (!error) error = write_header(fd.get(), header);
  // The header before the name, and both before any record.
  if (!error && fdatasync(fd.get()) != 0) error = errno;
  if (!error && rename(set_aside.c_str(), path.c_str()) != 0) error = errno;
  if (!error) error = sync_directory(directory);
  if (error) {
    unlink(set_aside.c_str());
    unlink(path.c_str());
    return Status::failed(error, "write over segment " + path);
  }
  const auto written = static_cast<uint64_t>(info.st_size);
  const uint64_t allocated = preallocate(fd.get(), written, kSegmentHeaderBytes + preallocate_bytes);
  return std::shared_ptr<Segment>(new Segment(std::move(fd), path, header, written, allocated));
}

Result<std::shared_ptr<Segment>> Segment::open(const std::string &directory, uint64_t index) {
  const std::string path = path_of(directory, index);
  Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return Status::failed(errno, "open segment " + path);
  if (const int error = read_from_disk(fd.get())) return Status::failed(error, "sync segment " + path);
  return of_file(std::move(fd), path, index);
}

Result<std::shared_ptr<Segment>> Segment::open_kept(const std::string &path, uint64_t index, uint64_t end) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (!fd || fstat(fd.get(), &info) != 0) return Status::failed(errno, "open segment " + path);
  auto segment = of_file(std::move(fd), path, index);
  if (!segment.ok()) return segment;
  if (end < segment.value->base() || static_cast<uint64_t>(info.st_size) < segment.value->file_offset(end))
    return Status::failed(EBADMSG, "open segment " + path + ": it does not reach to log offset " + std::to_string(end));
  segment.value->set_end(end);
  return segment;
}

Result<std::shared_ptr<Segment>> Segment::of_file(Fd fd, const std::string &path, uint64_t index) {
  SegmentHeader header{};
  size_t done = 0;
  if (int error = read_at(fd.get(), &header, sizeof header, 0, &done))
    return Status::failed(error, "read segment " + path);
  if (done != sizeof header || header.magic != kSegmentMagic || header.header_crc32c != checksum(header) ||
      header.index != index)
    return Status::failed(EBADMSG, "read segment " + path + ": bad header");
  if (header.version != kSegmentVersion)
    return Status::failed(EPROTONOSUPPORT, "read segment " + path + ": version " + std::to_string(header.version));
  return std::shared_ptr<Segment>(new Segment(std::move(fd), path, header, 0, 0));
}

int Segment::append(const void *data, size_t bytes) {
  const uint64_t at = end();
  if (int error = write_at(fd_.get(), data, bytes, file_offset(at))) return error;
  const uint64_t written = file_offset(at) + bytes;
  if (bytes <= kSmallAppendBytes && written > written_bytes_) write_zeroes_ahead(written);
  written_bytes_ = std::max(written_bytes_, written);
  if (!BROKEN(kAckBeforeSync) && fdatasync(fd_.get()) != 0) return errno;
  set_end(at + bytes);
  return 0;
}

// Only a help, too.
void Segment::write_zeroes_ahead(uint64_t from) {
  static const uint8_t kZeroes[64u << 10] = {};
  const uint64_t to = std::min(from + kZeroesAheadBytes, allocated_bytes_);
  for (uint64_t at = from; at < to; at = written_bytes_) {
    const size_t bytes = std::min<uint64_t>(sizeof kZeroes, to - at);
    if (write_at(fd_.get(), kZeroes, bytes, at) != 0) return;
    written_bytes_ = at + bytes;
  }
}

int Segment::trim() {
  return ftruncate(fd_.get(), static_cast<off_t>(file_offset(end()))) == 0 ? 0 : errno;
}

int Segment::settle(uint64_t end) {
  CHECK(end >= base());
  set_end(end);
  if (int error = trim()) return error;
  return fdatasync(fd_.get()) == 0 ? 0 : errno;
}

int Segment::read(void *data, size_t bytes, uint64_t log_offset, size_t *done) const {
  CHECK(log_offset >= base());
  return read_at(fd_.get(), data, bytes, file_offset(log_offset), done);
}

}  // namespace understudy::replay
