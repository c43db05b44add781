#include "filesystem/ext-state.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace understudy::filesystem {
namespace {

constexpr uint64_t kDirectoryBlocksMax = 1u << 16;
constexpr uint32_t kNone = UINT32_MAX;
constexpr size_t kNodeBytes = 64;  // of a map, about

class Reader {
 public:
  Reader(const Committed &committed, const Space &space, const Listing &listing, const std::vector<uint8_t> &left_out, const std::vector<uint8_t> &whole, Budget &budget, ExtState &state)
      : committed_(committed), space_(space), listing_(listing), left_out_(left_out), whole_(whole), budget_(budget), state_(state), table_(state.geometry.block_bytes) {}

  Status read() {
    if (auto status = choose(); !status.ok()) return status;
    if (auto status = read_inodes(); !status.ok()) return status;
    if (auto status = read_names(); !status.ok()) return status;
    index();
    return budget_.error() ? Status::failed(budget_.error(), "watch the file system") : Status::good();
  }

 private:
  Status changed() const { return {EAGAIN, "watch the file system: it changed while it was read"}; }

  bool is_whole(size_t directory) const { return !whole_.empty() && whole_[directory]; }

  // Files that are left out, directories in which all is, and those above them.
  Status choose() {
    std::vector<bool> above(listing_.directories.size());
    for (uint32_t file = 0; file < listing_.files.size(); file++) {
      const File &one = listing_.files[file];
      if (one.held & (kShared | kDamaged)) state_.never.insert(listing_.file_inodes.at(file));
      if (!left_out_[file] || one.held || one.link_count == 0) continue;
      chosen_.push_back({listing_.file_inodes.at(file), file, false});
      for (uint32_t i = 0; i < one.link_count; i++) above[listing_.links[one.first_link + i].directory] = true;
    }
    for (size_t i = 0; i < above.size(); i++)
      if (is_whole(i)) above[i] = true;
    for (size_t i = above.size(); i-- > 1;)
      if (above[i]) above[listing_.directories[i].parent] = true;
    for (uint32_t i = 0; i < above.size(); i++)
      if (above[i]) chosen_.push_back({listing_.directory_inodes.at(i), i, true});
    std::sort(chosen_.begin(), chosen_.end(), [](const Chosen &a, const Chosen &b) { return a.number < b.number; });
    file_index_.assign(listing_.files.size(), kNone), directory_index_.assign(listing_.directories.size(), kNone);
    if (!budget_.take(chosen_.size() * (sizeof(Chosen) + sizeof(WatchedInode) + kNodeBytes) + (file_index_.size() + directory_index_.size()) * 4))
      return Status::failed(budget_.error(), "watch the file system");
    return Status::good();
  }

  bool load_inode(uint32_t number, struct ext2_inode &inode) {
    const Geometry::Place place = state_.geometry.place(number);
    if (place.block != table_block_) {
      if (!committed_.read_block(place.block, table_.data()).ok()) return false;
      table_block_ = place.block;
    }
    memcpy(&inode, &table_[place.offset], sizeof inode);
    return true;
  }

  Status read_inodes() {
    const LoadBlock load = [&](uint64_t block, uint8_t *data) { return committed_.read_block(block, data).ok(); };
    for (const Chosen &one : chosen_) {
      if (!budget_.goes_on()) return Status::failed(budget_.error(), "watch the file system");
      if (one.number == 0 || one.number > state_.geometry.inodes) return changed();
      struct ext2_inode inode;
      WatchedInode watched{one.number};
      const auto index = static_cast<uint32_t>(state_.inodes.size());
      Mapping mapping;
      bool follow = load_inode(one.number, inode) && !is_deleted(inode, state_.geometry) &&
                    (one.directory ? LINUX_S_ISDIR(inode.i_mode) : LINUX_S_ISREG(inode.i_mode)) && map_inode(inode, state_.geometry, load, mapping);
      watched.directory = one.directory, watched.links = inode.i_links_count, watched.generation = inode.i_generation;
      watched.flags = inode.i_flags & kFlagsThatMatter, watched.map_hash = hash_map(inode);
      // What the listing held back for its flags may have lost them meanwhile, or the other way round.
      if (!one.directory) follow = follow && watched.flags == EXT4_EXTENTS_FL && watched.links == listing_.files[one.index].link_count;
      uint64_t blocks = 0;
      for (const Run &run : mapping.runs) blocks += run.blocks;
      if (!follow || (one.directory && blocks > kDirectoryBlocksMax)) continue;
      if (one.directory) {
        watched.whole = is_whole(one.index) && watched.flags == EXT4_EXTENTS_FL;
        for (const Run &run : mapping.runs)
          for (uint64_t block = run.start; block < run.start + run.blocks; block++) state_.directory_blocks[block] = {index, {}}, watched.blocks++;
      } else {
        for (const Run &run : mapping.runs)
          if (const Owner owner = listed_owner(run, one.index); owner == Owner::kThis) state_.left_out[run.start] = {run.blocks, index}, watched.left_out += run.blocks;
          else if (owner == Owner::kThisOrNobody) state_.unlisted.emplace_back(index, run);
      }
      if (!budget_.take((mapping.runs.size() + mapping.nodes.size() + watched.blocks) * kNodeBytes)) return Status::failed(budget_.error(), "watch the file system");
      for (const uint64_t block : mapping.nodes) state_.nodes[block] = index;
      (one.directory ? directory_index_ : file_index_)[one.index] = index;
      state_.inodes.push_back(watched);
    }
    return Status::good();
  }

