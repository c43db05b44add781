// KeptSegments: segments that the log needs no more and the history still does. A segment gets another name,
// INDEX.kept, beside the log's own: recovery does not look into it.
// Thread-safe. Readers have a file of their own, which stays readable when the segment is dropped.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "core/status.h"
#include "replay/segment.h"

namespace understudy::replay {

class KeptSegments {
 public:
  explicit KeptSegments(std::string directory) : directory_(std::move(directory)) {}
  static std::string path_of(const std::string &directory, uint64_t index);

  static void remove_all(const std::string &directory);
  // At the start: finds those that reach without a gap to log offset `log_start`, where the log's own begin, and removes
  // the others. Returns from where on they do.
  Result<uint64_t> load(uint64_t log_start);
  // Of a segment that is not written any more. False: it could not get its name. Before load(): rename() alone.
  bool keep(const Segment &segment);
  static bool rename(const std::string &directory, const Segment &segment);
  // Removes those that end at or below `log_offset`.
  void drop_below(uint64_t log_offset);
  void drop_all() { drop_below(UINT64_MAX); }

  // The one that holds the record at `log_offset`: ENOENT when none does.
  Result<std::shared_ptr<Segment>> open(uint64_t log_offset) const;
  uint64_t count() const;
  uint64_t bytes() const;

 private:
  struct Kept {
    uint64_t index, base, end;  // log offsets
  };
  const std::string directory_;
  mutable std::mutex mutex_;
  std::deque<Kept> kept_;  // oldest first, without gaps
};

}  // namespace understudy::replay
