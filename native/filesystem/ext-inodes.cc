#include "filesystem/ext-inodes.h"

#include <algorithm>
#include <memory>

namespace understudy::filesystem {
namespace {

constexpr int kScanBlocks = 64;  // read at once from the inode tables

// The blocks of one inode, as they are found.
struct Blocks {
  ext2_filsys fs;
  Budget *budget;
  Claims *claims;
  uint32_t owner;              // of its data; what points at them is nobody's
  uint64_t data = 0, unwritten = 0;  // in blocks
  errcode_t error = 0;

  bool add(uint64_t start, uint64_t count, uint32_t whose) {
    const uint64_t end = ext2fs_blocks_count(fs->super);
    if (start < fs->super->s_first_data_block || start >= end || count > end - start) error = EXT2_ET_BAD_BLOCK_NUM;
    // More than there are: the same again and again.
    if (error == 0 && whose == owner && (data += count) > end) error = EXT2_ET_BAD_BLOCK_NUM;
    if (error == 0 && !claims->add(start, count, whose)) error = budget->error();
    return error == 0;
  }
};

struct CloseExtents {
  void operator()(ext2_extent_handle_t handle) const { ext2fs_extent_free(handle); }
};

errcode_t walk_extents(Blocks &blocks, ext2_ino_t number, struct ext2_inode *inode) {
  ext2_extent_handle_t opened = nullptr;
  if (errcode_t error = ext2fs_extent_open2(blocks.fs, number, inode, &opened)) return error;
  const std::unique_ptr<struct ext2_extent_handle, CloseExtents> handle(opened);
  struct ext2fs_extent extent;
  errcode_t error = ext2fs_extent_get(opened, EXT2_EXTENT_ROOT, &extent);
  for (uint64_t visits = 0; error == 0; error = ext2fs_extent_get(opened, EXT2_EXTENT_NEXT, &extent)) {
    if (++visits % 1024 == 0 && !blocks.budget->goes_on()) return blocks.budget->error();
    if (extent.e_flags & EXT2_EXTENT_FLAGS_SECOND_VISIT) continue;
    if (extent.e_flags & EXT2_EXTENT_FLAGS_LEAF) {
      if (!blocks.add(extent.e_pblk, extent.e_len, blocks.owner)) return blocks.error;
      if (extent.e_flags & EXT2_EXTENT_FLAGS_UNINIT) blocks.unwritten += extent.e_len;
    } else if (!blocks.add(extent.e_pblk, 1, kNobodysFile)) {
      return blocks.error;
    }
  }
  return error == EXT2_ET_EXTENT_NO_NEXT ? 0 : error;
}

int visit_block(ext2_filsys, blk64_t *block, e2_blkcnt_t position, blk64_t, int, void *data) {
  auto *blocks = static_cast<Blocks *>(data);
  if (position % 1024 == 0 && !blocks->budget->goes_on()) blocks->error = blocks->budget->error();
  if (blocks->error == 0 && *block != 0) blocks->add(*block, 1, position >= 0 ? blocks->owner : kNobodysFile);
  return blocks->error ? BLOCK_ABORT : 0;
}

errcode_t walk_blocks(Blocks &blocks, ext2_ino_t number, struct ext2_inode *inode) {
  if (inode->i_flags & EXT4_INLINE_DATA_FL || !ext2fs_inode_has_valid_blocks2(blocks.fs, inode)) return 0;
  if (inode->i_flags & EXT4_EXTENTS_FL) return walk_extents(blocks, number, inode);
  const errcode_t error = ext2fs_block_iterate3(blocks.fs, number, BLOCK_FLAG_READ_ONLY, nullptr, visit_block, &blocks);
  return blocks.error ? blocks.error : error;
}

// Inodes that no directory should name, and that no policy may speak of.
bool is_special(const struct ext2_super_block &super, ext2_ino_t number, const struct ext2_inode &inode) {
  if (number < EXT2_FIRST_INODE(&super) || inode.i_flags & EXT4_EA_INODE_FL) return true;
  for (const uint32_t one : {super.s_journal_inum, super.s_usr_quota_inum, super.s_grp_quota_inum, super.s_prj_quota_inum,
                             super.s_orphan_file_inum, super.s_snapshot_inum})
    if (number == one) return true;
  return false;
}

// Deleted, and its blocks are free. One that is deleted while it is open has no time of deletion, but the number of the
// next such inode in its place.
bool is_free(const struct ext2_super_block &super, const struct ext2_inode &inode) {
  if (inode.i_mode == 0 && inode.i_links_count == 0) return true;
  return inode.i_links_count == 0 && inode.i_dtime > super.s_inodes_count;
}

uint32_t reasons_to_hold(uint32_t flags) {
  uint32_t held = 0;
  if (flags & EXT4_INLINE_DATA_FL) held |= kInline;
  if (flags & EXT4_ENCRYPT_FL) held |= kEncrypted;
  if (flags & (EXT2_COMPR_FL | EXT2_COMPRBLK_FL)) held |= kCompressed;
  if (flags & EXT4_VERITY_FL) held |= kVerity;
  if (flags & EXT3_JOURNAL_DATA_FL) held |= kJournaledData;
  return held;
}

struct CloseScan {
  void operator()(ext2_inode_scan scan) const { ext2fs_close_inode_scan(scan); }
};

}  // namespace

SeenInode *Inodes::find(uint32_t number) {
  const auto at = std::lower_bound(seen.begin(), seen.end(), number, [](const SeenInode &one, uint32_t n) { return one.number < n; });
  return at != seen.end() && at->number == number ? &*at : nullptr;
}

errcode_t claim_metadata(ext2_filsys fs, Claims &claims, Problems &problems) {
  const uint64_t blocks_count = ext2fs_blocks_count(fs->super);
  bool within = true;
  const auto claim = [&](uint64_t start, uint64_t count) {
    if (start < blocks_count) within = claims.add(start, std::min(count, blocks_count - start), kNobodysFile) && within;
  };
  claim(0, uint64_t{fs->super->s_first_data_block} + 1);
  if (ext2fs_has_feature_mmp(fs->super)) claim(fs->super->s_mmp_block, 1);
  for (dgrp_t group = 0; group < fs->group_desc_count && within; group++) {
    if (!ext2fs_group_desc_csum_verify(fs, group)) problems.add("the description of block group " + std::to_string(group));
    blk64_t super = 0, old_descriptors = 0, new_descriptor = 0;
    if (errcode_t error = ext2fs_super_and_bgd_loc2(fs, group, &super, &old_descriptors, &new_descriptor, nullptr)) return error;
    if (super || group == 0) claim(super, 1);
    if (old_descriptors) {
      const uint64_t count = ext2fs_has_feature_meta_bg(fs->super) ? fs->super->s_first_meta_bg : fs->desc_blocks;
      claim(old_descriptors, count + fs->super->s_reserved_gdt_blocks);
    }
    if (new_descriptor) claim(new_descriptor, 1);
    claim(ext2fs_block_bitmap_loc(fs, group), 1);
    claim(ext2fs_inode_bitmap_loc(fs, group), 1);
    claim(ext2fs_inode_table_loc(fs, group), fs->inode_blocks_per_group);
  }
  return within ? 0 : EXT2_ET_NO_MEMORY;
}

errcode_t scan_inodes(ext2_filsys fs, Budget &budget, Inodes &inodes, Claims &claims, Problems &problems) {
  ext2_inode_scan opened = nullptr;
  if (errcode_t error = ext2fs_open_inode_scan(fs, kScanBlocks, &opened)) return error;
  const std::unique_ptr<struct ext2_struct_inode_scan, CloseScan> scan(opened);
  for (;;) {
    if (!budget.goes_on()) return budget.error();
    struct ext2_inode_large large;
    auto *inode = reinterpret_cast<struct ext2_inode *>(&large);
    ext2_ino_t number = 0;
    const errcode_t error = ext2fs_get_next_inode_full(opened, &number, inode, sizeof large);
    if (error == EXT2_ET_BAD_BLOCK_IN_INODE_TABLE || error == EXT2_ET_INODE_CSUM_INVALID) {
      if (error == EXT2_ET_BAD_BLOCK_IN_INODE_TABLE || !is_free(*fs->super, *inode)) problems.add("inode " + std::to_string(number));
      continue;
    }
    if (error) return error;
    if (number == 0) return 0;
    const bool special = is_special(*fs->super, number, *inode);
    if (special ? inode->i_blocks == 0 && inode->i_links_count == 0 : is_free(*fs->super, *inode)) continue;

    const bool listed = LINUX_S_ISREG(inode->i_mode) && !special;
    if (!budget.take(sizeof(SeenInode) + (listed ? sizeof(File) + sizeof(uint16_t) : 0))) return budget.error();
    Blocks blocks{fs, &budget, &claims, listed ? static_cast<uint32_t>(inodes.files.size()) : kNobodysFile};
    const errcode_t damage = walk_blocks(blocks, number, inode);
    if (budget.error()) return budget.error();
    if (damage) problems.add("the blocks of inode " + std::to_string(number) + " (" + ext_error(damage) + ")");
    if (const blk64_t attributes = ext2fs_file_acl_block(fs, inode)) {
      if (!blocks.add(attributes, 1, kNobodysFile)) problems.add("the attributes of inode " + std::to_string(number));
    }
    if (listed) {
      File file;
      file.size_bytes = EXT2_I_SIZE(inode);
      file.data_bytes = blocks.data * fs->blocksize, file.unwritten_bytes = blocks.unwritten * fs->blocksize;
      file.held = reasons_to_hold(inode->i_flags) | (damage ? uint32_t{kDamaged} : 0);
      inodes.seen.push_back({number, static_cast<uint32_t>(inodes.files.size())});
      inodes.files.push_back(file);
      inodes.link_counts.push_back(inode->i_links_count);
    } else {
      const bool directory = LINUX_S_ISDIR(inode->i_mode) && (!special || number == EXT2_ROOT_INO);
      inodes.seen.push_back({number, directory ? SeenInode::kDirectory : SeenInode::kOther});
    }
  }
}

}  // namespace understudy::filesystem