  // Whose a run is in the listing, which knows that nobody else claims what it gives to a file. kOthers: some of it. Whether
  // that has changed hands since, or is claimed twice, only the next listing knows: it is replicated until then.
  enum class Owner { kThis, kThisOrNobody, kOthers };
  Owner listed_owner(const Run &run, uint32_t file) const {
    bool all = true, others = false;
    space_.map(run.start * state_.geometry.block_bytes, uint64_t{run.blocks} * state_.geometry.block_bytes, [&](uint64_t offset, uint64_t bytes) {
      auto at = std::upper_bound(listing_.extents.begin(), listing_.extents.end(), offset, [](uint64_t value, const Extent &one) { return value < one.offset; });
      if (at != listing_.extents.begin() && std::prev(at)->offset + std::prev(at)->bytes > offset) --at;
      const bool meets = at != listing_.extents.end() && at->offset < offset + bytes;
      all = all && meets && at->file == file && at->offset <= offset && offset + bytes <= at->offset + at->bytes;
      for (; !others && at != listing_.extents.end() && at->offset < offset + bytes; ++at) others = at->file != file;
    });
    return others ? Owner::kOthers : all ? Owner::kThis : Owner::kThisOrNobody;
  }

  struct Wanted {
    uint32_t directory;
    uint64_t hash;
    uint32_t target;
  };

  Status read_names() {
    std::vector<Wanted> wanted;
    const auto want = [&](uint32_t directory, uint32_t target, uint32_t start, uint32_t end) {
      const uint32_t in = directory_index_[directory];
      const std::string_view name(listing_.names.data() + start, end - start);
      wanted.push_back({in, hash_name(state_.inodes[target].number, name), target});
    };
    // Without all of the directories above it a file cannot be followed.
    std::vector<bool> reachable(listing_.directories.size());
    for (uint32_t i = 0; i < reachable.size(); i++)
      reachable[i] = directory_index_[i] != kNone && (i == 0 || reachable[listing_.directories[i].parent]);
    std::vector<bool> used(listing_.directories.size());
    for (uint32_t file = 0; file < listing_.files.size(); file++) {
      if (file_index_[file] == kNone) continue;
      const File &one = listing_.files[file];
      bool all = true;
      for (uint32_t i = 0; i < one.link_count; i++) all = all && reachable[listing_.links[one.first_link + i].directory];
      if (!all) {
        unfollowed_.push_back(file_index_[file]);
        continue;
      }
      for (uint32_t i = 0; i < one.link_count; i++) {
        const Link &link = listing_.links[one.first_link + i];
        want(link.directory, file_index_[file], link.name_start, link.name_end);
        used[link.directory] = true;
      }
    }
    for (uint32_t i = 0; i < used.size(); i++) {
      if (directory_index_[i] == kNone) continue;
      WatchedInode &own = state_.inodes[directory_index_[i]];
      own.whole = own.whole && reachable[i];
      if (own.whole) used[i] = state_.any_whole = true;
    }
    for (size_t i = used.size(); i-- > 1;)
      if (used[i]) used[listing_.directories[i].parent] = true;
    for (uint32_t i = 1; i < used.size(); i++)
      if (used[i]) want(listing_.directories[i].parent, directory_index_[i], listing_.directories[i].name_start, listing_.directories[i].name_end);
    if (!budget_.take(wanted.size() * (2 * sizeof(WatchedName) + 3 * kNodeBytes))) return Status::failed(budget_.error(), "watch the file system");
    add_names(wanted);
    if (auto status = find_names(); !status.ok()) return status;
    for (uint32_t i = 1; i < used.size(); i++)
      if (directory_index_[i] != kNone && !used[i]) state_.inodes[directory_index_[i]].gone = true;
    std::vector<Run> runs;
    state_.drop(unfollowed_, runs);
    return Status::good();
  }

