// Recovery: what the segments prove after a restart.
//
// Reads on from the watermark: headers, payload checksums, chain; stops at the first record that is not good. That is
//   - the end: power was lost in the middle of an append; nothing past it was ever acknowledged or applied; or
//   - damage, when a later segment or the watermark file shows that the log once reached further. Then the images may
//     hold records that can no longer be replayed, so they are no cut: the replica becomes unusable (kInitial) without
//     a position, and the master compares everything.
// What lies past the end is cut off durably, so that it can never be taken for records later.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "replay/segment.h"
#include "replay/watermark-file.h"

namespace understudy::replay {

struct Recovered {
  std::vector<std::shared_ptr<Segment>> segments;  // from the watermark on
  uint64_t end = 0;                                // log offset
  uint64_t furthest = 0;                           // log offset that the log is known to have reached, at least
  uint64_t index_next = 1;
  uint64_t log_start = 0;                          // log offset where `segments` begin, or `end`
  std::string damage;                              // empty: none
};

// note(record, its log offset) is called for each good record at or after the watermark, in order. take: who wants the
// segments below it, which are removed otherwise (SegmentLog::offer_to()).
using NoteRecord = std::function<void(const uint8_t *record, size_t bytes, uint64_t log_offset)>;
Result<Recovered> recover_segments(const std::string &directory, const Watermark &from, const NoteRecord &note,
                                   const std::function<bool(const Segment &)> &take = nullptr);

}  // namespace understudy::replay
