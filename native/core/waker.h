// Waker: lets any thread wake one that sleeps in poll(), at the price of a system call only when it really sleeps.
//
// Sleeper:  waker.prepare();  if (there is work) waker.cancel(); else poll(waker.fd()...);  waker.woken();
// Others:   publish the work (release); waker.wake();
#pragma once
#include <sys/eventfd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

#include "core/fd.h"

namespace understudy {
class Waker {
 public:
  Waker() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
  int fd() const { return fd_.get(); }
  void prepare() {
    sleeping_.store(true, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  void cancel() { sleeping_.store(false, std::memory_order_relaxed); }
  void woken() {
    sleeping_.store(false, std::memory_order_relaxed);
    uint64_t count;
    while (read(fd_.get(), &count, sizeof count) < 0 && errno == EINTR) {
    }
  }
  void wake() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (sleeping_.load(std::memory_order_relaxed) && sleeping_.exchange(false)) {
      uint64_t one = 1;
      while (write(fd_.get(), &one, sizeof one) < 0 && errno == EINTR) {
      }
    }
  }

 private:
  Fd fd_;
  std::atomic<bool> sleeping_{false};
};
}  // namespace understudy
