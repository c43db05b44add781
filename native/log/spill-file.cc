#include "log/spill-file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "core/fd.h"

namespace understudy::log {
namespace {
constexpr off_t kHeaderBytes = 4096;
constexpr char kMagic[] = "understudy log file 1\n";

template <typename Call>
int whole(uint64_t bytes, uint64_t at, const Call &call) {  // call(done, left, at): as pread and pwrite
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t moved = call(done, bytes - done, static_cast<off_t>(at + done));
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return errno;
    if (moved == 0) return EIO;  // cut off under us
    done += static_cast<uint64_t>(moved);
  }
  return 0;
}

int write_whole(int fd, const uint8_t *data, uint64_t bytes, uint64_t at) {
  return whole(bytes, at, [&](uint64_t done, uint64_t left, off_t from) { return pwrite(fd, data + done, left, from); });
}

int read_whole(int fd, uint8_t *data, uint64_t bytes, uint64_t at) {
  return whole(bytes, at, [&](uint64_t done, uint64_t left, off_t from) { return pread(fd, data + done, left, from); });
}

int write_header(int fd) {
  std::vector<uint8_t> header(kHeaderBytes);
  memcpy(header.data(), kMagic, sizeof kMagic);
  if (const int error = write_whole(fd, header.data(), header.size(), 0)) return error;
  return fsync(fd) == 0 ? 0 : errno;  // before the file grows: a crash must not leave one that we would refuse
}

// A power cut while the header was written leaves zeroes.
bool holds_nothing(int fd, off_t size) {
  if (size > kHeaderBytes) return false;
  std::vector<uint8_t> found(static_cast<size_t>(size));
  if (read_whole(fd, found.data(), found.size(), 0) != 0) return false;
  return std::all_of(found.begin(), found.end(), [](uint8_t byte) { return byte == 0; });
}

// 0: ours. EEXIST: somebody else's.
int check_header(int fd) {
  uint8_t found[sizeof kMagic];
  const int error = read_whole(fd, found, sizeof found, 0);
  if (error) return error;
  return memcmp(found, kMagic, sizeof found) == 0 ? 0 : EEXIST;
}

Status refused(int error) { return Status::failed(error, "open"); }

class FileOnDisk final : public SpillFile {
 public:
  FileOnDisk(std::string path, uint64_t bytes_max, Fd fd) : SpillFile(std::move(path), bytes_max), fd_(std::move(fd)) {}
  ~FileOnDisk() override { (void)!ftruncate(fd_.get(), kHeaderBytes); }
  int empty() override;
  int write(const uint8_t *data, uint64_t bytes, uint64_t position) override;
  int read(uint8_t *data, uint64_t bytes, uint64_t position) override;
  int sync() override { return fdatasync(fd_.get()) == 0 ? 0 : errno; }

 private:
  Fd fd_;
};
}  // namespace

Result<std::shared_ptr<SpillFile>> SpillFile::open(const std::string &path, uint64_t bytes_max) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
  if (!fd) return refused(errno);
  struct stat stat;
  if (fstat(fd.get(), &stat) != 0) return refused(errno);
  if (!S_ISREG(stat.st_mode)) return refused(EEXIST);
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return refused(errno == EWOULDBLOCK ? EBUSY : errno);
  if (fstat(fd.get(), &stat) != 0) return refused(errno);  // under the lock
  int error = holds_nothing(fd.get(), stat.st_size) ? write_header(fd.get()) : stat.st_size < kHeaderBytes ? EEXIST : check_header(fd.get());
  if (!error && fchmod(fd.get(), 0600) != 0) error = errno;
  if (!error && ftruncate(fd.get(), kHeaderBytes) != 0) error = errno;
  if (error) return refused(error);
  return std::shared_ptr<SpillFile>(std::make_shared<FileOnDisk>(path, bytes_max, std::move(fd)));
}

int FileOnDisk::empty() {
  if (ftruncate(fd_.get(), kHeaderBytes) != 0) return errno;
  // Asked first: a reservation that fails in the middle would fill the disk for a moment.
  struct statvfs space;
  if (fstatvfs(fd_.get(), &space) == 0 && space.f_blocks && space.f_bavail < bytes_max() / space.f_frsize) return ENOSPC;
  if (fallocate(fd_.get(), 0, kHeaderBytes, static_cast<off_t>(bytes_max())) == 0) return 0;
  const int error = errno;
  (void)!ftruncate(fd_.get(), kHeaderBytes);
  // A file system that cannot reserve says so when it is full.
  return error == EOPNOTSUPP || error == ENOSYS ? 0 : error;
}

int SpillFile::probe() {
  std::vector<uint8_t> data(4096, 0x5a), back(4096);
  if (const int error = write(data.data(), data.size(), 0)) return error;
  if (const int error = sync()) return error;
  if (const int error = read(back.data(), back.size(), 0)) return error;
  return back == data ? 0 : EIO;
}

int FileOnDisk::write(const uint8_t *data, uint64_t bytes, uint64_t position) {
  const uint64_t at = position % bytes_max(), first = std::min(bytes, bytes_max() - at);
  if (const int error = write_whole(fd_.get(), data, first, kHeaderBytes + at)) return error;
  return write_whole(fd_.get(), data + first, bytes - first, kHeaderBytes);
}

int FileOnDisk::read(uint8_t *data, uint64_t bytes, uint64_t position) {
  const uint64_t at = position % bytes_max(), first = std::min(bytes, bytes_max() - at);
  if (const int error = read_whole(fd_.get(), data, first, kHeaderBytes + at)) return error;
  return read_whole(fd_.get(), data + first, bytes - first, kHeaderBytes);
}

}  // namespace understudy::log
