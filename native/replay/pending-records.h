// PendingRecords: the durable records that are not applied yet, without their bytes, so that a promotion need not read them back.
// At most kMax, the newest (12 MiB): of a standby that is further behind not all are known.
#pragma once
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "replay/record-entry.h"

namespace understudy::replay {

class PendingRecords {
 public:
  static constexpr size_t kMax = 256u << 10;

  // From log offset `from` on, nothing is forgotten.
  void restart(uint64_t from);
  void note(const wire::RecordHeader &header, uint64_t log_offset);
  void forget_below(uint64_t log_offset);
  // All from there on, in their order, also those that change no image. nullopt: not all are known.
  std::optional<std::vector<RecordEntry>> since(uint64_t log_offset) const;

 private:
  std::deque<RecordEntry> entries_;
  uint64_t from_ = 0;  // log offset: all from there on are in entries_
};

}  // namespace understudy::replay
