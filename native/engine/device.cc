#include "engine/device.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "core/fd.h"
#include "engine/direct-file.h"

namespace understudy {
namespace {

class FileDevice final : public Device {
 public:
  FileDevice(Fd fd, DirectFile stored, bool stored_is_direct, const DeviceTraits &traits)
      : fd_(std::move(fd)), stored_(std::move(stored)), stored_is_direct_(stored_is_direct) {
    traits_ = traits;
  }

  int read(void *data, size_t bytes, uint64_t offset) override {
    if (traits_.direct) return read_stored(data, bytes, offset);
    return read_cached(data, bytes, offset);
  }

  int read_now(void *data, size_t bytes, uint64_t offset) override {
    if (traits_.direct) return EAGAIN;
    if (!nowait_.load(std::memory_order_relaxed)) return read_cached(data, bytes, offset);
    iovec vector{data, bytes};
    const ssize_t got = preadv2(fd_.get(), &vector, 1, static_cast<off_t>(offset), RWF_NOWAIT);
    if (got == static_cast<ssize_t>(bytes)) return 0;
    if (got >= 0) return EAGAIN;  // a part is cached: the worker reads it whole
    if (errno == EOPNOTSUPP) {    // this file system never says; its reads are taken as they come
      nowait_.store(false, std::memory_order_relaxed);
      return read_cached(data, bytes, offset);
    }
    return errno == EINTR ? EAGAIN : errno;
  }

  int read_stored(void *data, size_t bytes, uint64_t offset) override {
    if (!stored_is_direct_.load(std::memory_order_relaxed)) return read_evicted(data, bytes, offset);
    const int error = stored_.read(data, bytes, offset);
    if (traits_.direct) return error == ENODATA ? EIO : error;  // the file was cut off under us
    if (error == EINVAL) stored_is_direct_.store(false, std::memory_order_relaxed);  // stricter than it said
    return error == EINVAL || error == ENODATA ? read_evicted(data, bytes, offset) : error;
  }

