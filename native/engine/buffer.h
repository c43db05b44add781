// Buffer: bytes between a socket and the engine. Grows as asked, never fills memory with zeroes first, and goes back to
// its small size when it is empty.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "core/check.h"
#include "core/memory-guard.h"

namespace understudy::engine {

class Buffer {
 public:
  explicit Buffer(size_t small_bytes) : small_(small_bytes) {}
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  ~Buffer() { free(data_); }

  uint8_t *begin() { return data_ + start_; }
  size_t size() const { return end_ - start_; }
  bool empty() const { return start_ == end_; }
  size_t capacity() const { return capacity_; }
  size_t room() const { return capacity_ - end_; }

  // At least `bytes` of room behind the end; what is there may move.
  void reserve(size_t bytes) {
    if (room() >= bytes) return;
    if (start_ && capacity_ - size() >= bytes) {
      memmove(data_, data_ + start_, size());
    } else {
      const size_t wanted = size() + bytes > small_ ? size() + bytes : small_;
      auto *grown = static_cast<uint8_t *>(malloc(wanted));
      CHECK(grown);
      memory_guard::hold_heap(grown, wanted);
      if (size()) memcpy(grown, data_ + start_, size());
      free(data_);
      data_ = grown;
      capacity_ = wanted;
    }
    end_ = size();
    start_ = 0;
  }
  uint8_t *end() { return data_ + end_; }
  void grow(size_t bytes) { end_ += bytes; }  // that many were put at end()
  void shrink(size_t bytes) { end_ -= bytes; }
  void consume(size_t bytes) {
    start_ += bytes;
    if (start_ != end_) return;
    start_ = end_ = 0;
    if (capacity_ > 4 * small_) {
      free(data_);
      data_ = nullptr;
      capacity_ = 0;
    }
  }
  void append(const void *data, size_t bytes) {
    if (bytes == 0) return;
    reserve(bytes);
    memcpy(end(), data, bytes);
    grow(bytes);
  }

 private:
  const size_t small_;
  uint8_t *data_ = nullptr;
  size_t capacity_ = 0, start_ = 0, end_ = 0;
};

}  // namespace understudy::engine
