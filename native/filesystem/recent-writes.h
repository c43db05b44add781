// Where clients have written since the last commit: what data=writeback makes it necessary to know.
//
//   T frees a block of a file that is left out, and is being committed | T+1 is running: gives it to another file, whose data
//   is written at once | T's commit block: it is free now. It is not empty.
//
// Other kinds of mounts give it to nobody before T's commit block; which kind it is is written nowhere.
// Guarantees: what was added is found, until clear(). Now and then something else is, too: then a free block is sent.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace understudy::filesystem {

class RecentWrites {
 public:
  // Blocks [first, last].
  void add(uint64_t first, uint64_t last) {
    if (last / kGrain - first / kGrain > kGrainsMax) all_ = true;
    if (all_) return;
    if (bits_.empty()) bits_.resize(kBits / 64);
    for (uint64_t grain = first / kGrain; grain <= last / kGrain; grain++) bits_[place(grain) / 64] |= uint64_t{1} << place(grain) % 64;
    any_ = true;
  }
  void add_all() { all_ = true; }
  void clear() {
    if (any_) std::fill(bits_.begin(), bits_.end(), 0);
    any_ = all_ = false;
  }
  // visit(first, blocks) for what of [start, start + blocks) was perhaps written.
  template <typename Visit>
  void within(uint64_t start, uint64_t blocks, Visit visit) const {
    if (all_) return visit(start, blocks);
    if (!any_) return;
    for (const uint64_t end = start + blocks; start < end;) {
      const uint64_t to = std::min(end, (start / kGrain + 1) * kGrain), grain = start / kGrain;
      if (bits_[place(grain) / 64] >> place(grain) % 64 & 1) visit(start, to - start);
      start = to;
    }
  }

 private:
  static constexpr uint64_t kGrain = 8;             // blocks
  static constexpr uint64_t kGrainsMax = 1u << 16;  // of one write: a trim of very much is all
  static constexpr int kLogBits = 20;               // 128 KiB, whatever the size of the file system
  static constexpr uint64_t kBits = 1u << kLogBits;
  static uint64_t place(uint64_t grain) { return grain * 0x9e3779b97f4a7c15 >> (64 - kLogBits); }

  std::vector<uint64_t> bits_;
  bool any_ = false, all_ = false;
};

}  // namespace understudy::filesystem
