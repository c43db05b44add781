// The record stream of a session that compresses: batches of its bytes, each to be decoded by itself. docs/link-protocol.md.
#pragma once
#include <cstddef>
#include <cstdint>

namespace understudy::wire {

inline constexpr uint32_t kBatchBytesMax = 128u << 10;  // of the stream of records, in one batch

struct BatchHeader {
  uint32_t raw_bytes;  // of the stream of records, 1 to kBatchBytesMax
  uint32_t bytes;      // that follow, 1 to raw_bytes; as many: they are the raw ones

  bool is_sound() const { return raw_bytes > 0 && raw_bytes <= kBatchBytesMax && bytes > 0 && bytes <= raw_bytes; }
  bool is_compressed() const { return bytes < raw_bytes; }
};
static_assert(sizeof(BatchHeader) == 8);

}  // namespace understudy::wire
