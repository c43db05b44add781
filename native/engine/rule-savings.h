// Which rule for files keeps what from the standby: a table of the ranges that a watch may leave out, each with its rule, and
// what clients wrote there.
//
// Counters are by the rule's text, for as long as the volume is open: a file system that is read again, or a policy that changes and
// comes back, goes on counting. The table is looked at only for what was left out: a write that is replicated does not come here.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace understudy::engine {

// JavaScript's thread; the engine's counts.
class RuleSavings {
 public:
  using Counter = std::atomic<uint64_t>;
  static constexpr size_t kRulesMax = 1000;  // of all policies there were; what is beyond is counted for the volume only

  Counter *of(const std::string &rule) {
    const auto found = counters_.find(rule);
    if (found != counters_.end()) return &found->second;
    return counters_.size() < kRulesMax ? &counters_[rule] : nullptr;
  }
  template <typename Visit>
  void each(Visit visit) const {
    for (const auto &[rule, bytes] : counters_) visit(rule, bytes.load(std::memory_order_relaxed));
  }

 private:
  std::map<std::string, Counter> counters_;  // they stay where they are
};

// 16 bytes for each extent of a file that is left out.
class RuleRanges {
 public:
  RuleRanges() = default;
  explicit RuleRanges(std::vector<std::string> rules) : rules_(std::move(rules)) {}

  // rule: from 1 on, in `rules`; others are nobody's. By offset, disjoint.
  void add(uint64_t offset, uint64_t bytes, uint8_t rule) {
    if (rule == 0 || rule > rules_.size()) return;
    if (!ranges_.empty() && ranges_.back().rule == rule && ranges_.back().end() == offset) ranges_.back().bytes += bytes;
    else ranges_.push_back({offset, bytes, rule});
  }
  void count_in(RuleSavings &savings) {
    counters_.clear();
    for (const std::string &rule : rules_) counters_.push_back(savings.of(rule));
  }
  // Engine thread: [start, end) was written, and left out.
  void saved(uint64_t start, uint64_t end) const {
    auto at = std::upper_bound(ranges_.begin(), ranges_.end(), start, [](uint64_t offset, const RuleRange &range) { return offset < range.end(); });
    for (; at != ranges_.end() && at->offset < end; ++at) {
      if (counters_.empty() || !counters_[at->rule - 1u]) continue;
      const uint64_t bytes = std::min(end, at->end()) - std::max(start, at->offset);
      counters_[at->rule - 1u]->fetch_add(bytes, std::memory_order_relaxed);
    }
  }

 private:
  struct RuleRange {
    uint64_t offset;
    uint64_t bytes : 56, rule : 8;
    uint64_t end() const { return offset + bytes; }
  };
  static_assert(sizeof(RuleRange) == 16);

  std::vector<std::string> rules_;
  std::vector<RuleSavings::Counter *> counters_;
  std::vector<RuleRange> ranges_;
};

}  // namespace understudy::engine
