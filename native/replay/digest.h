// SHA-256 of a range of a volume, in pieces, so that a long one needs little memory.
#pragma once
#include <array>
#include <cstdint>

#include "engine/device.h"
#include "wire/record.h"

namespace understudy::replay {
using Digest = std::array<uint8_t, wire::kHashBytes>;
// 0 or the errno of the read. stored: past the page cache.
int digest_range(Device &device, uint64_t offset, uint64_t bytes, bool stored, Digest *digest);
Digest digest_of_zeroes(uint64_t bytes);
}  // namespace understudy::replay
