// Where the next request of a connection goes.
#pragma once
#include <cstdint>

#include "options.h"

namespace understudy::bench {

class Places {
 public:
  // `index`: which of the connections this is.
  Places(const Options &options, uint64_t export_bytes, unsigned index)
      : block_bytes_(options.block_bytes), state_(options.seed * 0x9e3779b97f4a7c15 + index * 0xd1342543de82ef95 + 1) {
    const uint64_t span = options.span_bytes > 0 && options.span_bytes < export_bytes ? options.span_bytes : export_bytes;
    blocks_ = span / block_bytes_;
    sequential_ = options.sequential;
    if (sequential_) {
      first_ = blocks_ * index / options.connections;
      blocks_ = blocks_ * (index + 1) / options.connections - first_;
    }
    if (options.regions > 0) {
      blocks_a_region_ = options.region_bytes / block_bytes_;
      blocks_between_ = blocks_ / options.regions;
      regions_ = options.regions;
    }
  }

  // A request fits at all, and regions do not overlap.
  bool possible() const { return blocks_ > 0 && (regions_ == 0 || (blocks_a_region_ > 0 && blocks_a_region_ <= blocks_between_)); }

  uint64_t next() {
    if (sequential_) {
      const uint64_t block = first_ + next_;
      if (++next_ == blocks_) next_ = 0;
      return block * block_bytes_;
    }
    if (regions_ == 0) return below(blocks_) * block_bytes_;
    return (below(regions_) * blocks_between_ + below(blocks_a_region_)) * block_bytes_;
  }

  uint64_t below(uint64_t limit) {  // splitmix64, and a multiplication instead of a division
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return static_cast<uint64_t>((static_cast<unsigned __int128>(z ^ (z >> 31)) * limit) >> 64);
  }

 private:
  uint64_t block_bytes_, blocks_ = 0, first_ = 0, next_ = 0, state_;
  uint64_t regions_ = 0, blocks_a_region_ = 0, blocks_between_ = 0;
  bool sequential_ = false;
};

}  // namespace understudy::bench
