// Before a file of an earlier process is read and believed: what it had written reaches the disk, and what the disk has
// is read, not what the page cache shows. Those differ after a failed fdatasync, as the kernel calls a page clean that it
// could not write:
//
//   1. an fdatasync fails 2. the process is killed 3. the next one finds in the cache what was to be synced, its own
//   fdatasync succeeds, and it goes on from there 4. power is lost, and what it went on from was never there
//
// A file system may keep the pages (tmpfs has nothing else); then this is no worse than without.
#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace understudy {
inline int read_from_disk(int fd) {  // 0 or an errno
  if (fdatasync(fd) != 0) return errno;
  (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  return 0;
}
}  // namespace understudy
