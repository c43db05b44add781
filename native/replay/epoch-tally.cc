#include "replay/epoch-tally.h"

#include "wire/record.h"

namespace understudy::replay {
namespace {
bool is(const RecordEntry &entry, wire::RecordType type) { return entry.type == static_cast<uint8_t>(type); }
}  // namespace

EpochTally::EpochTally(const EpochStart &start) : cut_(start.point), last_(start.point) {
  const wire::Position from = start.point.position;
  runs_.push_back({from.incarnation, from.sequence, from.sequence});
}

void EpochTally::add(const RecordEntry &entry) {
  count_++;
  if (changes_image(entry))
    changed_bytes_ += blocks_touched(entry.offset, entry.length, kViewBlockBytes).count * kViewBlockBytes;
  if (is(entry, wire::RecordType::kBegin)) {
    begins_++;
    last_.position.incarnation = entry.offset;
    if (entry.offset != runs_.back().incarnation) runs_.push_back({entry.offset, entry.sequence, entry.sequence});
    if (!entry.is_skipped) in_step_ = true;
  }
  if (is(entry, wire::RecordType::kStep) && !entry.is_skipped) in_step_ = false;
  runs_.back().last_sequence = entry.sequence;
  last_.position.sequence = entry.sequence;
  last_.time_ns = entry.time_ns;
  if (in_step_) return;
  cut_count_ = count_;
  cut_ = last_;
}

void EpochTally::add(const std::vector<RecordEntry> &entries, size_t count) {
  for (size_t i = 0; i < count; i++) add(entries[i]);
}

}  // namespace understudy::replay
