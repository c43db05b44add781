// TurnGate: the applier holds it for a turn (a bounded run of whole records); whoever wants to see the images between
// two records takes it, and is let in at the end of the turn although the applier comes straight back.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "core/clock.h"

namespace understudy::replay {

class TurnGate {
 public:
  // The applier's side.
  std::unique_lock<std::mutex> turn() {
    while (visitors_.load(std::memory_order_relaxed)) std::this_thread::yield();
    return std::unique_lock(mutex_);
  }
  // Somebody waits for the end of this turn.
  bool is_wanted() const { return visitors_.load(std::memory_order_relaxed) > 0; }
  void turned() {
    if (waiters_.load()) changed_.notify_all();
  }

  // Everybody else's.
  std::unique_lock<std::mutex> visit() {
    visitors_.fetch_add(1);
    std::unique_lock lock(mutex_);
    visitors_.fetch_sub(1);
    return lock;
  }
  // Waits until done(), asked with the gate held after each turn, or the monotonic time `deadline_ns`. False: time.
  template <typename Done>
  bool wait(uint64_t deadline_ns, Done done) {
    constexpr uint64_t kSliceNs = 50'000'000;  // a missed notification costs no more
    waiters_.fetch_add(1);
    auto lock = visit();
    bool is_done;
    while (!(is_done = done())) {
      const uint64_t now = monotonic_ns();
      if (now >= deadline_ns) break;
      changed_.wait_for(lock, std::chrono::nanoseconds(std::min(kSliceNs, deadline_ns - now)));
    }
    lock.unlock();
    waiters_.fetch_sub(1);
    return is_done;
  }
  void wake_waiters() { changed_.notify_all(); }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<int> visitors_{0}, waiters_{0};
};

}  // namespace understudy::replay