  void forget_cached(uint64_t offset, uint64_t bytes) override {
    (void)posix_fadvise(fd_.get(), static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
  }

  int write(const void *data, size_t bytes, uint64_t offset) override {
    if (!traits_.direct) return write_cached(data, bytes, offset);
    // O_DIRECT would make a file longer that ends inside of a unit: what lies there goes through the page cache.
    const uint64_t units_end = traits_.size_bytes / stored_.unit() * stored_.unit();
    const size_t inside = offset < units_end ? std::min<uint64_t>(bytes, units_end - offset) : 0;
    if (const int error = stored_.write(data, inside, offset)) return error;
    return write_cached(static_cast<const char *>(data) + inside, bytes - inside, offset + inside);
  }

  int zero(uint64_t offset, uint64_t bytes, ZeroHow how, bool fast_only) override {
    // A block device zeroes whole sectors, and a file whole blocks without its page cache; what sticks out at the edges
    // is written.
    const uint64_t sector = traits_.is_block ? traits_.block_bytes_min : 1;
    const uint64_t unit = traits_.direct ? std::max<uint64_t>(sector, DirectFile::kAlignmentMax) : sector;
    const uint64_t first = (offset + unit - 1) / unit * unit, last = (offset + bytes) / unit * unit;
    if (first >= last) return write_zeroes(offset, bytes);
    if (const int error = write_zeroes(offset, first - offset)) return error;
    if (const int error = zero_aligned(first, last - first, how, fast_only)) return error;
    return write_zeroes(last, offset + bytes - last);
  }

  int flush() override { return fdatasync(fd_.get()) == 0 ? 0 : errno; }
  void unlock() override {
    struct flock lock{};
    lock.l_type = F_UNLCK;
    lock.l_whence = SEEK_SET;
    if (!traits_.is_block) fcntl(fd_.get(), F_OFD_SETLK, &lock);
  }

  void prefetch(uint64_t offset, uint64_t bytes) override {
    if (traits_.direct) return;
    (void)posix_fadvise(fd_.get(), static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_WILLNEED);
  }

  uint64_t hole_bytes(uint64_t offset, uint64_t bytes) override {
    if (traits_.is_block) return 0;
    const off_t data = lseek(fd_.get(), static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0) return errno == ENXIO ? bytes : 0;
    return std::min(bytes, static_cast<uint64_t>(data) - offset);
  }

  Extent extent(uint64_t offset, uint64_t bytes) override {
    if (traits_.is_block) return {bytes, false};
    const off_t data = lseek(fd_.get(), static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0) return {bytes, errno == ENXIO};
    if (static_cast<uint64_t>(data) > offset) return {std::min(bytes, static_cast<uint64_t>(data) - offset), true};
    const off_t hole = lseek(fd_.get(), static_cast<off_t>(offset), SEEK_HOLE);
    if (hole <= data) return {bytes, false};
    return {std::min(bytes, static_cast<uint64_t>(hole) - offset), false};
  }

 private:
  int read_cached(void *data, size_t bytes, uint64_t offset) {
    auto *at = static_cast<char *>(data);
    while (bytes) {
      const ssize_t got = pread(fd_.get(), at, bytes, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return errno;
      if (got == 0) return EIO;  // the file was cut off under us
      at += got, bytes -= static_cast<size_t>(got), offset += static_cast<uint64_t>(got);
    }
    return 0;
  }

  int write_cached(const void *data, size_t bytes, uint64_t offset) {
    auto *at = static_cast<const char *>(data);
    while (bytes) {
      const ssize_t put = pwrite(fd_.get(), at, bytes, static_cast<off_t>(offset));
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return errno;
      if (put == 0) return ENOSPC;
      at += put, bytes -= static_cast<size_t>(put), offset += static_cast<uint64_t>(put);
    }
    return 0;
  }

  // Where there is no O_DIRECT. Through a descriptor of its own, as sync_file_range takes the error of a failed write
  // off the descriptor it is called on, and flush() must still hear of it.
  int read_evicted(void *data, size_t bytes, uint64_t offset) {
    const auto start = static_cast<off_t>(offset), length = static_cast<off_t>(bytes);
    constexpr unsigned kWriteOut = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    if (sync_file_range(stored_.fd(), start, length, kWriteOut) != 0 && (errno == EIO || errno == ENOSPC)) return errno;
    (void)posix_fadvise(stored_.fd(), start, length, POSIX_FADV_DONTNEED);
    return read_cached(data, bytes, offset);
  }

  int zero_aligned(uint64_t offset, uint64_t bytes, ZeroHow how, bool fast_only) {
    const auto allocate = [&](int mode) {
      int result;
      do result = fallocate(fd_.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(bytes));
      while (result != 0 && errno == EINTR);
      return result == 0 ? 0 : errno;
    };
    constexpr int kPunchMode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    constexpr int kZeroMode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
    // On a block device kZeroMode falls back to writing zeroes inside the kernel: slow, so not when fast_only.
    if (how == ZeroHow::kKeep && !(traits_.is_block && fast_only)) {
      int error = allocate(kZeroMode);
      if (error == EOPNOTSUPP && !traits_.is_block) {  // tmpfs: give the pages back and take fresh ones
        error = allocate(kPunchMode);
        if (error == 0) error = allocate(FALLOC_FL_KEEP_SIZE);
      }
      if (error != EOPNOTSUPP) return error;
    } else if (how == ZeroHow::kPunch) {
      const int error = allocate(kPunchMode);
      if (error == 0 || (error != EOPNOTSUPP && error != EINVAL)) return error;
      if (traits_.is_block && !fast_only) {
        const int slower = allocate(kZeroMode);
        if (slower != EOPNOTSUPP && slower != EINVAL) return slower;
      }
    }
    return fast_only ? ENOTSUP : write_zeroes(offset, bytes);
  }

  int write_zeroes(uint64_t offset, uint64_t bytes) {
    alignas(DirectFile::kAlignmentMax) static const char kZeroes[64 << 10] = {};
    while (bytes) {
      const size_t part = std::min<uint64_t>(bytes, sizeof kZeroes);
      if (const int error = write(kZeroes, part, offset)) return error;
      offset += part, bytes -= part;
    }
    return 0;
  }

  Fd fd_;
  DirectFile stored_;  // for read_stored(); for everything but the end of an odd file if traits_.direct
  std::atomic<bool> stored_is_direct_;
  std::atomic<bool> nowait_{true};
};

// Whether the block layer can zero this device itself (a partition shares its disk's queue).
bool block_can_zero(dev_t device) {
  for (const char *level : {"", "/.."}) {
    char path[128];
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u%s/queue/write_zeroes_max_bytes", major(device), minor(device),
             level);
    if (FILE *file = fopen(path, "re")) {
      unsigned long long bytes = 0;
      const bool read = fscanf(file, "%llu", &bytes) == 1;
      fclose(file);
      if (read) return bytes > 0;
    }
  }
  return false;
}

Status describe_block(int fd, const struct stat &info, const std::string &path, DeviceTraits &traits) {
  int logical = 512;
  unsigned physical = 4096;
  if (ioctl(fd, BLKGETSIZE64, &traits.size_bytes) != 0) return Status::failed(errno, "open device: " + path + ": size");
  if (ioctl(fd, BLKSSZGET, &logical) != 0) logical = 512;
  if (ioctl(fd, BLKPBSZGET, &physical) != 0) physical = 4096;
  int kernel_read_only = 0;
  if (ioctl(fd, BLKROGET, &kernel_read_only) == 0 && kernel_read_only && !traits.read_only)
    return Status::failed(EROFS, "open device: " + path);
  traits.is_block = true;
  traits.block_bytes_min = static_cast<uint32_t>(logical);
  traits.block_bytes_preferred = std::max<uint32_t>(4096, physical);
  traits.can_zero = block_can_zero(info.st_rdev);
  return Status::good();
}

// One daemon at a time: a second opener of the same file gets EBUSY, also from another process.
Status lock_file(int fd, const std::string &path, bool read_only) {
  struct flock lock{};
  lock.l_type = read_only ? F_RDLCK : F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return Status::good();
  const int error = errno == EAGAIN || errno == EACCES ? EBUSY : errno;
  return Status::failed(error, "open device: " + path + ": it is in use by another process; lock it");
}

// A hole beyond the end changes nothing and tells whether holes can be made; so does one in a hole, for a file that is as
// long as its file system allows.
bool file_can_punch(int fd, off_t size_bytes) {
  const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  if (fallocate(fd, mode, size_bytes + 4096, 4096) == 0) return true;
  if (errno != EFBIG) return false;
  const off_t hole = lseek(fd, 0, SEEK_HOLE);
  return hole >= 0 && hole < size_bytes && fallocate(fd, mode, hole, 1) == 0;
}

Status describe_file(int fd, const std::string &path, const struct stat &info, const DeviceOptions &options,
                     DeviceTraits &traits) {
  if (Status status = lock_file(fd, path, options.read_only); !status.ok()) return status;
  traits.size_bytes = static_cast<uint64_t>(info.st_size);
  if (options.create && info.st_size == 0 && options.create_bytes) {
    if (ftruncate(fd, static_cast<off_t>(options.create_bytes)) != 0 || fsync(fd) != 0)
      return Status::failed(errno, "make image: " + path + ": " + std::to_string(options.create_bytes) + " bytes");
    traits.size_bytes = options.create_bytes;
  }
  if (!options.read_only) traits.can_zero = file_can_punch(fd, static_cast<off_t>(traits.size_bytes));
  return Status::good();
}

}  // namespace

Result<std::unique_ptr<Device>> open_device(const std::string &path, const DeviceOptions &options) {
  struct stat before{};
  const bool exists = stat(path.c_str(), &before) == 0;
  int flags = O_CLOEXEC | (options.read_only ? O_RDONLY : O_RDWR);
  if (exists && S_ISBLK(before.st_mode)) flags |= O_EXCL;
  if (!exists && options.create) flags |= O_CREAT | O_EXCL;
  Fd fd(open(path.c_str(), flags, 0600));
  if (!fd) return Status::failed(errno, "open device: " + path);
  struct stat info{};
  if (fstat(fd.get(), &info) != 0) return Status::failed(errno, "open device: " + path);
  DeviceTraits traits;
  traits.read_only = options.read_only;
  Status status = S_ISBLK(info.st_mode)   ? describe_block(fd.get(), info, path, traits)
                  : S_ISREG(info.st_mode) ? describe_file(fd.get(), path, info, options, traits)
                                          : Status::failed(EINVAL, "open device: " + path + ": not a file or block device");
  if (!status.ok()) return status;
  if (traits.size_bytes == 0) return Status::failed(EINVAL, "open device: " + path + ": it is empty");
  if (traits.size_bytes > 1ull << 62) return Status::failed(EFBIG, "open device: " + path);
  if (options.direct) {
    auto direct = DirectFile::open(fd.get(), path, !options.read_only);
    if (!direct.ok()) return direct.status;
    traits.direct = true;
    traits.unit_bytes = direct.value.unit();
    return std::unique_ptr<Device>(new FileDevice(std::move(fd), std::move(direct.value), true, traits));
  }
  const std::string same = "/proc/self/fd/" + std::to_string(fd.get());  // the path may name another file by now
  Fd stored(open(same.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
  const bool direct = static_cast<bool>(stored);
  if (!stored) stored = Fd(open(same.c_str(), O_RDONLY | O_CLOEXEC));
  if (!stored) return Status::failed(errno, "open device: " + path + ": a second time, to read past the page cache");
  return std::unique_ptr<Device>(new FileDevice(std::move(fd), DirectFile(std::move(stored)), direct, traits));
}

}  // namespace understudy
