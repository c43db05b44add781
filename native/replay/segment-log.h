// SegmentLog: the standby's log as a run of segments without gaps, oldest first.
//
//   [ 3: 0..64M ) [ 4: 64M..128M ) [ 5: 128M..end )   <- append()
//   ^ gone once the watermark is past its end
//
// Guarantees: what append() has accepted is on stable storage. A failed write or fdatasync is never retried in place:
// the segment is cut back to its last good end and closed, and the next append() makes a new one. Bounded by
// log_bytes_max.
//
// A few files that are not needed any more are set aside and written over instead of made anew: their blocks are there.
//
//   3.seg --remove_below()--> 3.old, directory synced --roll()--> header of 9, synced --> 9.seg, directory synced
//
// What such a file held lies behind the new end, and a record of it may stand just where the next one will. Why recovery
// cannot take that for the next record of the log (wire::Chain): a file is written over only if
//   - it has no kBegin: only a kBegin may follow a record of another incarnation, or jump; and
//   - all its records are of the incarnation that the log is in when it is written over, with sequences below the log's
//     last: then none names that last one, or a later one, as its predecessor.
// By that, all that ever was in the file is of one incarnation, so this holds for what is left of earlier turns too.
#pragma once
#include <cstdint>
#include <functional>
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

  ~SegmentLog() { drop_spares(); }

  // Asked for each segment that is not needed any more, before find() forgets it: true: it was taken, and is left
  // alone. Called with the lock held, by any thread. Before the first append.
  void offer_to(std::function<bool(const Segment &)> take) { take_ = std::move(take); }

  struct Before {            // of the records that are appended
    wire::Position last;     // the last sequenced one before them
    uint64_t begin_offset;   // where the last kBegin lies, or 0
  };
  // Logger thread: whole records that begin at log offset `base`. ENOSPC: the log or the file system is full for now.
  Status append(const void *records, size_t bytes, uint64_t base, const Before &before);
  // Any thread: the segment that holds log offset `offset`, or null.
  std::shared_ptr<Segment> find(uint64_t offset) const;
  // Any thread. Removes, or sets aside, the segments that end at or below `offset`, which the watermark file has
  // passed; the one that is being written stays.
  void remove_below(uint64_t offset);
  // Any thread: nobody writes for now.
  void drop_spares();
  // Any thread: something has failed, maybe for want of room. From now on nothing is set aside.
  void keep_no_spares();
  uint64_t index_next() const;
  uint64_t segment_bytes() const { return segment_bytes_; }

 private:
  struct Spare {  // a file that is set aside
    std::string path;
    wire::Position last;  // of its records
    uint64_t bytes;
  };
  Status roll(uint64_t base, const Before &before);
  std::string take_spare(wire::Position last);
  Status make_room(size_t bytes);
  void close_current();
  bool set_aside(const Segment &segment);
  std::vector<std::shared_ptr<Segment>> take_removable();  // with mutex_ held
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
  std::vector<Spare> spares_;
  std::function<bool(const Segment &)> take_;        // null: nobody wants them
  bool keeps_spares_ = true;
};

}  // namespace understudy::replay
