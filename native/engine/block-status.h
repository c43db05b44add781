// What the metadata contexts say of a range of a volume, extent by extent from its start on (proto.md, NBD_CMD_BLOCK_STATUS).
// Bounded: a shorter answer than was asked for is one, too. Lengths are whole blocks of the device. Engine thread only.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/volume.h"
#include "wire/nbd.h"

namespace understudy::engine {

struct StatusExtent {
  uint64_t bytes;
  uint32_t flags;
};

class StatusExtents {
 public:
  explicit StatusExtents(size_t most) : most_(most) {}
  // Of what follows the first extent too many nothing is taken.
  void add(uint64_t bytes, uint32_t flags) {
    if (full_ || bytes == 0) return;
    if (!list_.empty() && list_.back().flags == flags) {
      list_.back().bytes += bytes;
    } else if (list_.size() < most_) {
      list_.push_back({bytes, flags});
    } else {
      full_ = true;
    }
  }
  bool full() const { return full_; }
  size_t size() const { return list_.size(); }
  const std::vector<StatusExtent> &list() const { return list_; }

 private:
  const size_t most_;
  bool full_ = false;
  std::vector<StatusExtent> list_;
};

inline constexpr uint64_t kStatusBytesMax = 256ull << 30;    // of a context of ours in one reply: 512 KiB of the dirty map
inline constexpr uint64_t kStatusWindowBytes = 64ull << 20;  // the filter's table is asked for: 8192 extents of 4 KiB

// base:allocation
inline StatusExtents allocation_status(const Volume &volume, uint64_t start, uint64_t end, size_t most) {
  StatusExtents extents(most);
  const uint64_t unit = volume.device->traits().block_bytes_min;
  while (start < end && extents.size() < most) {
    Device::Extent found = volume.device->extent(start, end - start);
    if (found.bytes < end - start) found.bytes = std::max<uint64_t>(unit, found.bytes / unit * unit);
    extents.add(found.bytes, found.hole ? nbd::kStateHole | nbd::kStateZero : 0);
    start += found.bytes;
  }
  return extents;
}

// understudy:replicated. A block of which one byte is replicated counts as replicated.
inline StatusExtents replicated_status(const Volume &volume, uint64_t start, uint64_t end, size_t most) {
  StatusExtents extents(most);
  const uint64_t unit = volume.device->traits().block_bytes_min;
  end = std::min(end, start + kStatusBytesMax);
  uint64_t told = start;
  const auto tell = [&](uint64_t until, uint32_t flags) {
    if (until > told) extents.add(until - told, flags);
    told = std::max(told, until);
  };
  for (uint64_t from = start; from < end && volume.replicated && !extents.full(); from += kStatusWindowBytes) {
    volume.each_replicated(from, std::min(end, from + kStatusWindowBytes), [&](uint64_t piece, uint64_t stop) {
      tell(piece / unit * unit, nbd::kStateLeftOut);
      tell((stop + unit - 1) / unit * unit, 0);
    });
  }
  tell(end, nbd::kStateLeftOut);
  return extents;
}

// understudy:dirty
inline StatusExtents dirty_status(const Volume &volume, uint64_t start, uint64_t end, size_t most) {
  StatusExtents extents(most);
  end = std::min(end, start + kStatusBytesMax);
  while (start < end && !extents.full()) {
    const uint64_t stop = volume.dirty.same_until(start, end);
    extents.add(stop - start, volume.dirty.is_dirty(start) ? uint32_t{nbd::kStateDirty} : 0);
    start = stop;
  }
  return extents;
}

}  // namespace understudy::engine
