// KeptSegments: segments that the log needs no more and the history still does. A segment gets another name,
// INDEX.kept, beside the log's own: recovery does not look into it. Compressed it is INDEX.keptz (KeptPacker).
// Thread-safe. Readers have a file of their own, which stays readable when the segment is dropped.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "core/status.h"
#include "replay/file-remover.h"
#include "replay/packed-segment.h"
#include "replay/segment.h"

namespace understudy::replay {

class KeptSegments {
 public:
  KeptSegments(std::string directory, FileRemover &remover) : directory_(std::move(directory)), remover_(remover) {}
  static std::string path_of(const std::string &directory, uint64_t index);

  static void remove_all(const std::string &directory);
  // At the start: finds those that reach without a gap to log offset `log_start`, where the log's own begin, and removes
  // the others. Returns from where on they do.
  Result<uint64_t> load(uint64_t log_start);
  // Of a segment that is not written any more. False: it could not get its name. Before load(): rename() alone.
  bool keep(const Segment &segment);
  // Compressed it counts as what it takes.
  struct Kept {
    uint64_t index, base, end;  // log offsets
    uint64_t bytes;             // of the file
    bool is_packed = false, is_left = false;
    uint64_t raw_bytes() const { return kSegmentHeaderBytes + end - base; }
  };
  static bool rename(const std::string &directory, const Segment &segment);
  // Removes those that end at or below `log_offset`.
  void drop_below(uint64_t log_offset);
  void drop_all() { drop_below(UINT64_MAX); }

  // The one that holds the record at `log_offset`: ENOENT when none does.
  Result<std::shared_ptr<LogPiece>> open(uint64_t log_offset) const;
  struct Sum {
    uint64_t count = 0, bytes = 0;                      // of all
    uint64_t packed = 0, packed_bytes = 0, raw_bytes = 0;  // of those that are compressed: they take, and hold
  };
  Sum sum() const;

  // The packer's: the oldest that is not compressed, and ends at or below `log_offset`.
  std::optional<Kept> to_pack(uint64_t log_offset) const;
  Result<std::shared_ptr<Segment>> open_raw(const Kept &kept) const;
  std::string fresh_path_of(uint64_t index) const;  // where it is made
  // It is made, and synced: it takes the place of the raw one, if that is still wanted.
  void replace(uint64_t index, uint64_t bytes);
  void leave(uint64_t index);  // it stays as it is

 private:
  Kept *find(uint64_t index);           // with mutex_ held
  void add(const Kept &kept, int sign);  // with mutex_ held, to sum_

  const std::string directory_;
  FileRemover &remover_;
  mutable std::mutex mutex_;
  std::deque<Kept> kept_;  // oldest first, without gaps
  Sum sum_;
  mutable std::weak_ptr<FrameCache> frames_;  // of those that are open
};

}  // namespace understudy::replay
