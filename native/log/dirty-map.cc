#include "log/dirty-map.h"

#include <algorithm>
#include <bit>

#include "core/check.h"

namespace understudy::log {
DirtyMap::DirtyMap(uint64_t size_bytes) : size_bytes_(size_bytes), bits_((regions() + 63) / 64) {}

// Sets or clears regions [first, last) and returns how many changed.
uint64_t DirtyMap::change(uint64_t first, uint64_t last, bool dirty) {
  uint64_t changed = 0;
  while (first < last) {
    const uint64_t bit = first % 64, count = std::min<uint64_t>(64 - bit, last - first);
    const uint64_t mask = (count == 64 ? ~0ull : (1ull << count) - 1) << bit;
    uint64_t &word = bits_[first / 64];
    changed += static_cast<uint64_t>(std::popcount(mask & (dirty ? ~word : word)));
    word = dirty ? word | mask : word & ~mask;
    first += count;
  }
  return changed;
}

void DirtyMap::mark(uint64_t start, uint64_t end) {
  CHECK(end <= size_bytes_);
  if (start < end) dirty_regions_ += change(start / kRegion, regions_up_to(end), true);
}

void DirtyMap::clear(uint64_t start, uint64_t end) {
  CHECK(end <= size_bytes_);
  const uint64_t first = (start + kRegion - 1) / kRegion;
  const uint64_t last = end == size_bytes_ ? regions() : end / kRegion;
  if (first < last) dirty_regions_ -= change(first, last, false);
}

uint64_t DirtyMap::find(uint64_t region, bool dirty, uint64_t limit) const {
  while (region < limit) {
    const uint64_t word = (dirty ? bits_[region / 64] : ~bits_[region / 64]) >> (region % 64);
    if (word) return std::min(limit, region + static_cast<uint64_t>(std::countr_zero(word)));
    region = (region / 64 + 1) * 64;
  }
  return limit;
}

bool DirtyMap::touches(uint64_t start, uint64_t end) const {
  const uint64_t limit = regions_up_to(end);
  return dirty_regions_ != 0 && start < end && find(start / kRegion, true, limit) < limit;
}

uint64_t DirtyMap::same_until(uint64_t at, uint64_t end) const {
  return std::min(end, find(at / kRegion, !is_dirty(at), regions_up_to(end)) * kRegion);
}

uint64_t DirtyMap::dirty_bytes() const {
  uint64_t bytes = dirty_regions_ * kRegion;
  const uint64_t tail = size_bytes_ % kRegion;
  if (tail && is_dirty(size_bytes_ - 1)) bytes -= kRegion - tail;
  return bytes;
}

DirtyMap::Run DirtyMap::next_run(uint64_t from, uint64_t bytes_max) const {
  if (!any()) return {size_bytes_, size_bytes_};
  const uint64_t start = std::min(size_bytes_, find(regions_up_to(from), true, regions()) * kRegion);
  if (start == size_bytes_) return {start, start};
  const uint64_t end = find(start / kRegion, false, regions()) * kRegion;
  // bytes_max may be as good as infinite: start + bytes_max would wrap.
  const uint64_t limit = bytes_max < size_bytes_ - start ? start + bytes_max : size_bytes_;
  return {start, std::min(end, limit)};
}

std::vector<DirtyMap::Run> DirtyMap::runs(size_t most) const {
  for (uint64_t gap = 0;; gap = std::max(kRegion, gap * 4)) {
    std::vector<Run> found;
    for (Run run = next_run(0, size_bytes_); run.start < run.end; run = next_run(run.end, size_bytes_)) {
      if (!found.empty() && run.start - found.back().end <= gap) {
        found.back().end = run.end;
      } else {
        found.push_back(run);
      }
      if (found.size() > most) break;
    }
    if (found.size() <= most) return found;
  }
}

void DirtyMap::merge(uint64_t index, uint64_t marks) {
  const uint64_t left = regions() - index * 64;
  if (left < 64) marks &= (1ull << left) - 1;
  dirty_regions_ += static_cast<uint64_t>(std::popcount(marks & ~bits_[index]));
  bits_[index] |= marks;
}

std::vector<uint64_t> DirtyMap::sparse() const {
  std::vector<uint64_t> pairs;
  for (uint64_t index = 0; index < bits_.size(); index++)
    if (bits_[index]) pairs.insert(pairs.end(), {index, bits_[index]});
  return pairs;
}

}  // namespace understudy::log
