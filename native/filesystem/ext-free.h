// Which blocks of an ext4 file system the last commit gives to nobody: the bitmaps of its groups, read when they are asked for.
//
// Guarantees: a block that anything has is not among them; bounded memory (kGroupsMax bitmaps of one block each).
#pragma once
#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include "filesystem/ext-state.h"

namespace understudy::filesystem {

class FreeBlocks {
 public:
  // visit(first block, blocks) for what of [first, last] is free.
  void within(const ExtState &state, const Committed &committed, uint64_t first, uint64_t last, const std::function<void(uint64_t, uint64_t)> &visit);
  // A transaction that has these blocks has been committed.
  void forget(const ExtState &state, const std::vector<uint64_t> &blocks);

 private:
  static constexpr size_t kGroupsMax = 64;

  // A bit for each cluster of the group: used. Empty: not known.
  const std::vector<uint8_t> &used(const ExtState &state, const Committed &committed, uint32_t group);

  std::unordered_map<uint32_t, std::vector<uint8_t>> groups_;
};

}  // namespace understudy::filesystem
