// Where a partition table itself lies on a device: libblkid tells the partitions, not the sectors they are written in.
#pragma once
#include <cstdint>
#include <vector>

#include "core/status.h"

namespace understudy::partition {

struct Area {
  uint64_t offset;
  uint64_t size_bytes;
};

// Both copies of a GPT: the protective MBR, each header that carries the signature, the entries it points to, and the
// two customary places at the ends of the device even when a header there is damaged (it is where a repair goes).
Result<std::vector<Area>> gpt_areas(int fd, uint64_t device_bytes, uint32_t sector_bytes);

// The sector of every extended boot record in the chain that starts at `extended_offset` (bytes). A chain that loops or
// leaves the device ends where it goes wrong.
Result<std::vector<Area>> ebr_areas(int fd, uint64_t device_bytes, uint32_t sector_bytes, uint64_t extended_offset);

}  // namespace understudy::partition
