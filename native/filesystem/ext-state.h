// What a watch knows of an ext4 file system: the files that are left out, where their blocks lie, and the directories
// above them. Made by read_state() on a worker; changed by ExtWatch as transactions pass.
#pragma once
#include <map>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "filesystem/budget.h"
#include "filesystem/ext-map.h"
#include "filesystem/listing.h"

namespace understudy::filesystem {

// A file that is left out, or a directory above one.
struct WatchedInode {
  uint32_t number, generation = 0, flags = 0;
  uint32_t first_name = 0, names = 0;  // in ExtState::names
  uint32_t names_left = 0;             // of these
  uint32_t users = 0;                  // of a directory: names in it that are still there
  bool whole = false;                  // of a directory: whatever comes into it is left out
  uint64_t left_out = 0;               // of a file: blocks
  uint64_t map_hash = 0;               // of the root of its extents
  uint32_t blocks = 0;                 // of a directory: that are known
  uint16_t links = 0;
  bool directory = false;
  bool gone = false;  // nothing of it is left out any more: whatever happens to it
  bool live() const { return users > 0 || whole; }
};

struct WatchedName {
  uint64_t hash;  // of inode and name
  uint32_t target, directory;  // in ExtState::inodes
  bool gone = false;
};

struct DirectoryBlock {
  uint32_t directory;
  std::vector<uint32_t> names;  // that are in it
};

struct LeftOutRun {
  uint32_t blocks, file;
};

struct NewName {
  uint64_t hash, block;
  uint32_t directory;
};

struct ExtState {
  Geometry geometry;
  std::vector<WatchedInode> inodes;  // the first `by_number` of them by number
  size_t by_number = 0;
  std::map<uint32_t, uint32_t> added;  // the others, which have come since the reading: where in `inodes`
  std::vector<Run> fixed;              // metadata that stay where they are, and are nobody's
  bool any_whole = false;
  std::unordered_set<uint32_t> never;                  // files that share blocks, or are damaged
  std::vector<std::pair<uint32_t, Run>> unlisted;      // what files have got since the listing: of which of `inodes`
  std::vector<WatchedName> names;    // by target
  std::map<uint64_t, LeftOutRun> left_out;  // by first block
  std::unordered_map<uint64_t, DirectoryBlock> directory_blocks;
  std::unordered_map<uint64_t, uint32_t> nodes;          // of trees of extents: whose
  std::unordered_map<uint64_t, uint32_t> inode_blocks;   // of inode tables: the first inode in it
  std::unordered_map<uint64_t, uint32_t> bitmap_groups;  // of all groups

  // A bit for some 100 blocks: what is certainly not watched is known by one look.
  std::vector<bool> watched_chunks;
  static constexpr uint32_t kChunkBlocks = 128;
  void watch(uint64_t block) {
    if (block < geometry.blocks) watched_chunks[block / kChunkBlocks] = true;
  }
  bool may_watch(uint64_t block) const { return block < geometry.blocks && watched_chunks[block / kChunkBlocks]; }
  bool watches(uint64_t block) const;

  // Whether it is watched.
  bool knows(uint32_t number) const;
  // One that is not; it gets a place behind the others.
  uint32_t add(WatchedInode inode, const std::vector<NewName> &names);
  // More of a file: all of `run`, which is left out for nobody, nor watched.
  void leave_out(uint32_t file, const Run &run);
  // Nothing of it is left out any more: neither it nor what was watched for it alone needs to be looked at.
  void release(uint32_t index);
  // Gives up these files: nothing of them is left out any more. Adds what was.
  void drop(const std::vector<uint32_t> &files, std::vector<Run> &runs);
  // Blocks of `run` that are left out for this file. `others`: adds what is left out for nobody.
  uint64_t overlap(const Run &run, uint32_t file, std::vector<Run> &others) const;
};

uint64_t hash_name(uint32_t inode, std::string_view name);
uint64_t hash_map(const struct ext2_inode &inode);
bool is_deleted(const struct ext2_inode &inode, const Geometry &geometry);
// Bits of i_flags that decide whether the data of a file can be left out, and how its names are kept.
inline constexpr uint32_t kFlagsThatMatter =
    EXT4_EXTENTS_FL | EXT4_INLINE_DATA_FL | EXT4_ENCRYPT_FL | EXT4_VERITY_FL | EXT2_COMPR_FL | EXT2_COMPRBLK_FL | EXT3_JOURNAL_DATA_FL | EXT4_EA_INODE_FL | EXT4_CASEFOLD_FL;

// Of listing's files those that are left out and can be followed, as `committed` has them now: files that have changed
// since, or cannot be followed, are not among them. whole: one byte for each of listing.directories, not 0 where all is left
// out, whatever comes; or empty. EAGAIN: directories have changed.
Status read_state(const Committed &committed, const Space &space, const Listing &listing, const std::vector<uint8_t> &left_out,
                  const std::vector<uint8_t> &whole, Budget &budget, ExtState &state);

}  // namespace understudy::filesystem
