// What a transaction brings that is left out at once, with no reading: more of a file that is, and what comes into directories
// in which all is, whatever its name.
//
//   blocks of such directories, as the transaction has them -> names of inodes that are not known
//     a directory: all that comes into it is left out, too (its blocks are looked at in turn)
//     a file all of whose names these are, as many as its links: its blocks are left out
//
// Guarantees: only of inodes that the transaction itself has; bounded. What is not decided is replicated until it has been read.
#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "filesystem/ext-examine.h"

namespace understudy::filesystem {

// Globs match no line breaks: not what comes under such a name.
static bool is_plain(std::string_view name) {
  return name.find('\n') == name.npos && name.find('\r') == name.npos && name.find("\xe2\x80\xa8") == name.npos && name.find("\xe2\x80\xa9") == name.npos;
}

void Examination::newcomers(const std::vector<uint64_t> &blocks) {
  if (!state_.any_whole) return;
  std::vector<uint64_t> todo;
  for (const uint64_t block : blocks) {
    if (!state_.may_watch(block)) continue;
    const auto own = state_.directory_blocks.find(block);
    if (own != state_.directory_blocks.end() && state_.inodes[own->second.directory].whole) todo.push_back(block);
  }
  if (todo.empty()) return;
  std::sort(todo.begin(), todo.end());
  todo.erase(std::unique(todo.begin(), todo.end()), todo.end());
  const Logged logged(blocks.begin(), blocks.end());
  newcomers(std::move(todo), &logged);
}

void Examination::complete() {
  for (const auto &[file, run] : std::exchange(state_.unlisted, {}))
    if (!state_.inodes[file].gone) take(file, whole_clusters({run}, state_.geometry));
  std::vector<uint64_t> todo;
  for (const auto &[block, own] : state_.directory_blocks)
    if (state_.inodes[own.directory].whole) todo.push_back(block);
  std::sort(todo.begin(), todo.end());
  newcomers(std::move(todo), nullptr);
}

// logged: what the transaction has; null: all that there is.
void Examination::newcomers(std::vector<uint64_t> todo, const Logged *logged) {
  const auto has = [&](uint64_t block) { return !logged || logged->count(block); };
  struct Newcomer {
    struct ext2_inode inode;
    std::vector<NewName> names;
  };
  std::map<uint32_t, Newcomer> files;
  for (size_t i = 0; i < todo.size() && (!logged || i < kNewBlocksMax); i++) {
    if (!load_(todo[i], content_.data())) return findings_.stale = "metadata cannot be read", void();
    const uint32_t directory = state_.directory_blocks[todo[i]].directory;
    std::vector<std::pair<uint32_t, NewName>> entries;
    (void)visit_entries(content_.data(), state_.geometry.block_bytes, [&](uint32_t number, std::string_view name) {
      if (number < state_.geometry.first_inode || number > state_.geometry.inodes || state_.knows(number) || state_.never.count(number) || !is_plain(name)) return;
      entries.push_back({number, {hash_name(number, name), todo[i], directory}});
    });
    for (const auto &[number, name] : entries) {
      if (const auto before = files.find(number); before != files.end()) {
        before->second.names.push_back(name);
        continue;
      }
      struct ext2_inode inode;
      if (!has(state_.geometry.place(number).block) || !load_inode(number, inode)) continue;
      if (LINUX_S_ISREG(inode.i_mode)) files[number] = {inode, {name}};
      std::vector<uint64_t> own;
      if (!LINUX_S_ISDIR(inode.i_mode) || !come(number, inode, {name}, own)) continue;
      for (const uint64_t block : own)
        if (has(block)) todo.push_back(block);
    }
  }
  std::vector<uint64_t> none;
  for (const auto &[number, one] : files)
    if (one.inode.i_links_count == one.names.size()) (void)come(number, one.inode, one.names, none);
}

bool Examination::load_inode(uint32_t number, struct ext2_inode &inode) {
  const Geometry::Place place = state_.geometry.place(number);
  table_.resize(state_.geometry.block_bytes);
  if (place.block != table_block_ && !load_(place.block, table_.data())) return table_block_ = UINT64_MAX, false;
  table_block_ = place.block;
  memcpy(&inode, &table_[place.offset], sizeof inode);
  return true;
}

// blocks: those of a directory.
bool Examination::come(uint32_t number, const struct ext2_inode &inode, const std::vector<NewName> &names, std::vector<uint64_t> &blocks) {
  findings_.look = true;
  WatchedInode one{number};
  one.directory = one.whole = LINUX_S_ISDIR(inode.i_mode);
  one.generation = inode.i_generation, one.flags = inode.i_flags & kFlagsThatMatter, one.links = inode.i_links_count;
  Mapping mapping;
  if (state_.added.size() >= kAddedMax || is_deleted(inode, state_.geometry) || one.flags != EXT4_EXTENTS_FL) return false;
  if (!map_inode(inode, state_.geometry, load_, mapping) || (!building_ && (tree_blocks_ += mapping.nodes.size()) > kTreeBlocksMax)) return false;
  if (one.directory) {
    for (const Run &run : mapping.runs) {
      if (meets(state_.fixed, run) || (directory_blocks_ += run.blocks) > kDirectoryBlocksMax) return false;
      for (uint64_t block = run.start; block < run.start + run.blocks; block++) {
        const auto other = state_.directory_blocks.find(block);
        if (other != state_.directory_blocks.end() && state_.inodes[other->second.directory].live()) return false;
        blocks.push_back(block);
      }
    }
    one.blocks = static_cast<uint32_t>(blocks.size());
  }
  one.map_hash = hash_map(inode);
  findings_.changed = true;
  const uint32_t index = state_.add(one, names);
  for (const uint64_t block : mapping.nodes) state_.nodes[block] = index, state_.watch(block);
  for (const uint64_t block : blocks) state_.directory_blocks[block] = {index, {}}, state_.watch(block);
  if (!one.directory) take(index, whole_clusters(std::move(mapping.runs), state_.geometry));
  return true;
}

void Examination::take(uint32_t file, const std::vector<Run> &runs) {
  for (const Run &run : runs) {
    if ((!building_ && findings_.taken.size() >= kTakenMax) || state_.left_out.size() >= kRunsMax) return;
    std::vector<Run> free;
    (void)state_.overlap(run, file, free);
    bool sound = free.size() == 1 && free[0].blocks == run.blocks && !meets(state_.fixed, run);
    for (uint64_t block = run.start; sound && block < run.start + run.blocks;) {
      if (state_.may_watch(block)) sound = !state_.watches(block), block++;
      else block = (block / ExtState::kChunkBlocks + 1) * ExtState::kChunkBlocks;
    }
    if (!sound) continue;
    state_.leave_out(file, run);
    findings_.taken.push_back(run), findings_.changed = true;
  }
}

}  // namespace understudy::filesystem
