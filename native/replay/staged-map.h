// StagedMap: which regions of the volumes have records that are staged and not applied, so that nobody takes the
// image's bytes there for what the standby will have.
#pragma once
#include <memory>
#include <vector>

#include "replay/block-map.h"
#include "wire/control.h"

namespace understudy::replay {

class StagedMap {
 public:
  explicit StagedMap(const std::vector<uint64_t> &volume_bytes) : volume_bytes_(volume_bytes) { clear(); }
  void clear() {
    maps_.clear();
    for (uint64_t bytes : volume_bytes_) maps_.push_back(std::make_unique<BlockMap>(bytes / wire::kRegionBytes + 1));
  }
  void add(uint32_t volume, uint64_t offset, uint64_t bytes) {
    const BlockRange range = blocks_touched(offset, bytes, wire::kRegionBytes);
    maps_[volume]->set(range.first, range.count);
  }
  bool touches(uint32_t volume, uint64_t region) const { return maps_[volume]->test(region); }

 private:
  std::vector<uint64_t> volume_bytes_;
  std::vector<std::unique_ptr<BlockMap>> maps_;
};

}  // namespace understudy::replay
