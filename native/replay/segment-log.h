// SegmentLog: the standby's log as a run of segments without gaps, oldest first.
//
//   [ 3: 0..64M ) [ 4: 64M..128M ) [ 5: 128M..end )   <- append()
//   ^ gone once the watermark is past its end
//
// Guarantees: what append() has accepted is on stable storage. A failed write or fdatasync is never retried in place:
// the segment is cut back to its last good end and closed, and the next append() makes a new one. Bounded by
// log_bytes_max.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/status.h"
#include "replay/replica.h"
#include "replay/segment.h"

namespace understudy::replay {

class SegmentLog {
 public:
  SegmentLog(std::string directory, uint64_t segment_bytes, uint64_t log_bytes_max, ReplicaState &state)
      : directory_(std::move(directory)), segment_bytes_(segment_bytes), log_bytes_max_(log_bytes_max), state_(state) {}

  // After recovery: the segments that are left, and the number of the next one.
  void adopt(std::vector<std::shared_ptr<Segment>> segments, uint64_t index_next);

  // Logger thread: whole records that begin at log offset `base`; `last` is the last sequenced record before them.
  // ENOSPC: the log or the file system is full for now.
  Status append(const void *records, size_t bytes, uint64_t base, wire::Position last);
  // Any thread: the segment that holds log offset `offset`, or null.
  std::shared_ptr<Segment> find(uint64_t offset) const;
  // Removes the segments that end at or below `offset`, which the watermark file has passed; the one that is being
  // written stays.
  void remove_below(uint64_t offset);
  uint64_t index_next() const;
  uint64_t segment_bytes() const { return segment_bytes_; }

 private:
  Status roll(uint64_t base, wire::Position last);
  Status make_room(size_t bytes);
  void close_current();
  void sweep();         // with mutex_ held
  void count() const;   // with mutex_ held: brings the state up to date

  const std::string directory_;
  const uint64_t segment_bytes_;
  const uint64_t log_bytes_max_;
  ReplicaState &state_;
  mutable std::mutex mutex_;                         // of all below
  std::vector<std::shared_ptr<Segment>> segments_;
  std::shared_ptr<Segment> current_;                 // segments_.back() or null; changed by the logger thread only
  uint64_t index_next_ = 1;
  uint64_t removable_below_ = 0;
};

}  // namespace understudy::replay
