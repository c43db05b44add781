#include "filesystem/ext-examine.h"

#include <algorithm>
#include <cstring>

namespace understudy::filesystem {

namespace {

// visit(run) for what is left out in a group, and free as its bitmap has it; until it says false.
template <typename Visit>
void visit_free(const ExtState &state, uint32_t group, const uint8_t *bitmap, Visit visit) {
  const Geometry &geometry = state.geometry;
  const uint64_t begin = geometry.first_block + uint64_t{group} * geometry.blocks_per_group, end = begin + geometry.blocks_per_group;
  auto at = state.left_out.upper_bound(begin);
  if (at != state.left_out.begin()) --at;
  Run free{0, 0};
  for (; at != state.left_out.end() && at->first < end; ++at) {
    const uint64_t to = std::min(at->first + at->second.blocks, end);
    for (uint64_t one = std::max(at->first, begin); one < to; one++) {
      const uint64_t bit = (one - begin) / geometry.cluster_blocks;
      if (bitmap[bit / 8] >> bit % 8 & 1) continue;
      if (free.blocks && free.start + free.blocks == one) {
        free.blocks++;
        continue;
      }
      if (free.blocks && !visit(free)) return;
      free = {one, 1};
    }
  }
  if (free.blocks) visit(free);
}

// visit(index, inode) for inodes that are watched and are not as they were; until it says false.
template <typename Visit>
void visit_changed(const ExtState &state, uint32_t first, const uint8_t *table, Visit visit) {
  const Geometry &geometry = state.geometry;
  const uint32_t end = first + geometry.block_bytes / geometry.inode_bytes;
  const auto goes_on = [&](const WatchedInode &one) {
    if (one.gone) return true;
    struct ext2_inode inode;
    memcpy(&inode, &table[size_t{one.number - first} * geometry.inode_bytes], sizeof inode);
    const bool kind = one.directory ? LINUX_S_ISDIR(inode.i_mode) : LINUX_S_ISREG(inode.i_mode);
    if (kind && inode.i_generation == one.generation && inode.i_links_count == one.links && hash_map(inode) == one.map_hash && !is_deleted(inode, geometry)) return true;
    return visit(static_cast<uint32_t>(&one - state.inodes.data()), inode);
  };
  const auto by_number = state.inodes.begin() + static_cast<ptrdiff_t>(state.by_number);
  auto at = std::lower_bound(state.inodes.begin(), by_number, first, [](const WatchedInode &one, uint32_t number) { return one.number < number; });
  for (; at != by_number && at->number < end; ++at)
    if (!goes_on(*at)) return;
  for (auto came = state.added.lower_bound(first); came != state.added.end() && came->first < end; ++came)
    if (!goes_on(state.inodes[came->second])) return;
}

bool has_all_names(const ExtState &state, const DirectoryBlock &own, const uint8_t *content) {
  std::vector<uint64_t> wanted;
  for (const uint32_t index : own.names)
    if (!state.names[index].gone) wanted.push_back(state.names[index].hash);
  std::sort(wanted.begin(), wanted.end());
  std::vector<bool> found(wanted.size());
  size_t left = wanted.size();
  const bool good = visit_entries(content, state.geometry.block_bytes, [&](uint32_t inode, std::string_view name) {
    const auto at = std::lower_bound(wanted.begin(), wanted.end(), hash_name(inode, name));
    if (at == wanted.end() || *at != hash_name(inode, name) || found[static_cast<size_t>(at - wanted.begin())]) return;
    found[static_cast<size_t>(at - wanted.begin())] = true, left--;
  });
  return good && left == 0;
}

}  // namespace

Glance glance(const ExtState &state, uint64_t block, const LoadContent &load, std::vector<uint8_t> &content) {
  if (block == 1024 / state.geometry.block_bytes) return Glance::kMatters;
  const auto group = state.bitmap_groups.find(block);
  bool look = group != state.bitmap_groups.end();
  if (!state.may_watch(block)) return look ? Glance::kLook : Glance::kNothing;
  const auto node = state.nodes.find(block);
  if (node != state.nodes.end() && !state.inodes[node->second].gone) return Glance::kMatters;
  const auto table = state.inode_blocks.find(block);
  const auto own = state.directory_blocks.find(block);
  const bool live = own != state.directory_blocks.end() && state.inodes[own->second.directory].live();
  if (!look && !live && table == state.inode_blocks.end()) return Glance::kNothing;
  if (!load(content.data())) return Glance::kMatters;
  bool matters = live && !has_all_names(state, own->second, content.data());
  if (look) visit_free(state, group->second, content.data(), [&](const Run &) { return matters = true, false; });
  if (table != state.inode_blocks.end()) visit_changed(state, table->second, content.data(), [&](uint32_t, const struct ext2_inode &) { return matters = true, false; });
  return matters ? Glance::kMatters : look || live ? Glance::kLook : Glance::kNothing;
}

void Examination::run(const std::vector<uint64_t> &blocks, const std::vector<Glance> &glances) {
  const uint64_t super_block = 1024 / state_.geometry.block_bytes;
  std::vector<uint64_t> watched;
  bool live = false;
  for (size_t i = 0; i < blocks.size(); i++) {
    const uint64_t block = blocks[i];
    const Glance seen = i < glances.size() ? glances[i] : Glance::kUnseen;
    if (seen == Glance::kNothing) continue;
    if (seen == Glance::kLook) {
      findings_.look = true;
      continue;
    }
    if (block == super_block) superblock(block);
    if (state_.bitmap_groups.count(block)) findings_.look = true;
    if (state_.watches(block)) watched.push_back(block), live |= is_live_directory(block);
  }
  if (watched.size() > kWatchedMax) findings_.stale = "a transaction with more metadata than is looked at";
  // What is free first: then whatever a file has lost besides has gone to somebody.
  for (const uint64_t block : watched) {
    if (!findings_.goes_on()) return;
    if (const auto group = state_.bitmap_groups.find(block); group != state_.bitmap_groups.end()) bitmap(group->second, block);
  }
  for (const uint64_t block : watched) {
    if (!findings_.goes_on()) return;
    if (const auto first = state_.inode_blocks.find(block); first != state_.inode_blocks.end()) inode_table(block, first->second);
  }
  for (const uint64_t block : watched) {
    if (!findings_.goes_on()) return;
    const auto node = state_.nodes.find(block);
    if (node == state_.nodes.end() || state_.inodes[node->second].gone || touched_.count(node->second)) continue;
    struct ext2_inode inode;
    const Geometry::Place place = state_.geometry.place(state_.inodes[node->second].number);
    if (!load_(place.block, content_.data())) return findings_.stale = "metadata cannot be read", void();
    memcpy(&inode, &content_[place.offset], sizeof inode);
    touch(node->second, inode);
  }
  // Directories have been walked: their new blocks are known. A name may have moved to any block of the transaction.
  if (findings_.goes_on() && live) names(blocks);
  if (findings_.goes_on()) settle();
  if (findings_.goes_on()) state_.drop(dropped_, findings_.freed);
  if (!findings_.goes_on() || of_ == Of::kPlace) return;
  for (const auto &[index, runs] : grown_)
    if (!state_.inodes[index].gone) take(index, runs);
  newcomers(blocks);
}

void Examination::superblock(uint64_t block) {
  struct ext2_super_block super;
  if (!load_(block, content_.data())) return findings_.stale = "metadata cannot be read", void();
  memcpy(&super, &content_[state_.geometry.block_bytes > 1024 ? 1024 : 0], sizeof super);
  if (identity_of(super) != state_.geometry.identity) findings_.stale = "its superblock has changed";
}

bool Examination::is_live_directory(uint64_t block) const {
  const auto own = state_.directory_blocks.find(block);
  return own != state_.directory_blocks.end() && state_.inodes[own->second.directory].live();
}

void Examination::bitmap(uint32_t group, uint64_t block) {
  if (!load_(block, content_.data())) return findings_.stale = "metadata cannot be read", void();
  std::vector<Run> freed;
  visit_free(state_, group, content_.data(), [&](const Run &run) { return freed.push_back(run), true; });
  for (const Run &run : freed) take_out(run);
}

void Examination::take_out(const Run &run) {
  findings_.freed.push_back(run), findings_.changed = true;
  const uint64_t end = run.start + run.blocks;
  auto at = state_.left_out.upper_bound(run.start);
  if (at != state_.left_out.begin()) --at;
  while (at != state_.left_out.end() && at->first < end) {
    const uint64_t start = at->first, last = start + at->second.blocks, from = std::max(start, run.start), to = std::min(last, end);
    const uint32_t owner = at->second.file;
    if (from >= to) {
      ++at;
      continue;
    }
    at = state_.left_out.erase(at);
    if (start < from) state_.left_out[start] = {static_cast<uint32_t>(from - start), owner};
    if (to < last) at = state_.left_out.insert_or_assign(to, LeftOutRun{static_cast<uint32_t>(last - to), owner}).first;
    WatchedInode &file = state_.inodes[owner];
    file.left_out -= std::min(file.left_out, to - from);
    if (file.left_out == 0 && file.links == 0) state_.release(owner);
  }
}

void Examination::inode_table(uint64_t block, uint32_t first) {
  if (!load_(block, content_.data())) return findings_.stale = "metadata cannot be read", void();
  const std::vector<uint8_t> table = content_;
  visit_changed(state_, first, table.data(), [&](uint32_t index, const struct ext2_inode &inode) { return touch(index, inode), findings_.goes_on(); });
}

void Examination::touch(uint32_t index, const struct ext2_inode &inode) {
  touched_[index] = findings_.changed = true;
  if (state_.inodes[index].directory) directory(index, inode);
  else file(index, inode);
}

bool Examination::walk(uint32_t index, const struct ext2_inode &inode, Mapping &mapping) {
  if (!map_inode(inode, state_.geometry, load_, mapping)) return false;
  if ((tree_blocks_ += mapping.nodes.size()) > kTreeBlocksMax) return false;
  for (const uint64_t block : mapping.nodes) state_.nodes[block] = index, state_.watch(block);
  state_.inodes[index].map_hash = hash_map(inode);
  return true;
}

void Examination::file(uint32_t index, const struct ext2_inode &inode) {
  WatchedInode &one = state_.inodes[index];
  const bool same = LINUX_S_ISREG(inode.i_mode) && inode.i_generation == one.generation && !is_deleted(inode, state_.geometry);
  if (!same && one.left_out == 0) return state_.release(index);
  Mapping mapping;
  if (same && (inode.i_flags & kFlagsThatMatter) != one.flags) return doubt(index, "the flags of a file that is left out have changed");
  if (same && !walk(index, inode, mapping)) return doubt(index, "a file that is left out cannot be followed");
  const uint16_t links = same ? inode.i_links_count : 0;
  if (links != one.links) one.links = links, counted_.push_back(index);

  uint64_t kept = 0;
  std::vector<Run> others;
  for (const Run &run : whole_clusters(std::move(mapping.runs), state_.geometry)) kept += state_.overlap(run, index, others);
  if (kept < one.left_out) return doubt(index, "blocks of a file that is left out have become another's");
  if (others.empty()) return;
  findings_.look = true;
  grown_.emplace_back(index, std::move(others));
}

std::vector<Run> whole_clusters(std::vector<Run> runs, const Geometry &geometry) {
  const uint64_t cluster = geometry.cluster_blocks;
  for (Run &run : runs) {
    const uint64_t start = run.start - (run.start - geometry.first_block) % cluster;
    run.blocks = static_cast<uint32_t>((run.start + run.blocks - start + cluster - 1) / cluster * cluster), run.start = start;
  }
  std::sort(runs.begin(), runs.end(), [](const Run &a, const Run &b) { return a.start < b.start; });
  std::vector<Run> whole;
  uint64_t end = 0;
  for (Run run : runs) {
    if (run.start < end) {
      const uint64_t past = std::min<uint64_t>(end - run.start, run.blocks);
      run.start += past, run.blocks -= static_cast<uint32_t>(past);
    }
    if (run.blocks == 0) continue;
    whole.push_back(run), end = run.start + run.blocks;
  }
  return whole;
}

void Examination::directory(uint32_t index, const struct ext2_inode &inode) {
  WatchedInode &one = state_.inodes[index];
  if (!one.live()) return;
  if (!LINUX_S_ISDIR(inode.i_mode) || inode.i_generation != one.generation || is_deleted(inode, state_.geometry) || inode.i_links_count == 0 ||
      (inode.i_flags & kFlagsThatMatter) != one.flags)
    return vanished_.push_back(index);
  one.links = inode.i_links_count;
  Mapping mapping;
  if (!walk(index, inode, mapping)) return doubt(index, "a directory with files that are left out cannot be followed");
  uint32_t known = 0;
  for (const Run &run : mapping.runs) {
    for (uint64_t block = run.start; block < run.start + run.blocks; block++) {
      if (++directory_blocks_ > kDirectoryBlocksMax) return findings_.stale = "directories with more blocks than are looked at", void();
      const auto at = state_.directory_blocks.find(block);
      if (at != state_.directory_blocks.end() && at->second.directory == index) {
        known++;
        continue;
      }
      if (at != state_.directory_blocks.end() && !at->second.names.empty() && state_.inodes[at->second.directory].users > 0)
        return doubt(index, "two directories have a block in common");
      state_.directory_blocks[block] = {index, {}}, state_.watch(block), one.blocks++, known++;
    }
  }
  if (known < one.blocks) return doubt(index, "a directory with files that are left out has lost blocks");
}

// Names move between the blocks of a directory when it grows.
void Examination::names(const std::vector<uint64_t> &blocks) {
  std::unordered_map<uint64_t, uint64_t> found;  // by hash and directory: in which block
  const auto key = [](uint64_t hash, uint32_t directory) { return hash ^ (directory + 1) * 0x9e3779b97f4a7c15; };
  std::vector<uint64_t> looked_at;
  for (const uint64_t block : blocks) {
    if (!state_.may_watch(block)) continue;
    const auto own = state_.directory_blocks.find(block);
    if (own == state_.directory_blocks.end() || !state_.inodes[own->second.directory].live()) continue;
    const uint32_t directory = own->second.directory;
    if (!load_(block, content_.data())) return findings_.stale = "metadata cannot be read", void();
    findings_.look = true;
    looked_at.push_back(block);
    if (!visit_entries(content_.data(), state_.geometry.block_bytes, [&](uint32_t inode, std::string_view name) { found[key(hash_name(inode, name), directory)] = block; }))
      return doubt(directory, "a block of a directory is none any more");
  }
  for (const uint64_t block : looked_at) {
    DirectoryBlock &own = state_.directory_blocks[block];
    std::vector<uint32_t> stay;
    for (const uint32_t index : std::exchange(own.names, {})) {
      WatchedName &name = state_.names[index];
      if (name.gone) continue;
      const auto at = found.find(key(name.hash, name.directory));
      if (at != found.end() && at->second == block) {
        stay.push_back(index);
      } else if (at != found.end()) {
        state_.directory_blocks[at->second].names.push_back(index), findings_.changed = true;
      } else {
        name.gone = findings_.changed = true;
        state_.inodes[name.target].names_left--;
        counted_.push_back(name.target);
        WatchedInode &above = state_.inodes[name.directory];
        if (--above.users == 0 && !above.whole) state_.release(name.directory);
      }
    }
    // Others may have been moved here meanwhile.
    own.names.insert(own.names.end(), stay.begin(), stay.end());
  }
}

// As many names as links, all of them known: nobody has one that the rules have not seen. None: deleted, perhaps still open.
void Examination::settle() {
  for (const uint32_t index : counted_) {
    const WatchedInode &one = state_.inodes[index];
    if (!one.gone && !one.directory && one.names_left != one.links) doubt(index, "the names of a file that is left out have changed");
  }
  // Deleted with all that was in it: its own blocks do not say so any more.
  for (const uint32_t index : vanished_) state_.inodes[index].whole = false;
  for (const uint32_t index : vanished_) {
    if (state_.inodes[index].users == 0) state_.release(index);
  }
  for (const uint32_t index : vanished_) doubt(index, "a directory with files that are left out is another");
  for (const uint32_t index : counted_) {
    const WatchedInode &one = state_.inodes[index];
    if (one.gone || !one.directory || one.names_left == one.names) continue;
    if (one.users == 0) state_.release(index);
    else doubt(index, "a directory with files that are left out was renamed");
  }
}

void Examination::doubt(uint32_t index, const std::string &what) {
  const WatchedInode &one = state_.inodes[index];
  if (one.gone) return;
  if (!one.directory && one.left_out == 0) return state_.release(index);
  const std::string why = what + ": inode " + std::to_string(one.number);
  if (!building_) findings_.step = why;
  else if (one.directory) findings_.stale = why;
  else dropped_.push_back(index);
}

}  // namespace understudy::filesystem
