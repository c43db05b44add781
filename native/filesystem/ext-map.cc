#include "filesystem/ext-map.h"

#include <algorithm>
#include <cstring>

namespace understudy::filesystem {
namespace {

constexpr uint16_t kExtentMagic = 0xf30a;
constexpr uint32_t kInitializedMax = 1u << 15, kDepthMax = 5;

// fs/ext4/ext4_extents.h, little-endian like the machines that this runs on
struct ExtentHeader {
  uint16_t magic, entries, entries_max, depth;
  uint32_t generation;
};
struct ExtentLeaf {
  uint32_t block;
  uint16_t length, start_high;
  uint32_t start;
};
struct ExtentIndex {
  uint32_t block, child;
  uint16_t child_high, unused;
};
static_assert(sizeof(ExtentHeader) == 12 && sizeof(ExtentLeaf) == 12 && sizeof(ExtentIndex) == 12);

struct Walk {
  const Geometry &geometry;
  const LoadBlock &load;
  Mapping &mapping;

  bool within(uint64_t start, uint64_t blocks) const {
    return start >= geometry.first_block && start < geometry.blocks && blocks <= geometry.blocks - start;
  }

  bool node(const uint8_t *data, size_t bytes, uint32_t depth, bool root) {
    ExtentHeader header;
    memcpy(&header, data, sizeof header);
    if (header.magic != kExtentMagic || header.depth > kDepthMax || (!root && header.depth != depth)) return false;
    if (sizeof header + header.entries * sizeof(ExtentLeaf) > bytes) return false;
    for (uint32_t i = 0; i < header.entries; i++) {
      const uint8_t *entry = data + sizeof header + i * sizeof(ExtentLeaf);
      if (header.depth == 0 ? !leaf(entry) : !child(entry, header.depth - 1u)) return false;
    }
    return true;
  }

  bool leaf(const uint8_t *entry) {
    ExtentLeaf one;
    memcpy(&one, entry, sizeof one);
    const uint32_t blocks = one.length > kInitializedMax ? one.length - kInitializedMax : one.length;
    const uint64_t start = uint64_t{one.start_high} << 32 | one.start;
    if (blocks == 0 || !within(start, blocks)) return false;
    mapping.runs.push_back({start, blocks});
    return true;
  }

