#include "engine/direct-file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace understudy {
namespace {
constexpr int kStuckMax = 8;  // writes in a row that do less than one unit

struct Free {
  void operator()(char *memory) const { free(memory); }
};
using Piece = std::unique_ptr<char, Free>;

Piece aligned_piece(size_t bytes) {
  constexpr size_t kAlignment = DirectFile::kAlignmentMax;
  return Piece(static_cast<char *>(aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment)));
}

Status no_direct(const std::string &path, const std::string &why) {
  return Status::failed(EOPNOTSUPP, "open device: " + path + ": direct: " + why);
}

// What the kernel asks for, or else the device.
Result<DirectFile::Alignment> alignment_of(int fd, const std::string &path) {
  struct stat info{};
  if (fstat(fd, &info) != 0) return Status::failed(errno, "open device: " + path);
  const bool is_block = S_ISBLK(info.st_mode);
  struct statfs system{};
  // Newer kernels take O_DIRECT there and do what they do without it.
  if (!is_block && fstatfs(fd, &system) == 0 && (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC))
    return no_direct(path, "a file system in memory has nothing but the page cache");
  DirectFile::Alignment alignment;
  struct statx more{};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &more) == 0 && (more.stx_mask & STATX_DIOALIGN)) {
    alignment = {more.stx_dio_mem_align, more.stx_dio_offset_align};
    if (!alignment.memory || !alignment.unit) return no_direct(path, "its file system has no O_DIRECT for this file");
  } else if (int logical = 0; is_block && ioctl(fd, BLKSSZGET, &logical) == 0) {
    alignment = {static_cast<uint32_t>(logical), static_cast<uint32_t>(logical)};
  }
  if (std::max(alignment.memory, alignment.unit) > DirectFile::kAlignmentMax)
    return no_direct(path, "O_DIRECT asks for an alignment of more than 4096 bytes here");
  return alignment;
}

}  // namespace

Result<DirectFile> DirectFile::open(int fd, const std::string &path, bool writable) {
  auto alignment = alignment_of(fd, path);
  if (!alignment.ok()) return alignment.status;
  const std::string same = "/proc/self/fd/" + std::to_string(fd);  // the path may name another file by now
  DirectFile opened(Fd(::open(same.c_str(), (writable ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC)));
  opened.alignment_ = alignment.value;
  const int refused = opened.fd_ ? 0 : errno;
  if (refused && refused != EINVAL) return Status::failed(refused, "open device: " + path + ": with O_DIRECT");
  char first;
  if (refused || opened.read(&first, 1, 0) == EINVAL) return no_direct(path, "its file system refuses O_DIRECT");
  return opened;
}

// `wanted` of `bytes`: what follows may lie beyond the end of the file.
int DirectFile::read_units(char *data, size_t bytes, size_t wanted, uint64_t offset) const {
  for (size_t done = 0; done < wanted;) {
    const ssize_t got = pread(fd_.get(), data + done, bytes - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    done += static_cast<size_t>(got);
    if (done < wanted && (got == 0 || done % alignment_.unit)) return ENODATA;
  }
  return 0;
}

int DirectFile::write_units(const char *data, size_t bytes, uint64_t offset) const {
  int stuck = 0;
  for (size_t done = 0; done < bytes;) {
    const ssize_t put = pwrite(fd_.get(), data + done, bytes - done, static_cast<off_t>(offset + done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return errno;
    if (put == 0) return ENOSPC;
    const size_t units = static_cast<size_t>(put) / alignment_.unit * alignment_.unit;  // a part of one is written again
    if (units == 0 && ++stuck == kStuckMax) return EIO;
    done += units;
  }
  return 0;
}

int DirectFile::read(void *data, size_t bytes, uint64_t offset) const {
  auto *at = static_cast<char *>(data);
  while (bytes) {
    size_t part = bytes;
    if (is_aligned(at, offset) && bytes % alignment_.unit == 0) {
      if (const int error = read_units(at, bytes, bytes, offset)) return error;
    } else {
      const size_t lead = offset % alignment_.unit;
      part = std::min(bytes, kPieceBytes - lead);
      const Piece memory = aligned_piece(lead + part);
      if (!memory) return ENOMEM;
      if (const int error = read_units(memory.get(), whole(lead + part), lead + part, offset - lead)) return error;
      memcpy(at, memory.get() + lead, part);
    }
    at += part, bytes -= part, offset += part;
  }
  return 0;
}

int DirectFile::write(const void *data, size_t bytes, uint64_t offset) const {
  auto *at = static_cast<const char *>(data);
  while (bytes) {
    size_t part = bytes;
    if (is_aligned(at, offset) && bytes % alignment_.unit == 0) {
      if (const int error = write_units(at, bytes, offset)) return error;
    } else {
      part = std::min(bytes, kPieceBytes - offset % alignment_.unit);
      if (const int error = write_piece(at, part, offset)) return error;
    }
    at += part, bytes -= part, offset += part;
  }
  return 0;
}

int DirectFile::write_piece(const char *data, size_t bytes, uint64_t offset) const {
  const size_t unit = alignment_.unit, lead = offset % unit, total = whole(lead + bytes), last = total - unit;
  const uint64_t start = offset - lead;
  const Piece piece = aligned_piece(total);
  char *memory = piece.get();
  if (!memory) return ENOMEM;
  const bool reads_first = lead != 0, reads_last = (lead + bytes) % unit && !(reads_first && last == 0);
  if (reads_first)
    if (const int error = read_units(memory, unit, unit, start)) return error;
  if (reads_last)
    if (const int error = read_units(memory + last, unit, unit, start + last)) return error;
  memcpy(memory + lead, data, bytes);
  return write_units(memory, total, start);
}

}  // namespace understudy
