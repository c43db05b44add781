// What of an image has to be copied before it changes: its blocks in runs that are data or a hole.
#pragma once
#include <algorithm>
#include <cstdint>

#include "engine/device.h"
#include "replay/block-map.h"

namespace understudy::replay {

inline constexpr uint64_t kViewBlockBytes = 4096;
// To find a hole costs the file system a walk over all pieces up to the next one: a fifth of replay's time where an image lay in
// a hundred thousand. Reading one costs less.
inline constexpr uint64_t kHoleLookedForBytes = 1u << 20;

// each(offset, bytes, is_hole) -> 0 or an errno, for the `count` blocks from `first` on, in order. Whole blocks, but for
// the last one of a volume; a block that is partly a hole is data, and comes in runs of at most `data_bytes_max`. Of a short
// stretch all is said to be data.
template <typename Each>
int walk_blocks(Device &image, uint64_t first, uint64_t count, uint64_t data_bytes_max, Each each) {
  uint64_t at = first * kViewBlockBytes;
  const uint64_t end = std::min((first + count) * kViewBlockBytes, image.traits().size_bytes);
  const bool looks = end - at > kHoleLookedForBytes;
  while (at < end) {
    const Device::Extent extent = looks ? image.extent(at, end - at) : Device::Extent{end - at, false};
    uint64_t bytes = std::min(extent.bytes, end - at);
    const bool reaches_end = at + bytes == end;
    bool hole = extent.hole;
    if (hole && !reaches_end) bytes -= bytes % kViewBlockBytes;
    if (!reaches_end && !hole) bytes = (bytes + kViewBlockBytes - 1) / kViewBlockBytes * kViewBlockBytes;
    if (bytes == 0) bytes = kViewBlockBytes, hole = false;
    bytes = std::min(bytes, end - at);
    if (!hole) bytes = std::min(bytes, data_bytes_max);
    if (const int error = each(at, bytes, hole)) return error;
    at += bytes;
  }
  return 0;
}

}  // namespace understudy::replay
