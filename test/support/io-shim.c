// An LD_PRELOAD for daemons under test: what they do to one file (IO_SHIM_FILE), in order, in a log (IO_SHIM_LOG), and
// faults on demand. Each fault is on while a file of its name lies in IO_SHIM_FAULTS:
//   slow-flush      fdatasync takes 300 ms            fail-flush   fdatasync: EIO
//   fail-write      pwrite: EIO                       no-zero      fallocate: EOPNOTSUPP
//   no-space        pwrite: half of it, then ENOSPC   short-write  pwrite: half of it
//   bad-sector      pread, preadv2 of the 4096 bytes at 1 MiB: EIO
//   hang-write      pwrite does not return while it is on
//   hang-flush      fdatasync does not either
//
// The log: "write OFFSET LENGTH" and "zero OFFSET LENGTH" when the call has returned, "flush-begin", "flush-end".
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int watched(int fd) {
  const char *path = getenv("IO_SHIM_FILE");
  struct stat file, named;
  return path && fstat(fd, &file) == 0 && stat(path, &named) == 0 && file.st_ino == named.st_ino && file.st_dev == named.st_dev;
}

static int fault(const char *name) {
  char path[4096];
  const char *folder = getenv("IO_SHIM_FAULTS");
  if (!folder) return 0;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return access(path, F_OK) == 0;
}

static void note(const char *what, long long offset, long long length) {
  static int log_fd = -1;
  char line[128];
  int saved = errno, bytes;
  if (log_fd < 0 && getenv("IO_SHIM_LOG")) log_fd = open(getenv("IO_SHIM_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (length < 0) bytes = snprintf(line, sizeof line, "%s\n", what);
  else bytes = snprintf(line, sizeof line, "%s %lld %lld\n", what, offset, length);
  if (log_fd >= 0 && syscall(SYS_write, log_fd, line, bytes) != bytes) abort();
  errno = saved;
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset) {
  static ssize_t (*real)(int, const void *, size_t, off_t);
  if (!real) real = dlsym(RTLD_NEXT, "pwrite");
  if (!watched(fd)) return real(fd, data, bytes, offset);
  while (fault("hang-write")) usleep(10000);
  if (fault("fail-write")) return errno = EIO, -1;
  if (fault("no-space") && bytes <= 4096) return errno = ENOSPC, -1;
  if (bytes > 1 && (fault("no-space") || fault("short-write"))) bytes /= 2;
  ssize_t result = real(fd, data, bytes, offset);
  note("write", offset, result);
  return result;
}
ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t offset) __attribute__((alias("pwrite")));

static int bad_sector(int fd, size_t bytes, off_t offset) {
  const off_t bad = 1 << 20;
  return offset < bad + 4096 && bad < offset + (off_t)bytes && watched(fd) && fault("bad-sector");
}
ssize_t pread(int fd, void *data, size_t bytes, off_t offset) {
  static ssize_t (*real)(int, void *, size_t, off_t);
  if (!real) real = dlsym(RTLD_NEXT, "pread");
  if (bad_sector(fd, bytes, offset)) return errno = EIO, -1;
  return real(fd, data, bytes, offset);
}
ssize_t pread64(int fd, void *data, size_t bytes, off64_t offset) __attribute__((alias("pread")));
ssize_t preadv2(int fd, const struct iovec *vectors, int count, off_t offset, int flags) {
  static ssize_t (*real)(int, const struct iovec *, int, off_t, int);
  if (!real) real = dlsym(RTLD_NEXT, "preadv2");
  size_t bytes = 0;
  for (int i = 0; i < count; i++) bytes += vectors[i].iov_len;
  if (bad_sector(fd, bytes, offset)) return errno = EIO, -1;
  return real(fd, vectors, count, offset, flags);
}
ssize_t preadv64v2(int fd, const struct iovec *vectors, int count, off64_t offset, int flags)
    __attribute__((alias("preadv2")));

int fallocate(int fd, int mode, off_t offset, off_t length) {
  static int (*real)(int, int, off_t, off_t);
  if (!real) real = dlsym(RTLD_NEXT, "fallocate");
  if (!watched(fd)) return real(fd, mode, offset, length);
  if (fault("no-zero")) return errno = EOPNOTSUPP, -1;
  int result = real(fd, mode, offset, length);
  note("zero", offset, length);
  return result;
}
int fallocate64(int fd, int mode, off64_t offset, off64_t length) __attribute__((alias("fallocate")));

static int flush(const char *name, int fd) {
  int (*real)(int) = dlsym(RTLD_NEXT, name);
  if (!watched(fd)) return real(fd);
  note("flush-begin", 0, -1);
  if (fault("slow-flush")) usleep(300000);
  while (fault("hang-flush")) usleep(10000);
  if (fault("fail-flush")) return errno = EIO, -1;
  int result = real(fd);
  note("flush-end", 0, -1);
  return result;
}
int fdatasync(int fd) { return flush("fdatasync", fd); }
int fsync(int fd) { return flush("fsync", fd); }
