#include "replay/past-device.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "core/check.h"

namespace understudy::replay {
namespace {

// What lies under the records, looked up once for so many blocks: an epoch of a long history costs a search.
constexpr uint64_t kRegionBlocks = 256;
constexpr size_t kRegionsMax = 4096;  // that are remembered: 24 MiB

class PastDevice final : public Device {
 public:
  PastDevice(std::unique_ptr<Device> bottom, size_t volume, std::shared_ptr<const std::vector<SavedLayer>> layers,
             std::shared_ptr<const PastRecords> records)
      : bottom_(std::move(bottom)), volume_(volume), layers_(std::move(layers)), records_(std::move(records)) {
    traits_ = bottom_->traits();
    traits_.can_zero = false;
    const auto &entries = records_->entries();
    for (uint32_t i = 0; i < entries.size(); i++)
      if (changes_image(entries[i]) && entries[i].volume == volume) newest_.add(entries[i].offset, entries[i].length, i);
  }

  int read(void *data, size_t bytes, uint64_t offset) override {
    auto *to = static_cast<uint8_t *>(data);
    const uint64_t end = offset + bytes;
    for (uint64_t at = offset; at < end;) {
      const uint64_t region = at / kViewBlockBytes / kRegionBlocks;
      const uint64_t until = std::min(end, (region + 1) * kRegionBlocks * kViewBlockBytes);
      if (const int error = read_below(region, to + (at - offset), until - at, at)) return error;
      at = until;
    }
    for (auto piece = newest_.at(offset); piece != newest_.pieces().end() && piece->first < end; ++piece) {
      const uint64_t from = std::max(offset, piece->first), until = std::min(end, piece->second.end);
      if (const int error = records_->read(piece->second.entry, from, until - from, to + (from - offset))) return error;
    }
    return 0;
  }
  int read_now(void *, size_t, uint64_t) override { return EAGAIN; }  // several files may have to be asked
  int write(const void *, size_t, uint64_t) override { return EROFS; }
  int zero(uint64_t, uint64_t, ZeroHow, bool) override { return EROFS; }
  int flush() override { return 0; }

  // Holes of the bottom that nothing lies over.
  Extent extent(uint64_t offset, uint64_t bytes) override {
    const auto piece = newest_.at(offset);
    if (piece != newest_.pieces().end() && piece->first <= offset)
      return {std::min(bytes, piece->second.end - offset), false};
    if (piece != newest_.pieces().end()) bytes = std::min(bytes, piece->first - offset);
    const uint64_t block = offset / kViewBlockBytes, region = block / kRegionBlocks;
    bytes = std::min(bytes, (region + 1) * kRegionBlocks * kViewBlockBytes - offset);
    std::shared_ptr<const Region> below;
    if (look_up(region, &below) != 0) return {bytes, false};
    const auto is_saved = [&](uint64_t which) { return below && (*below)[which % kRegionBlocks].layer != nullptr; };
    uint64_t last = block + 1;
    while (last % kRegionBlocks != 0 && is_saved(last) == is_saved(block)) last++;
    bytes = std::min(bytes, last * kViewBlockBytes - offset);
    return is_saved(block) ? Extent{bytes, false} : bottom_->extent(offset, bytes);
  }

 private:
  struct Place {
    const SavedLayer *layer = nullptr;  // null: the bottom has it
    SavedBlock block{};
  };
  using Region = std::array<Place, kRegionBlocks>;

  // *found: null when the bottom has all of it.
  int look_up(uint64_t region, std::shared_ptr<const Region> *found) {
    {
      std::lock_guard lock(mutex_);
      const auto known = regions_.find(region);
      if (known != regions_.end()) return *found = known->second, 0;
    }
    std::shared_ptr<Region> places;
    const uint64_t first = block_key(volume_, region * kRegionBlocks);
    for (const SavedLayer &layer : *layers_) {
      const int error = layer.find(first, kRegionBlocks, [&](const SavedBlock &block) {
        if (!places) places = std::make_shared<Region>();
        Place &place = (*places)[block.key - first];
        if (!place.layer) place = {&layer, block};
      });
      if (error) return error;
    }
    std::lock_guard lock(mutex_);
    if (regions_.size() >= kRegionsMax) regions_.clear();  // who reads one keeps it
    *found = regions_.emplace(region, std::move(places)).first->second;
    return 0;
  }

  int read_below(uint64_t region, uint8_t *data, size_t bytes, uint64_t offset) {
    std::shared_ptr<const Region> below;
    if (const int error = look_up(region, &below)) return error;
    if (!below) return bottom_->read(data, bytes, offset);
    std::array<uint8_t, kViewBlockBytes> block{};
    const uint64_t end = offset + bytes;
    for (uint64_t at = offset; at < end;) {
      const auto place = [&](uint64_t where) -> const Place & { return (*below)[where / kViewBlockBytes % kRegionBlocks]; };
      uint64_t until = std::min(end, (at / kViewBlockBytes + 1) * kViewBlockBytes);
      if (place(at).layer) {
        if (const int error = place(at).layer->file->read(place(at).block, block.data())) return error;
        memcpy(data + (at - offset), block.data() + at % kViewBlockBytes, until - at);
      } else {
        while (until < end && !place(until).layer) until = std::min(end, until + kViewBlockBytes);
        if (const int error = bottom_->read(data + (at - offset), until - at, at)) return error;
      }
      at = until;
    }
    return 0;
  }

  std::unique_ptr<Device> bottom_;
  const size_t volume_;
  std::shared_ptr<const std::vector<SavedLayer>> layers_;
  std::shared_ptr<const PastRecords> records_;
  NewestRecords newest_;
  std::mutex mutex_;  // of regions_
  std::unordered_map<uint64_t, std::shared_ptr<const Region>> regions_;
};

}  // namespace

std::unique_ptr<Device> show_past(std::unique_ptr<Device> bottom, size_t volume,
                                  std::shared_ptr<const std::vector<SavedLayer>> layers,
                                  std::shared_ptr<const PastRecords> records) {
  return std::make_unique<PastDevice>(std::move(bottom), volume, std::move(layers), std::move(records));
}

}  // namespace understudy::replay
