#include "replay/pending-records.h"

#include <algorithm>

namespace understudy::replay {

void PendingRecords::restart(uint64_t from) {
  entries_.clear();
  from_ = from;
}

void PendingRecords::note(const wire::RecordHeader &header, uint64_t log_offset) {
  entries_.push_back({log_offset, header.offset, header.length, header.sequence, header.time_ns, header.payload_crc32c,
                      header.volume_index, static_cast<uint8_t>(header.type), 0});
  if (entries_.size() <= kMax) return;
  entries_.pop_front();
  from_ = entries_.front().log_offset;
}

void PendingRecords::forget_below(uint64_t log_offset) {
  while (!entries_.empty() && entries_.front().log_offset < log_offset) entries_.pop_front();
  from_ = std::max(from_, log_offset);
}

std::optional<std::vector<RecordEntry>> PendingRecords::since(uint64_t log_offset) const {
  if (log_offset < from_) return std::nullopt;
  const auto first = std::lower_bound(entries_.begin(), entries_.end(), log_offset,
                                      [](const RecordEntry &entry, uint64_t at) { return entry.log_offset < at; });
  return std::vector<RecordEntry>(first, entries_.end());
}

}  // namespace understudy::replay
