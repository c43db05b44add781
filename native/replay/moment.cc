#include "replay/moment.h"

namespace understudy::replay {
namespace {
bool is(const RecordEntry &entry, wire::RecordType type) { return entry.type == static_cast<uint8_t>(type); }
}  // namespace

std::optional<size_t> count_before(const EpochStart &start, const std::vector<RecordEntry> &entries, const Moment &moment) {
  std::optional<size_t> count;
  if (moment.time_ns) {
    if (start.point.time_ns > *moment.time_ns) return std::nullopt;
    count = 0;
    for (size_t i = 0; i < entries.size(); i++)
      if (entries[i].time_ns <= *moment.time_ns) count = i + 1;
    return count;
  }
  if (!moment.position) return entries.size();
  if (start.point.position == *moment.position) count = 0;
  bool reaches = count.has_value();  // the position is known to have been passed, or met
  uint64_t incarnation = start.point.position.incarnation;
  for (size_t i = 0; i < entries.size(); i++) {
    if (is(entries[i], wire::RecordType::kBegin)) incarnation = entries[i].offset;
    if (incarnation != moment.position->incarnation) continue;
    if (entries[i].sequence <= moment.position->sequence) count = i + 1;
    if (entries[i].sequence >= moment.position->sequence) reaches = true;
  }
  return reaches ? count : std::nullopt;
}

size_t count_of_cut(const std::vector<RecordEntry> &entries, size_t count) {
  size_t cut = 0;
  bool in_step = false;
  for (size_t i = 0; i < count; i++) {
    if (is(entries[i], wire::RecordType::kBegin) && !entries[i].is_skipped) in_step = true;
    if (is(entries[i], wire::RecordType::kStep) && !entries[i].is_skipped) in_step = false;
    if (!in_step) cut = i + 1;
  }
  return cut;
}

Point point_after(const EpochStart &start, const std::vector<RecordEntry> &entries, size_t count) {
  Point point = start.point;
  for (size_t i = 0; i < count; i++) {
    if (is(entries[i], wire::RecordType::kBegin)) point.position.incarnation = entries[i].offset;
    point.position.sequence = entries[i].sequence;
    point.time_ns = entries[i].time_ns;
  }
  return point;
}

std::vector<EpochRun> runs_of(const EpochStart &start, const std::vector<RecordEntry> &entries) {
  const wire::Position from = start.point.position;
  std::vector<EpochRun> runs{{from.incarnation, from.sequence, from.sequence}};
  for (const RecordEntry &entry : entries) {
    if (is(entry, wire::RecordType::kBegin) && entry.offset != runs.back().incarnation)
      runs.push_back({entry.offset, entry.sequence, entry.sequence});
    runs.back().last_sequence = entry.sequence;
  }
  return runs;
}

}  // namespace understudy::replay