  void add_names(std::vector<Wanted> &wanted) {
    std::sort(wanted.begin(), wanted.end(), [](const Wanted &a, const Wanted &b) { return a.target < b.target; });
    for (const Wanted &one : wanted) {
      WatchedInode &target = state_.inodes[one.target];
      if (target.names++ == 0) target.first_name = static_cast<uint32_t>(state_.names.size());
      target.names_left = target.names;
      state_.inodes[one.directory].users++;
      state_.names.push_back({one.hash, one.target, one.directory});
    }
  }

  // In which block each name is. A file whose name is not found is not followed; of directories all must be.
  Status find_names() {
    std::unordered_map<uint64_t, uint32_t> wanted;  // by hash and directory
    const auto key = [](uint64_t hash, uint32_t directory) { return hash ^ (directory + 1) * 0x9e3779b97f4a7c15; };
    std::vector<uint8_t> content(state_.geometry.block_bytes);
    std::vector<bool> found(state_.names.size());
    // Two names that cannot be told apart: the second one is as one that is not there.
    for (uint32_t i = 0; i < state_.names.size(); i++) wanted.emplace(key(state_.names[i].hash, state_.names[i].directory), i);
    for (auto &[block, own] : state_.directory_blocks) {
      if (state_.inodes[own.directory].users == 0) continue;
      if (!budget_.goes_on()) return Status::failed(budget_.error(), "watch the file system");
      const bool good = committed_.read_block(block, content.data()).ok() && visit_entries(content.data(), state_.geometry.block_bytes, [&, &own = own](uint32_t inode, std::string_view name) {
        const auto at = wanted.find(key(hash_name(inode, name), own.directory));
        if (at == wanted.end() || found[at->second]) return;
        found[at->second] = true;
        own.names.push_back(at->second);
      });
      if (!good) return changed();
    }
    for (uint32_t i = 0; i < state_.names.size(); i++) {
      if (found[i]) continue;
      if (state_.inodes[state_.names[i].target].directory) return changed();
      unfollowed_.push_back(state_.names[i].target);
    }
    return Status::good();
  }

  void index() {
    const Geometry &geometry = state_.geometry;
    state_.by_number = state_.inodes.size();
    state_.watched_chunks.assign(geometry.blocks / ExtState::kChunkBlocks + 1, false);
    for (uint32_t group = 0; group < geometry.bitmaps.size(); group++) state_.bitmap_groups[geometry.bitmaps[group]] = group;
    const auto group_of = [&](uint64_t block) { return (block - geometry.first_block) / geometry.blocks_per_group; };
    for (const auto &[start, run] : state_.left_out)
      for (uint64_t group = group_of(start); group <= group_of(start + run.blocks - 1); group++) state_.watch(geometry.bitmaps[group]);
    for (const WatchedInode &one : state_.inodes) {
      if (one.gone) continue;
      const uint64_t block = geometry.place(one.number).block;
      state_.inode_blocks[block] = geometry.first_in_block(one.number), state_.watch(block);
    }
    for (const auto &[block, own] : state_.directory_blocks) state_.watch(block);
    for (const auto &[block, own] : state_.nodes) state_.watch(block);
  }

  struct Chosen {
    uint32_t number, index;
    bool directory;
  };
  const Committed &committed_;
  const Space &space_;
  const Listing &listing_;
  const std::vector<uint8_t> &left_out_, &whole_;
  Budget &budget_;
  ExtState &state_;
  std::vector<Chosen> chosen_;
  std::vector<uint32_t> file_index_, directory_index_;  // of the listing -> of the state
  std::vector<uint32_t> unfollowed_;  // files of the state that turned out so
  std::vector<uint8_t> table_;
  uint64_t table_block_ = UINT64_MAX;
};

}  // namespace

uint64_t hash_name(uint32_t inode, std::string_view name) {
  // What begins with the inode's number alone would let it and a short name make up for each other.
  uint64_t hash = (0xcbf29ce484222325 ^ inode ^ name.size() << 32) * 0x9e3779b97f4a7c15;
  for (size_t at = 0; at < name.size(); at += sizeof(uint64_t)) {
    uint64_t word = 0;
    memcpy(&word, name.data() + at, std::min(sizeof word, name.size() - at));
    hash = (hash ^ hash >> 32 ^ word) * 0x9e3779b97f4a7c15;
  }
  return (hash ^ hash >> 29) * 0xbf58476d1ce4e5b9;
}

