// Which of an epoch's records are before a moment.
#pragma once
#include <optional>
#include <vector>

#include "replay/record-entry.h"
#include "replay/saved-blocks.h"

namespace understudy::replay {

// How many of the entries are before the moment; nullopt: it is not in this epoch. A moment by time is in the epoch that
// has begun by then, a position where the epoch begins, or where a record of it has it or one later of its incarnation.
std::optional<size_t> count_before(const EpochStart &start, const std::vector<RecordEntry> &entries, const Moment &moment);

}  // namespace understudy::replay
