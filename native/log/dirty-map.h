// DirtyMap: which regions (64 KiB) of a volume may differ on the standby. One bit each: 32 MiB for 16 TiB.
// Not thread-safe: the engine thread's. On stable storage: MarkFile.
#pragma once
#include <cstdint>
#include <vector>

#include "wire/control.h"

namespace understudy::log {

class DirtyMap {
 public:
  static constexpr uint64_t kRegion = wire::kRegionBytes;
  explicit DirtyMap(uint64_t size_bytes);

  void mark(uint64_t start, uint64_t end);   // every region that [start, end) touches
  void clear(uint64_t start, uint64_t end);  // every region wholly inside; the last one of the volume counts as whole
  bool any() const { return dirty_regions_ != 0; }
  bool is_dirty(uint64_t offset) const { return bits_[offset / kRegion / 64] >> (offset / kRegion % 64) & 1; }
  bool touches(uint64_t start, uint64_t end) const;
  // Up to where all regions are in the state of the one at `at`; not looked for beyond `end`.
  uint64_t same_until(uint64_t at, uint64_t end) const;
  uint64_t dirty_bytes() const;
  // The first dirty run of regions that begin at or after `from`, cut at bytes_max: [start, end), region-aligned (end
  // cut at the volume's end). start == end: none.
  struct Run {
    uint64_t start, end;
  };
  Run next_run(uint64_t from, uint64_t bytes_max) const;
  // All runs; where they would be more than `most`, neighbours with what lies between them count as one.
  std::vector<Run> runs(size_t most) const;

  // 64 regions each, the first one in bit 0: how MarkFile keeps them.
  uint64_t words() const { return bits_.size(); }
  uint64_t word(uint64_t index) const { return bits_[index]; }
  void merge(uint64_t index, uint64_t marks);
  // Words that are not zero, each after its index.
  std::vector<uint64_t> sparse() const;

 private:
  static uint64_t regions_up_to(uint64_t end) { return (end + kRegion - 1) / kRegion; }
  uint64_t regions() const { return regions_up_to(size_bytes_); }
  // The first region in that state in [region, limit), or limit.
  uint64_t find(uint64_t region, bool dirty, uint64_t limit) const;
  uint64_t change(uint64_t first, uint64_t last, bool dirty);
  uint64_t size_bytes_;
  uint64_t dirty_regions_ = 0;
  std::vector<uint64_t> bits_;
};

}  // namespace understudy::log
