// Calls of this process that stand in front of the C library's: what a test of the standby's files counts, hinders, or dies of.
// A program includes it in one source; what it hinders beside, it defines itself.
#pragma once
#include <linux/fs.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <functional>

namespace clone_calls {

inline std::atomic<int> calls_left{-1};  // so many more writes, syncs and names of this process work; then it is killed
inline void counts() {
  if (calls_left >= 0 && calls_left-- == 0) kill(getpid(), SIGKILL);
}
// Of a stretch of a file, by reflink: 0, or the errno that it ends with.
inline std::function<int()> before_clone;
inline std::atomic<int> clones{0};  // that were made

inline int fails(int error) {
  errno = error;
  return -1;
}
inline bool ends_with(int fd, const char *end) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  const auto size = static_cast<ssize_t>(strlen(end));
  return length > size && memcmp(path + length - size, end, strlen(end)) == 0;
}

}  // namespace clone_calls

extern "C" int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list rest;
  va_start(rest, request);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  if (request == FICLONERANGE) {
    clone_calls::counts();
    if (clone_calls::before_clone)
      if (const int error = clone_calls::before_clone()) return clone_calls::fails(error);
  }
  const int result = static_cast<int>(syscall(SYS_ioctl, fd, request, argument));
  if (request == FICLONERANGE && result == 0) clone_calls::clones++;
  return result;
}
extern "C" int rename(const char *from, const char *to) {
  clone_calls::counts();
  return static_cast<int>(syscall(SYS_rename, from, to));
}
extern "C" int unlink(const char *path) {
  clone_calls::counts();
  return static_cast<int>(syscall(SYS_unlink, path));
}
