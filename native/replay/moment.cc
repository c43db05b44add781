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
  const wire::Position from = start.point.position;
  // Between it and the first record there may be sequences that no record here has: a resynchronisation skips them.
  if (from.incarnation == moment.position->incarnation && from.sequence <= moment.position->sequence) count = 0;
  bool reaches = from == *moment.position;  // the position is known to have been passed, or met
  uint64_t incarnation = from.incarnation;
  for (size_t i = 0; i < entries.size(); i++) {
    if (is(entries[i], wire::RecordType::kBegin)) incarnation = entries[i].offset;
    if (incarnation != moment.position->incarnation) continue;
    if (entries[i].sequence <= moment.position->sequence) count = i + 1;
    if (entries[i].sequence >= moment.position->sequence) reaches = true;
  }
  return reaches ? count : std::nullopt;
}

}  // namespace understudy::replay
