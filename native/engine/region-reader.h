// Reads a range of a volume as the standby should have it, on a worker: what the filter leaves out counts as zeroes.
#pragma once
#include <cstdint>
#include <vector>

#include "engine/volume.h"
#include "wire/control.h"

namespace understudy::engine {

// SHA-256.
void hash_bytes(const uint8_t *data, size_t bytes, uint8_t out[wire::kHashBytes]);

struct RegionData {
  std::vector<uint8_t> bytes;
  std::vector<uint64_t> unreadable;  // offsets of regions that could not be read: their bytes are zeroes
  int error = 0;                     // of the first of them
};
// kCached: through the page cache. kStored: past it.
enum class ReadFrom : uint8_t { kCached, kStored };
// [start, end) of the device with `left_out` blanked; region by region where the whole cannot be read.
RegionData read_regions(Device &device, const RangeTable &left_out, uint64_t start, uint64_t end, ReadFrom from);

}  // namespace understudy::engine
