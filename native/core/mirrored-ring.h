// A ring whose memory is mapped twice in a row, so that any run of up to size() bytes is contiguous.
//
//   [ 0 ....... size ) [ size ....... 2*size )   the second half shows the same pages
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/status.h"

namespace understudy {
class MirroredRing {
 public:
  MirroredRing() = default;
  MirroredRing(MirroredRing &&other) noexcept { *this = std::move(other); }
  MirroredRing &operator=(MirroredRing &&other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MirroredRing();
  // size: rounded up to whole pages. Memory is taken from the kernel as it is touched.
  static Result<MirroredRing> create(size_t size);
  size_t size() const { return size_; }
  // The byte at the ever-growing position; size() bytes from there on may be touched.
  uint8_t *at(uint64_t position) const { return data_ + position % size_; }

 private:
  uint8_t *data_ = nullptr;
  size_t size_ = 0;
};
}  // namespace understudy
