// Budget: what one reading of a file system may cost. A client writes what it likes to its device, and while it is read:
// whatever the bytes say, the reading ends within the limits.
#pragma once
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>

namespace understudy::filesystem {

struct Limits {
  uint64_t memory_bytes_max = 1u << 30;  // of what is kept while reading, vectors at their largest
  std::chrono::milliseconds time_max{120'000};
  int attempts = 3;  // at a reading that meets what contradicts itself: often a write that was under way
  const std::atomic<bool> *cancelled = nullptr;  // set by any thread: the process wants to leave
};

// Used by one thread. Once spent it stays so, and every read fails with error().
class Budget {
 public:
  explicit Budget(const Limits &limits) : limits_(limits), deadline_(std::chrono::steady_clock::now() + limits.time_max) {}
  // Before each read, and now and then in loops without one. False: spent.
  bool goes_on() {
    if (error_ == 0 && limits_.cancelled && limits_.cancelled->load(std::memory_order_relaxed)) error_ = ECANCELED;
    if (error_ == 0 && std::chrono::steady_clock::now() >= deadline_) error_ = ETIMEDOUT;
    return error_ == 0;
  }
  // A vector grows by doubling: the old and the new one are there for a moment.
  bool take(uint64_t bytes) {
    taken_ += bytes;
    if (error_ == 0 && taken_ > limits_.memory_bytes_max / 3) error_ = EOVERFLOW;
    return error_ == 0;
  }
  int error() const { return error_; }  // 0, ECANCELED, ETIMEDOUT, EOVERFLOW

 private:
  const Limits limits_;
  const std::chrono::steady_clock::time_point deadline_;
  uint64_t taken_ = 0;
  int error_ = 0;
};

}  // namespace understudy::filesystem
