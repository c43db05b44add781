// RangeTable: a set of bytes of a volume, kept as ranges: what the filter leaves out, above all. Looked up once per write; rules
// for files make hundreds of thousands of ranges, and take small pieces out of them at each commit, so it is a tree.
#pragma once
#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

namespace understudy::engine {

struct Range {
  uint64_t start, end;  // bytes, [start, end)
};

class RangeTable {
 public:
  RangeTable() = default;
  // Ranges must be valid().
  explicit RangeTable(const std::vector<Range> &ranges) {
    for (const Range &range : ranges) put(ranges_.end(), range.start, range.end);
  }
  // Sorted, disjoint, and none of them empty.
  static bool valid(const std::vector<Range> &ranges) {
    uint64_t end = 0;
    for (const Range &range : ranges) {
      if (range.start >= range.end || range.start < end) return false;
      end = range.end;
    }
    return true;
  }
  bool operator==(const RangeTable &other) const { return ranges_ == other.ranges_; }
  bool empty() const { return ranges_.empty(); }
  size_t size() const { return ranges_.size(); }
  uint64_t bytes() const { return bytes_; }

  void add(uint64_t start, uint64_t end) {
    if (start >= end) return;
    auto at = ranges_.lower_bound(start);  // touching is joined
    while (at != ranges_.end() && at->second <= end) {
      start = std::min(start, at->second);
      end = std::max(end, at->first);
      at = drop(at);
    }
    put(at, start, end);
  }
  void subtract(uint64_t start, uint64_t end) {
    if (start >= end) return;
    for (auto at = ranges_.upper_bound(start); at != ranges_.end() && at->second < end;) {
      const Range range{at->second, at->first};
      at = drop(at);
      if (range.start < start) put(at, range.start, start);
      if (range.end > end) put(at, end, range.end);
    }
  }

  bool touches(uint64_t start, uint64_t end) const {
    const auto at = ranges_.upper_bound(start);
    return start < end && at != ranges_.end() && at->second < end;
  }
  // Calls visit(start, end) for each piece of [start, end) that is in none of the ranges, in order.
  template <typename Visit>
  void outside(uint64_t start, uint64_t end, Visit visit) const {
    for (auto at = ranges_.upper_bound(start); start < end; ++at) {
      const uint64_t stop = at == ranges_.end() ? end : std::min(end, at->second);
      if (start < stop) visit(start, stop);
      if (at == ranges_.end()) return;
      start = std::max(start, at->first);
    }
  }
  // Calls visit(start, end) for each piece of [start, end) that is in one of the ranges, in order.
  template <typename Visit>
  void inside(uint64_t start, uint64_t end, Visit visit) const {
    for (auto at = ranges_.upper_bound(start); start < end && at != ranges_.end() && at->second < end; ++at)
      visit(std::max(start, at->second), std::min(end, at->first));
  }
  // Calls visit(start, end) for each piece of this that is not in `other`, in order.
  template <typename Visit>
  void without(const RangeTable &other, Visit visit) const {
    auto cut = other.ranges_.begin();
    for (auto [end, start] : ranges_) {
      while (cut != other.ranges_.end() && cut->first <= start) ++cut;
      for (auto at = cut; start < end; ++at) {
        const uint64_t stop = at == other.ranges_.end() ? end : std::min(end, at->second);
        if (start < stop) visit(start, stop);
        if (at == other.ranges_.end()) break;
        start = std::max(start, at->first);
      }
    }
  }
  template <typename Visit>
  void each(Visit visit) const {
    for (const auto &[end, start] : ranges_) visit(start, end);
  }

 private:
  using Ranges = std::map<uint64_t, uint64_t>;  // start by end: upper_bound(position) is the first that lies behind it

  void put(Ranges::iterator before, uint64_t start, uint64_t end) {
    ranges_.emplace_hint(before, end, start);
    bytes_ += end - start;
  }
  Ranges::iterator drop(Ranges::iterator at) {
    bytes_ -= at->first - at->second;
    return ranges_.erase(at);
  }

  Ranges ranges_;
  uint64_t bytes_ = 0;
};

}  // namespace understudy::engine
