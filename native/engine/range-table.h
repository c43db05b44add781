// RangeTable: the filter, compiled flat: what of a volume is left out of replication. Looked up once per write.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace understudy::engine {

struct Range {
  uint64_t start, end;  // bytes, [start, end)
};

class RangeTable {
 public:
  RangeTable() = default;
  // Ranges must be sorted, disjoint and not empty: valid() says whether they are.
  explicit RangeTable(std::vector<Range> ranges) : ranges_(std::move(ranges)) {}
  bool valid() const {
    uint64_t end = 0;
    for (const Range &range : ranges_) {
      if (range.start >= range.end || (&range != ranges_.data() && range.start < end)) return false;
      end = range.end;
    }
    return true;
  }
  bool empty() const { return ranges_.empty(); }
  const std::vector<Range> &ranges() const { return ranges_; }

  bool touches(uint64_t start, uint64_t end) const {
    const auto at = first_after(start);
    return start < end && at != ranges_.end() && at->start < end;
  }
  // Calls visit(start, end) for each piece of [start, end) that is in none of the ranges, in order.
  template <typename Visit>
  void outside(uint64_t start, uint64_t end, Visit visit) const {
    for (auto at = first_after(start); start < end; ++at) {
      const uint64_t stop = at == ranges_.end() ? end : std::min(end, at->start);
      if (start < stop) visit(start, stop);
      if (at == ranges_.end()) return;
      start = std::max(start, at->end);
    }
  }
  // Calls visit(start, end) for each piece of [start, end) that is in one of the ranges, in order.
  template <typename Visit>
  void inside(uint64_t start, uint64_t end, Visit visit) const {
    for (auto at = first_after(start); start < end && at != ranges_.end() && at->start < end; ++at)
      visit(std::max(start, at->start), std::min(end, at->end));
  }

 private:
  std::vector<Range>::const_iterator first_after(uint64_t position) const {
    return std::upper_bound(ranges_.begin(), ranges_.end(), position,
                            [](uint64_t value, const Range &range) { return value < range.end; });
  }
  std::vector<Range> ranges_;
};

}  // namespace understudy::engine
