// The tree of directories of a FAT or exFAT file system, while it is read: breadth first, a directory's entries as one
// row whatever clusters they lie in.
#pragma once
#include <vector>

#include "filesystem/clusters.h"
#include "filesystem/reading.h"

namespace understudy::filesystem {

inline constexpr size_t kEntryBytes = 32;

// Where clusters are, as a directory entry says it.
struct ClusterPlace {
  uint64_t first = 0;      // 0: it has none
  uint64_t bytes = UINT64_MAX;  // of a directory of exFAT; FAT's do not say
  bool in_a_row = false;   // exFAT: one behind the other, not in the table
};

class ClusterTree {
 public:
  ClusterTree(const Space &space, Budget &budget, Clusters &clusters, Problems &problems, Listing &listing);

  // An entry of the directory that is being read. False: the budget is spent.
  bool add_directory(std::string_view name, const ClusterPlace &place);
  // unwritten_bytes: of the file's, those that read as zeroes.
  bool add_file(std::string_view name, const ClusterPlace &place, uint64_t size_bytes, uint64_t unwritten_bytes);
  // Clusters of nothing that is listed.
  void claim(const ClusterPlace &place);

  // The root comes first. Null in `read`: the entries end here. Calls read(entry) for each entry, and done() behind the last.
  template <typename Read, typename Done>
  void walk(const ClusterPlace &root, Read read, Done done);
  // The same for entries at a place of their own: the root of FAT12 and FAT16, before walk_rest().
  template <typename Read, typename Done>
  void read_root(uint64_t offset, uint64_t bytes, Read read, Done done);
  template <typename Read, typename Done>
  void walk_rest(Read read, Done done);

  // Names and extents, at the end. An error of the budget.
  int finish(Claims &claims);
  std::string here() const { return "an entry of directory " + std::to_string(current_); }

 private:
  Chain follow(const ClusterPlace &place, uint64_t data_clusters, uint32_t owner, std::vector<ClusterRun> *runs = nullptr);
  // False: the entries have ended, or cannot be read.
  template <typename Read>
  bool read_piece(uint64_t offset, uint64_t bytes, Read read);

  const Space &space_;
  Budget &budget_;
  Clusters &clusters_;
  Problems &problems_;
  Listing &listing_;
  std::vector<ClusterPlace> places_;  // of listing_.directories
  std::vector<Tail> tails_;           // of listing_.files
  std::vector<uint8_t> piece_;
  uint32_t current_ = 0;
};

inline constexpr uint64_t kPieceBytes = 64u << 10;

template <typename Read>
bool ClusterTree::read_piece(uint64_t offset, uint64_t bytes, Read read) {
  for (uint64_t at = 0; at < bytes; at += kPieceBytes) {
    const uint64_t part = std::min(kPieceBytes, bytes - at);
    if (!budget_.goes_on()) return false;
    piece_.resize(kPieceBytes);
    if (!space_.read(offset + at, piece_.data(), part).ok()) return problems_.add("directory " + std::to_string(current_)), false;
    for (uint64_t entry = 0; entry + kEntryBytes <= part; entry += kEntryBytes)
      if (!read(piece_.data() + entry)) return false;
  }
  return true;
}

template <typename Read, typename Done>
void ClusterTree::walk(const ClusterPlace &root, Read read, Done done) {
  listing_.directories.push_back({0, 0, 0});
  places_.push_back(root);
  walk_rest(read, done);
}

template <typename Read, typename Done>
void ClusterTree::read_root(uint64_t offset, uint64_t bytes, Read read, Done done) {
  listing_.directories.push_back({0, 0, 0});
  places_.push_back({});
  read_piece(offset, bytes, read);
  done();
  current_ = 1;
}

template <typename Read, typename Done>
void ClusterTree::walk_rest(Read read, Done done) {
  std::vector<ClusterRun> runs;
  for (; current_ < places_.size() && !budget_.error(); current_++) {
    const ClusterPlace place = places_[current_];
    const uint64_t cluster_bytes = clusters_.geometry().cluster_bytes;
    if (place.bytes == 0) continue;
    runs.clear();
    const uint64_t needed = place.bytes == UINT64_MAX ? UINT64_MAX : (place.bytes - 1) / cluster_bytes + 1;
    const Chain chain = follow(place, needed, kNobodysFile, &runs);
    if (chain.damage) problems_.add("directory " + std::to_string(current_) + " (" + chain.damage + ")");
    else if (needed != UINT64_MAX && chain.last_of_data == 0) problems_.add("directory " + std::to_string(current_) + " (it is shorter than it says)");
    uint64_t left = place.bytes;
    for (const ClusterRun &run : runs) {
      const uint64_t part = std::min(left, run.count * cluster_bytes);
      if (!read_piece(clusters_.geometry().offset_of(run.start), part, read)) break;
      left -= part;
    }
    done();
  }
}

}  // namespace understudy::filesystem
