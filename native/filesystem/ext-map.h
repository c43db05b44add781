// What a watch reads of ext4 by itself, from single blocks as they pass: inodes, trees of extents, blocks of directories.
//
// Guarantees: whatever the bytes say, a walk ends: at most kNodesMax blocks of one tree.
#pragma once
#include <ext2fs/ext2fs.h>

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "filesystem/journal.h"

namespace understudy::filesystem {

// Where metadata lie, which nothing but resizing changes; and what a superblock must go on saying.
struct Geometry {
  uint32_t block_bytes = 0, inode_bytes = 0, inodes_per_group = 0, blocks_per_group = 0, cluster_blocks = 1, first_block = 0;
  uint32_t inodes = 0;
  uint64_t blocks = 0;
  uint32_t first_inode = 0;                     // that is not the file system's own
  std::vector<uint64_t> inode_tables, bitmaps;  // by group
  std::vector<uint64_t> descriptors;            // blocks of them
  uint32_t descriptor_bytes = 0;
  bool has_flags = false;                       // a descriptor may say that its group's bitmap was never written
  std::vector<uint8_t> identity;                // of the superblock: identity_of()

  struct Place {
    uint64_t block;
    uint32_t offset;
  };
  Place place(uint32_t inode) const;
  uint32_t first_in_block(uint32_t inode) const { return inode - (inode - 1) % inodes_per_group % (block_bytes / inode_bytes); }
};

Geometry read_geometry(ext2_filsys fs);
// The parts of a superblock that stay while a file system is in use: size, features, layout, UUID. Without the mark of being mounted.
std::vector<uint8_t> identity_of(const struct ext2_super_block &super);
bool is_mounted(const struct ext2_super_block &super);

inline constexpr uint32_t kNodesMax = 64;  // 21,000 extents in blocks of 4 KiB

struct Run {
  uint64_t start;
  uint32_t blocks;
};

// Parts of a file system that no file ever has: superblocks, descriptors, bitmaps, inode tables. By block, disjoint.
bool meets(const std::vector<Run> &runs, const Run &run);

struct Mapping {
  std::vector<Run> runs;        // of data, in the order of the file
  std::vector<uint64_t> nodes;  // blocks of the tree
};

using LoadBlock = std::function<bool(uint64_t block, uint8_t *data)>;

// False: it has no extents, its tree is too large, or makes no sense.
bool map_inode(const struct ext2_inode &inode, const Geometry &geometry, const LoadBlock &load, Mapping &mapping);

// visit(inode, name) for every entry but `.` and `..`. False: it is no block of a directory.
bool visit_entries(const uint8_t *block, uint32_t block_bytes, const std::function<void(uint32_t, std::string_view)> &visit);

}  // namespace understudy::filesystem
