#include "filesystem/ext-free.h"

#include <algorithm>

#include "filesystem/little-endian.h"

namespace understudy::filesystem {

namespace {

// Of a group's descriptor: nothing in it was ever in use but metadata, and its bitmap was not written.
bool is_untouched(const Geometry &geometry, const Committed &committed, uint32_t group, std::vector<uint8_t> &content, bool &known) {
  constexpr size_t kFlags = 18;
  known = true;
  if (!geometry.has_flags) return false;
  const uint32_t in_block = geometry.block_bytes / geometry.descriptor_bytes;
  known = group / in_block < geometry.descriptors.size() && committed.read_block(geometry.descriptors[group / in_block], content.data()).ok();
  return known && (le16(&content[size_t{group % in_block} * geometry.descriptor_bytes + kFlags]) & EXT2_BG_BLOCK_UNINIT);
}

}  // namespace

const std::vector<uint8_t> &FreeBlocks::used(const ExtState &state, const Committed &committed, uint32_t group) {
  if (const auto known = groups_.find(group); known != groups_.end()) return known->second;
  if (groups_.size() >= kGroupsMax) groups_.clear();
  const Geometry &geometry = state.geometry;
  std::vector<uint8_t> &bits = groups_[group];
  std::vector<uint8_t> content(geometry.block_bytes);
  bool known = false;
  const bool untouched = is_untouched(geometry, committed, group, content, known);
  if (!known) return bits;
  if (untouched) std::fill(content.begin(), content.end(), 0);
  else if (!committed.read_block(geometry.bitmaps[group], content.data()).ok()) return bits;
  // Metadata that stay where they are are in the bitmap, but of an untouched group.
  const uint64_t begin = geometry.first_block + uint64_t{group} * geometry.blocks_per_group, end = begin + geometry.blocks_per_group;
  auto at = std::upper_bound(state.fixed.begin(), state.fixed.end(), begin, [](uint64_t block, const Run &run) { return block < run.start + run.blocks; });
  for (; at != state.fixed.end() && at->start < end; ++at) {
    for (uint64_t block = std::max(at->start, begin); block < std::min(at->start + at->blocks, end); block++) {
      const uint64_t bit = (block - begin) / geometry.cluster_blocks;
      content[bit / 8] |= static_cast<uint8_t>(1u << bit % 8);
    }
  }
  bits = std::move(content);
  return bits;
}

void FreeBlocks::within(const ExtState &state, const Committed &committed, uint64_t first, uint64_t last, const std::function<void(uint64_t, uint64_t)> &visit) {
  const Geometry &geometry = state.geometry;
  uint64_t start = 0, count = 0;
  const auto flush = [&] {
    if (count) visit(start, count);
    count = 0;
  };
  for (uint64_t block = std::max<uint64_t>(first, geometry.first_block); block <= last && block < geometry.blocks;) {
    const uint64_t group = (block - geometry.first_block) / geometry.blocks_per_group;
    const uint64_t begin = geometry.first_block + group * geometry.blocks_per_group;
    if (group >= geometry.bitmaps.size()) break;
    const std::vector<uint8_t> &bits = used(state, committed, static_cast<uint32_t>(group));
    const uint64_t end = std::min({begin + geometry.blocks_per_group, last + 1, geometry.blocks});
    if (bits.empty()) flush(), block = end;
    for (; block < end; block++) {
      const uint64_t bit = (block - begin) / geometry.cluster_blocks;
      if (bits[bit / 8] >> bit % 8 & 1) flush();
      else if (count++ == 0) start = block;
    }
  }
  flush();
}

void FreeBlocks::forget(const ExtState &state, const std::vector<uint64_t> &blocks) {
  if (groups_.empty()) return;
  for (const uint64_t block : blocks)
    if (const auto group = state.bitmap_groups.find(block); group != state.bitmap_groups.end()) groups_.erase(group->second);
}

}  // namespace understudy::filesystem
