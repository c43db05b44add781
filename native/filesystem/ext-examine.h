// What one transaction, or one write of metadata in its place, means for the files that are left out.
#pragma once
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "filesystem/ext-state.h"

namespace understudy::filesystem {

// What a block of a transaction says by itself, when it comes into the log: most change nothing for the files that are left
// out, and need not be looked at when their commit comes, which clients wait for.
enum class Glance : uint8_t { kUnseen, kNothing, kLook, kMatters };
using LoadContent = std::function<bool(uint8_t *data)>;
Glance glance(const ExtState &state, uint64_t block, const LoadContent &load, std::vector<uint8_t> &content);

struct Findings {
  std::vector<Run> freed;
  std::vector<Run> taken;  // left out from now on; some may have been freed again
  std::string step, stale;  // why
  bool look = false;
  bool changed = false;  // what is known is not what it was: no glance holds any more
  bool goes_on() const { return step.empty() && stale.empty(); }
};

class Examination {
 public:
  enum class Of : uint8_t { kTransaction, kPlace };
  // load: blocks as they are behind it. building: files in doubt are given up (and told as freed), which takes no step.
  Examination(ExtState &state, LoadBlock load, Of of, bool building, Findings &findings)
      : state_(state), load_(std::move(load)), of_(of), building_(building), findings_(findings), content_(state.geometry.block_bytes) {}
  // glances: one for each of the first blocks, of this state.
  void run(const std::vector<uint64_t> &blocks, const std::vector<Glance> &glances);
  // What has come between the listing and what the state was made from.
  void complete();

 private:
  // What is looked at of one transaction.
  static constexpr size_t kWatchedMax = 32'768, kTreeBlocksMax = 1024, kDirectoryBlocksMax = 1u << 18;
  // What is taken of one transaction, and what is added between two readings; the rest is replicated until the next one.
  static constexpr size_t kTakenMax = 4096, kNewBlocksMax = 4096, kAddedMax = 1u << 16, kRunsMax = 1u << 20;

  void superblock(uint64_t block);
  bool is_live_directory(uint64_t block) const;
  void bitmap(uint32_t group, uint64_t block);
  void take_out(const Run &run);
  void inode_table(uint64_t block, uint32_t first);
  void touch(uint32_t index, const struct ext2_inode &inode);
  void file(uint32_t index, const struct ext2_inode &inode);
  void directory(uint32_t index, const struct ext2_inode &inode);
  bool walk(uint32_t index, const struct ext2_inode &inode, Mapping &mapping);
  void names(const std::vector<uint64_t> &blocks);
  void settle();
  // ext-newcomers.cc
  using Logged = std::unordered_set<uint64_t>;
  void newcomers(const std::vector<uint64_t> &blocks);
  void newcomers(std::vector<uint64_t> directories, const Logged *logged);
  bool load_inode(uint32_t number, struct ext2_inode &inode);
  bool come(uint32_t number, const struct ext2_inode &inode, const std::vector<NewName> &names, std::vector<uint64_t> &blocks);
  void take(uint32_t file, const std::vector<Run> &runs);
  void doubt(uint32_t index, const std::string &what);

  ExtState &state_;
  const LoadBlock load_;
  const Of of_;
  const bool building_;
  Findings &findings_;
  std::vector<uint8_t> content_;
  std::unordered_map<uint32_t, bool> touched_;  // indices of inodes that have been looked at
  std::vector<uint32_t> counted_;               // whose names or links have changed
  std::vector<uint32_t> dropped_;
  std::vector<uint32_t> vanished_;              // directories that are none any more, or others
  std::vector<std::pair<uint32_t, std::vector<Run>>> grown_;
  std::vector<uint8_t> table_;                  // a block of an inode table
  uint64_t table_block_ = UINT64_MAX;
  size_t tree_blocks_ = 0, directory_blocks_ = 0;
};

// By block, disjoint; of a cluster all is its owner's, also what is not mapped.
std::vector<Run> whole_clusters(std::vector<Run> runs, const Geometry &geometry);

}  // namespace understudy::filesystem
