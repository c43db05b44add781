// Whether bytes are all zeroes: at the speed of memcmp, each compared with the one before it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace understudy {
inline bool all_zero(const uint8_t *data, size_t bytes) {
  return bytes == 0 || (data[0] == 0 && memcmp(data, data + 1, bytes - 1) == 0);
}
}  // namespace understudy
