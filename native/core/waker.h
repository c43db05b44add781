// Waker: lets any thread wake one that sleeps in poll(), at the price of a system call only when it really sleeps.
//
// Sleeper:  waker.prepare();  if (there is work) waker.cancel(); else poll(waker.fd()...);  waker.woken();
// Others:   publish the work (release); waker.wake();
//
// A wake-up costs more than a small piece of work. So a thread that has just worked may nap: prepare(kNap) and a poll()
// of a fraction of a millisecond. wake_lazily() does not end a nap, only a sleep; what waits is found after the nap.
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
  enum Rest : uint8_t { kAwake = 0, kNap = 1, kSleep = 2 };
  void prepare(Rest rest = kSleep) {
    rest_.store(rest, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  void cancel() { rest_.store(kAwake, std::memory_order_relaxed); }
  void woken() {
    rest_.store(kAwake, std::memory_order_relaxed);
    uint64_t count;
    while (read(fd_.get(), &count, sizeof count) < 0 && errno == EINTR) {
    }
  }
  void wake() { wake_from(kNap); }
  void wake_lazily() { wake_from(kSleep); }

 private:
  void wake_from(Rest least) {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (rest_.load(std::memory_order_relaxed) >= least && rest_.exchange(kAwake) != kAwake) {
      uint64_t one = 1;
      while (write(fd_.get(), &one, sizeof one) < 0 && errno == EINTR) {
      }
    }
  }

  Fd fd_;
  std::atomic<uint8_t> rest_{kAwake};
};
}  // namespace understudy
