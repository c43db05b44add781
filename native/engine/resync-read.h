// What a resynchronisation has read of the device, and how that compares with what the standby has there.
#pragma once
#include <cstdint>
#include <vector>

#include "engine/region-reader.h"
#include "engine/resync.h"

namespace understudy::engine {

struct Resync::ReadResult {
  Volume *volume;
  uint64_t start, end, flight, held, epoch;
  std::vector<wire::HashEntry> theirs;
  RegionData data;
  std::vector<uint8_t> zero;     // per region: all zeroes
  std::vector<uint8_t> differs;  // per region
};

}  // namespace understudy::engine
