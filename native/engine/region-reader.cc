#include "engine/region-reader.h"

#include <gnutls/crypto.h>

#include <cstring>

#include "core/check.h"

namespace understudy::engine {

void hash_bytes(const uint8_t *data, size_t bytes, uint8_t out[wire::kHashBytes]) {
  CHECK(gnutls_hash_fast(GNUTLS_DIG_SHA256, data, bytes, out) == 0);
}

RegionData read_regions(Device &device, const RangeTable &left_out, uint64_t start, uint64_t end, ReadFrom from) {
  RegionData result;
  const auto read = [&](void *data, size_t bytes, uint64_t offset) {
    return from == ReadFrom::kStored ? device.read_stored(data, bytes, offset) : device.read(data, bytes, offset);
  };
  result.bytes.resize(end - start);
  if (left_out.bytes() == end - start) return result;
  if (read(result.bytes.data(), end - start, start) != 0) {
    for (uint64_t at = start; at < end; at += wire::kRegionBytes) {
      const size_t bytes = std::min<uint64_t>(wire::kRegionBytes, end - at);
      const int error = read(result.bytes.data() + (at - start), bytes, at);
      if (!error) continue;
      memset(result.bytes.data() + (at - start), 0, bytes);
      result.unreadable.push_back(at);
      if (!result.error) result.error = error;
    }
  }
  left_out.inside(start, end, [&](uint64_t from, uint64_t to) {
    memset(result.bytes.data() + (from - start), 0, to - from);
  });
  return result;
}

}  // namespace understudy::engine
