// A record without its bytes, as the history remembers it.
#pragma once
#include <cstdint>

#include "wire/record.h"

namespace understudy::replay {

struct RecordEntry {
  uint64_t log_offset;      // of the record's header
  uint64_t offset, length;  // as in the record; of a kBegin: offset is its incarnation
  uint64_t sequence;
  uint64_t time_ns;
  uint32_t payload_crc32c;
  uint16_t volume;
  uint8_t type;       // wire::RecordType; in a history sequenced ones only
  uint8_t is_skipped; // void, or of unknown outcome: it was not applied
};
static_assert(sizeof(RecordEntry) == 48);

inline bool changes_image(const RecordEntry &entry) {
  const auto type = static_cast<wire::RecordType>(entry.type);
  return !entry.is_skipped && (type == wire::RecordType::kWrite || type == wire::RecordType::kSync ||
                               type == wire::RecordType::kZero || type == wire::RecordType::kTrim);
}

}  // namespace understudy::replay
