// Which of an epoch's records are before a moment. Between a kBegin and its kStep there is no moment (G2): what lies
// there is as it was before the kBegin.
#pragma once
#include <optional>
#include <vector>

#include "replay/record-index.h"
#include "replay/saved-blocks.h"

namespace understudy::replay {

// How many of the entries are before the moment; nullopt: it is not in this epoch. A moment by time is in the epoch that
// has begun by then, a position where the epoch begins, or where a record of it has it or one later of its incarnation.
std::optional<size_t> count_before(const EpochStart &start, const std::vector<RecordEntry> &entries, const Moment &moment);
// The newest cut among the first `count`: at most so many.
size_t count_of_cut(const std::vector<RecordEntry> &entries, size_t count);
Point point_after(const EpochStart &start, const std::vector<RecordEntry> &entries, size_t count);
std::vector<EpochRun> runs_of(const EpochStart &start, const std::vector<RecordEntry> &entries);

}  // namespace understudy::replay