uint64_t hash_map(const struct ext2_inode &inode) {
  return hash_name(inode.i_flags & kFlagsThatMatter, {reinterpret_cast<const char *>(inode.i_block), sizeof inode.i_block});
}

// As is_free() of ext-inodes.cc: one that is deleted while it is open has the number of another inode for its time.
bool is_deleted(const struct ext2_inode &inode, const Geometry &geometry) {
  return inode.i_links_count == 0 && (inode.i_mode == 0 || inode.i_dtime > geometry.inodes);
}

bool ExtState::watches(uint64_t block) const {
  return may_watch(block) && (directory_blocks.count(block) || nodes.count(block) || inode_blocks.count(block) || bitmap_groups.count(block));
}

bool ExtState::knows(uint32_t number) const {
  const auto came = added.find(number);
  if (came != added.end() && !inodes[came->second].gone) return true;
  const auto end = inodes.begin() + static_cast<ptrdiff_t>(by_number);
  const auto at = std::lower_bound(inodes.begin(), end, number, [](const WatchedInode &one, uint32_t value) { return one.number < value; });
  return at != end && at->number == number && !at->gone;
}

uint32_t ExtState::add(WatchedInode inode, const std::vector<NewName> &its) {
  const auto index = static_cast<uint32_t>(inodes.size());
  inode.first_name = static_cast<uint32_t>(names.size()), inode.names = inode.names_left = static_cast<uint32_t>(its.size());
  for (const NewName &name : its) {
    inodes[name.directory].users++;
    directory_blocks[name.block].names.push_back(static_cast<uint32_t>(names.size()));
    names.push_back({name.hash, index, name.directory});
  }
  const uint64_t block = geometry.place(inode.number).block;
  inode_blocks[block] = geometry.first_in_block(inode.number), watch(block);
  added[inode.number] = index;
  inodes.push_back(inode);
  return index;
}

void ExtState::leave_out(uint32_t file, const Run &run) {
  left_out[run.start] = {run.blocks, file};
  inodes[file].left_out += run.blocks;
  const auto group_of = [&](uint64_t block) { return (block - geometry.first_block) / geometry.blocks_per_group; };
  for (uint64_t group = group_of(run.start); group <= group_of(run.start + run.blocks - 1); group++) watch(geometry.bitmaps[group]);
}

void ExtState::release(uint32_t index) {
  std::vector<uint32_t> todo = {index};
  while (!todo.empty()) {
    WatchedInode &one = inodes[todo.back()];
    todo.pop_back();
    if (one.gone) continue;
    one.gone = true, one.whole = false;
    for (uint32_t i = one.first_name; i < one.first_name + one.names; i++) {
      if (names[i].gone) continue;
      names[i].gone = true, one.names_left--;
      WatchedInode &above = inodes[names[i].directory];
      if (--above.users == 0 && !above.whole) todo.push_back(names[i].directory);
    }
  }
}

void ExtState::drop(const std::vector<uint32_t> &files, std::vector<Run> &runs) {
  if (files.empty()) return;
  std::vector<bool> dropped(inodes.size());
  for (const uint32_t file : files) dropped[file] = true, inodes[file].left_out = 0;
  for (auto at = left_out.begin(); at != left_out.end();) {
    if (!dropped[at->second.file]) {
      ++at;
      continue;
    }
    runs.push_back({at->first, at->second.blocks});
    at = left_out.erase(at);
  }
  for (const uint32_t file : files) release(file);
}

uint64_t ExtState::overlap(const Run &run, uint32_t file, std::vector<Run> &others) const {
  uint64_t blocks = 0, next = run.start;
  const uint64_t end = run.start + run.blocks;
  auto at = left_out.upper_bound(run.start);
  if (at != left_out.begin()) --at;
  for (; at != left_out.end() && at->first < end; ++at) {
    const uint64_t from = std::max(run.start, at->first), to = std::min(end, at->first + at->second.blocks);
    if (from >= to) continue;
    if (next < from) others.push_back({next, static_cast<uint32_t>(from - next)});
    next = to;
    if (at->second.file == file) blocks += to - from;
  }
  if (next < end) others.push_back({next, static_cast<uint32_t>(end - next)});
  return blocks;
}

Status read_state(const Committed &committed, const Space &space, const Listing &listing, const std::vector<uint8_t> &left_out,
                  const std::vector<uint8_t> &whole, Budget &budget, ExtState &state) {
  return Reader(committed, space, listing, left_out, whole, budget, state).read();
}

}  // namespace understudy::filesystem
