// When a history was written to, and its flushes: from the indexes of its epochs, one after the other.
#include <algorithm>

#include "replay/history.h"
#include "replay/moment.h"

namespace understudy::replay {
namespace {
constexpr size_t kFlushesMax = 1000;

// Half of them, evenly; the newest stays.
void thin(std::vector<Point> &points) {
  size_t kept = 0;
  for (size_t i = (points.size() + 1) % 2; i < points.size(); i += 2) points[kept++] = points[i];
  points.resize(kept);
}
}  // namespace

Result<HistoryTimeline> History::timeline(uint64_t from_ns, uint64_t to_ns, size_t buckets) const {
  struct Stretch {
    EpochStart start;
    RecordIndex::Extent extent;
  };
  std::vector<Stretch> stretches;
  {
    std::lock_guard lock(mutex_);
    if (!is_open()) return Status::failed(ENODATA, "history: none is kept, or it has not begun");
    for (size_t i = 0; i < epochs_.size(); i++) {
      const bool is_last = i + 1 == epochs_.size();
      if (!is_last && epochs_[i + 1].start().point.time_ns < from_ns) continue;
      stretches.push_back({epochs_[i].start(), is_last ? index_->extent() : RecordIndex::Extent{.to = epochs_[i + 1].start().log_offset}});
    }
  }
  HistoryTimeline timeline;
  timeline.written_bytes.resize(buckets);
  size_t every = 1, seen = 0;
  for (const Stretch &stretch : stretches) {
    const auto entries = RecordIndex::load(directory_, stretch.start, stretch.extent);
    if (entries.status.error == ENOENT) continue;  // it has just expired
    if (!entries.ok()) return entries.status;
    uint64_t incarnation = stretch.start.point.position.incarnation;
    for (const RecordEntry &entry : entries.value) {
      const auto type = static_cast<wire::RecordType>(entry.type);
      if (type == wire::RecordType::kBegin) incarnation = entry.offset;
      if (entry.is_skipped || entry.time_ns < from_ns || entry.time_ns >= to_ns) continue;
      if (type == wire::RecordType::kWrite && buckets) {
        const auto share = static_cast<double>(entry.time_ns - from_ns) / static_cast<double>(to_ns - from_ns);
        timeline.written_bytes[std::min(buckets - 1, static_cast<size_t>(share * static_cast<double>(buckets)))] += entry.length;
      }
      if (type != wire::RecordType::kFlush) continue;
      // The newest always; of those before it, evenly so many.
      if (!timeline.flushes.empty() && (seen - 1) % every != 0) timeline.flushes.pop_back();
      timeline.flushes.push_back({{incarnation, entry.sequence}, entry.time_ns});
      seen++;
      if (timeline.flushes.size() <= kFlushesMax) continue;
      thin(timeline.flushes);
      every *= 2;
    }
  }
  return timeline;
}

}  // namespace understudy::replay