  bool child(const uint8_t *entry, uint32_t depth) {
    ExtentIndex one;
    memcpy(&one, entry, sizeof one);
    const uint64_t block = uint64_t{one.child_high} << 32 | one.child;
    if (!within(block, 1) || mapping.nodes.size() >= kNodesMax) return false;
    mapping.nodes.push_back(block);
    std::vector<uint8_t> content(geometry.block_bytes);
    return load(block, content.data()) && node(content.data(), content.size(), depth, false);
  }
};

}  // namespace

Geometry::Place Geometry::place(uint32_t inode) const {
  const uint32_t group = (inode - 1) / inodes_per_group;
  const uint64_t offset = uint64_t{(inode - 1) % inodes_per_group} * inode_bytes;
  return {inode_tables[group] + offset / block_bytes, static_cast<uint32_t>(offset % block_bytes)};
}

bool meets(const std::vector<Run> &runs, const Run &run) {
  const auto at = std::upper_bound(runs.begin(), runs.end(), run.start, [](uint64_t block, const Run &one) { return block < one.start + one.blocks; });
  return at != runs.end() && at->start < run.start + run.blocks;
}

Geometry read_geometry(ext2_filsys fs) {
  Geometry geometry;
  geometry.block_bytes = fs->blocksize, geometry.inode_bytes = EXT2_INODE_SIZE(fs->super);
  geometry.inodes_per_group = fs->super->s_inodes_per_group, geometry.blocks_per_group = fs->super->s_blocks_per_group;
  geometry.cluster_blocks = static_cast<uint32_t>(EXT2FS_CLUSTER_RATIO(fs)), geometry.first_block = fs->super->s_first_data_block;
  geometry.first_inode = EXT2_FIRST_INODE(fs->super);
  geometry.inodes = fs->super->s_inodes_count, geometry.blocks = ext2fs_blocks_count(fs->super);
  for (dgrp_t group = 0; group < fs->group_desc_count; group++) {
    geometry.inode_tables.push_back(ext2fs_inode_table_loc(fs, group));
    geometry.bitmaps.push_back(ext2fs_block_bitmap_loc(fs, group));
  }
  geometry.descriptor_bytes = EXT2_DESC_SIZE(fs->super), geometry.has_flags = ext2fs_has_group_desc_csum(fs);
  // As ext2fs_open2() has it.
  const blk64_t first = geometry.first_block == 0 && geometry.block_bytes == 1024 && geometry.cluster_blocks > 1 ? 1 : geometry.first_block;
  for (unsigned long i = 0; i < fs->desc_blocks; i++) geometry.descriptors.push_back(ext2fs_descriptor_block_loc2(fs, first, static_cast<dgrp_t>(i)));
  geometry.identity = identity_of(*fs->super);
  return geometry;
}

std::vector<uint8_t> identity_of(const struct ext2_super_block &super) {
  std::vector<uint8_t> identity;
  const auto keep = [&](const auto &field) {
    const auto *bytes = reinterpret_cast<const uint8_t *>(&field);
    identity.insert(identity.end(), bytes, bytes + sizeof field);
  };
  keep(super.s_magic), keep(super.s_inodes_count), keep(super.s_blocks_count), keep(super.s_blocks_count_hi), keep(super.s_first_data_block);
  keep(super.s_log_block_size), keep(super.s_log_cluster_size), keep(super.s_blocks_per_group), keep(super.s_clusters_per_group);
  keep(super.s_inodes_per_group), keep(super.s_rev_level), keep(super.s_first_ino), keep(super.s_inode_size), keep(super.s_desc_size);
  keep(super.s_uuid), keep(super.s_journal_uuid), keep(super.s_journal_inum), keep(super.s_journal_dev), keep(super.s_first_meta_bg);
  // The kernel sets these by itself, and takes some away again.
  const uint32_t incompatible = super.s_feature_incompat & ~uint32_t{EXT3_FEATURE_INCOMPAT_RECOVER};
  const uint32_t compatible = super.s_feature_compat & ~uint32_t{EXT2_FEATURE_COMPAT_EXT_ATTR};
  const uint32_t read_only = super.s_feature_ro_compat & ~uint32_t{EXT4_FEATURE_RO_COMPAT_ORPHAN_PRESENT | EXT2_FEATURE_RO_COMPAT_LARGE_FILE |
                                                                  EXT4_FEATURE_RO_COMPAT_DIR_NLINK | EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE | EXT4_FEATURE_RO_COMPAT_HUGE_FILE};
  keep(incompatible), keep(compatible), keep(read_only);
  return identity;
}

bool is_mounted(const struct ext2_super_block &super) { return super.s_feature_incompat & EXT3_FEATURE_INCOMPAT_RECOVER; }

bool map_inode(const struct ext2_inode &inode, const Geometry &geometry, const LoadBlock &load, Mapping &mapping) {
  if (!(inode.i_flags & EXT4_EXTENTS_FL) || inode.i_flags & EXT4_INLINE_DATA_FL) return false;
  return Walk{geometry, load, mapping}.node(reinterpret_cast<const uint8_t *>(inode.i_block), sizeof inode.i_block, 0, true);
}

bool visit_entries(const uint8_t *block, uint32_t block_bytes, const std::function<void(uint32_t, std::string_view)> &visit) {
  constexpr uint32_t kHeadBytes = 8;
  for (uint32_t at = 0; at < block_bytes;) {
    if (block_bytes - at < kHeadBytes) return false;
    uint32_t inode;
    uint16_t stored;
    memcpy(&inode, block + at, sizeof inode), memcpy(&stored, block + at + 4, sizeof stored);
    // Up to 256 KiB in 16 bits: the two lowest hold the highest.
    const uint32_t length = stored == 0 || stored == 65535 ? block_bytes : (stored & 65532u) | (stored & 3u) << 16;
    const uint32_t name = block[at + 6];  // the high byte is the type of file
    if (length < kHeadBytes || length % 4 != 0 || length > block_bytes - at || name + kHeadBytes > length) return false;
    const std::string_view text(reinterpret_cast<const char *>(block + at + kHeadBytes), name);
    if (inode != 0 && text != "." && text != "..") visit(inode, text);
    at += length;
  }
  return true;
}

}  // namespace understudy::filesystem
