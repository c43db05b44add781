// EpochTally: what the records of an epoch come to, kept up one by one: nobody walks all of them to know where it ends.
// Between a kBegin and its kStep there is no moment (G2): what lies there is as it was before the kBegin.
#pragma once
#include <cstddef>
#include <vector>

#include "replay/record-entry.h"
#include "replay/saved-blocks.h"

namespace understudy::replay {

class EpochTally {
 public:
  explicit EpochTally(const EpochStart &start);
  void add(const RecordEntry &entry);
  void add(const std::vector<RecordEntry> &entries, size_t count);  // the first `count`

  size_t count() const { return count_; }
  size_t begins() const { return begins_; }        // kBegins
  size_t cut_count() const { return cut_count_; }  // records up to the newest moment
  const Point &cut() const { return cut_; }        // the newest moment
  const Point &last() const { return last_; }      // the last record
  uint64_t changed_bytes() const { return changed_bytes_; }  // that its records wrote over, in whole blocks
  const std::vector<EpochRun> &runs() const { return runs_; }

 private:
  size_t count_ = 0, begins_ = 0, cut_count_ = 0;
  uint64_t changed_bytes_ = 0;
  bool in_step_ = false;
  Point cut_, last_;
  std::vector<EpochRun> runs_;
};

}  // namespace understudy::replay
