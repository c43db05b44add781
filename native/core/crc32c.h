// CRC32C (Castagnoli, RFC 3720 appendix B.4): with the processor's instruction where there is one.
#pragma once
#include <cstddef>
#include <cstdint>

namespace understudy {
// Continues from `crc` (0 at the start), as zlib's crc32 does.
uint32_t crc32c(uint32_t crc, const void *data, size_t bytes);
}  // namespace understudy
