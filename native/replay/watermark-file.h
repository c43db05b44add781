// The watermark file: up to where the images are on stable storage. Two slots written in turn, each with a checksum and
// a counter, so that a torn write leaves the one before. Replay starts at the newer good slot.
//
//   0: slot | 4096: slot | 8192: reach          (each in a sector of its own)
//
// reach: the images may hold records up to this log offset. Written before they do, and not synced: it survives a
// killed process as the image's own pages do. A log that ends before it has lost records that the images show.
//
// Written only after an image fdatasync that covers it; never moves past the kBegin of a step that is not complete.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "core/fd.h"
#include "core/status.h"
#include "replay/replica.h"

namespace understudy::replay {

struct Watermark {
  wire::Position applied;           // the last sequenced record that is in the images (or was void)
  uint64_t bytes = 0;               // its RecordHeader::written_bytes
  uint64_t committed = 0;           // the largest `committed` of records of applied.incarnation up to log_offset
  uint64_t log_offset = 0;          // replay starts here
  uint64_t durable_offset = 0;      // the log reached at least to here: less at the next start means damage
  uint64_t segment_index_next = 0;  // no segment of this number or above had been made
  uint64_t begin_sequence = 0;      // of the last kBegin before log_offset
  ReplicaPhase phase = ReplicaPhase::kFresh;  // kFresh, kInitial or kCut
  uint64_t volume_count = 0;        // whose store this is
  uint64_t volume_bytes = 0;        // sizes of all volumes together
};

class WatermarkFile {
 public:
  // Opens or makes DIRECTORY/watermark and locks it: EBUSY when another process has it.
  static Result<WatermarkFile> open(const std::string &directory);
  // Nothing: the file is new. EBADMSG: neither slot is good.
  Result<std::optional<Watermark>> load();
  // Durable when it returns 0; else an errno, and the file still says what it said before.
  int store(const Watermark &watermark);
  // Best effort: where it cannot be written, the last store() says how far the log reached.
  void reach(uint64_t log_offset);

 private:
  Fd fd_;
  std::string path_;
  uint64_t counter_ = 0;  // of the newest good slot
  uint64_t reached_ = 0;
};

}  // namespace understudy::replay
