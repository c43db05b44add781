// Claims: who says that which blocks are his. In a file system that is in order no block is claimed twice; in one that is
// read while it is written, or that shares blocks, some are, and their files are replicated whole.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "filesystem/budget.h"

namespace understudy::filesystem {

inline constexpr uint32_t kNobodysFile = UINT32_MAX;  // metadata, directories, journals, files that are not listed

// Blocks [start, end).
struct Claim {
  uint64_t start;
  uint32_t blocks;
  uint32_t owner;  // index of a file, or kNobodysFile
};

class Claims {
 public:
  // cluster_blocks: blocks are handed out in so many (bigalloc); two owners in one cluster contradict each other.
  Claims(Budget &budget, uint32_t cluster_blocks) : budget_(budget), cluster_blocks_(cluster_blocks) {}

  // False: the budget is spent.
  bool add(uint64_t start, uint64_t blocks, uint32_t owner) {
    while (blocks > 0) {
      if (!claims_.empty() && claims_.back().owner == owner && claims_.back().start + claims_.back().blocks == start &&
          claims_.back().blocks < UINT32_MAX) {
        const uint64_t more = std::min<uint64_t>(blocks, UINT32_MAX - claims_.back().blocks);
        claims_.back().blocks += static_cast<uint32_t>(more), start += more, blocks -= more;
        continue;
      }
      if (!budget_.take(sizeof(Claim))) return false;
      const uint32_t part = static_cast<uint32_t>(std::min<uint64_t>(blocks, UINT32_MAX));
      claims_.push_back({start, part, owner});
      start += part, blocks -= part;
    }
    return true;
  }

  // Sorts; calls contested(owner) for both owners of each pair that meets.
  template <typename Contested>
  void settle(Contested contested);
  const std::vector<Claim> &all() const { return claims_; }

 private:
  Budget &budget_;
  const uint64_t cluster_blocks_;
  std::vector<Claim> claims_;
};

template <typename Contested>
void Claims::settle(Contested contested) {
  std::sort(claims_.begin(), claims_.end(), [](const Claim &a, const Claim &b) { return a.start < b.start; });
  // `furthest` reaches furthest of those before, so whoever meets any of them meets it, or somebody who has met it.
  const Claim *furthest = nullptr;
  for (const Claim &claim : claims_) {
    if (furthest) {
      const uint64_t end = furthest->start + furthest->blocks;
      const bool meets = furthest->owner == claim.owner
                             ? claim.start < end
                             : claim.start / cluster_blocks_ < (end + cluster_blocks_ - 1) / cluster_blocks_;
      if (meets) contested(furthest->owner), contested(claim.owner);
      if (claim.start + claim.blocks <= end) continue;
    }
    furthest = &claim;
  }
}

}  // namespace understudy::filesystem
