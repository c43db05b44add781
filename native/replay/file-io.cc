#include "replay/file-io.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>

#include "core/fd.h"

namespace understudy::replay {

int write_at(int fd, const void *data, size_t bytes, uint64_t offset) {
  auto *from = static_cast<const uint8_t *>(data);
  while (bytes) {
    const ssize_t done = pwrite(fd, from, bytes, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return errno;
    if (done == 0) return EIO;
    from += done;
    offset += static_cast<uint64_t>(done);
    bytes -= static_cast<size_t>(done);
  }
  return 0;
}

int read_at(int fd, void *data, size_t bytes, uint64_t offset, size_t *done) {
  auto *to = static_cast<uint8_t *>(data);
  *done = 0;
  while (*done < bytes) {
    const ssize_t part = pread(fd, to + *done, bytes - *done, static_cast<off_t>(offset + *done));
    if (part < 0 && errno == EINTR) continue;
    if (part < 0) return errno;
    if (part == 0) break;
    *done += static_cast<size_t>(part);
  }
  return 0;
}

int sync_directory(const std::string &path) {
  Fd directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory || fsync(directory.get()) != 0) return errno;
  return 0;
}

int open_scratch(const std::string &directory) {
  int fd = open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0) return fd;
  if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL) return -errno;
  // A file system without O_TMPFILE: make a name and take it away again.
  std::string path = directory + "/scratch-XXXXXX";
  fd = mkostemp(path.data(), O_CLOEXEC);
  if (fd < 0) return -errno;
  unlink(path.c_str());
  return fd;
}

}  // namespace understudy::replay
