#include "replay/segment-log.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/check.h"

namespace understudy::replay {

void SegmentLog::adopt(std::vector<std::shared_ptr<Segment>> segments, uint64_t index_next) {
  std::lock_guard lock(mutex_);
  segments_ = std::move(segments);
  index_next_ = index_next;
  count();
}

Status SegmentLog::append(const void *records, size_t bytes, uint64_t base, wire::Position last) {
  if (Status status = make_room(bytes); !status.ok()) return status;
  if (!current_ || current_->bytes() + bytes > segment_bytes_)  // a long record may have one to itself
    if (Status status = roll(base, last); !status.ok()) return status;
  CHECK(current_->end() == base);
  if (int error = current_->append(records, bytes)) {
    Status status = Status::failed(error, "append: segment " + std::to_string(current_->index()));
    close_current();
    return status;
  }
  state_.segment_syncs.fetch_add(1, std::memory_order_relaxed);
  state_.segment_bytes.fetch_add(bytes, std::memory_order_relaxed);
  return Status::good();
}

Status SegmentLog::make_room(size_t bytes) {
  const auto full = [&] {
    const uint64_t used = state_.segment_bytes.load(std::memory_order_relaxed);
    return log_bytes_max_ && used && used + bytes > log_bytes_max_;
  };
  if (!full()) return Status::good();
  close_current();  // it may be all applied and in the way
  if (!full()) return Status::good();
  return Status::failed(ENOSPC, "append: log has reached its maximum of " + std::to_string(log_bytes_max_) + " bytes");
}

Status SegmentLog::roll(uint64_t base, wire::Position last) {
  close_current();
  uint64_t index;
  {
    std::lock_guard lock(mutex_);
    index = index_next_++;
  }
  auto made = Segment::create(directory_, index, base, last, segment_bytes_);
  if (!made.ok()) return made.status;
  std::lock_guard lock(mutex_);
  segments_.push_back(made.value);
  current_ = std::move(made.value);
  count();
  return Status::good();
}

// After an error the bytes beyond end() may be in the page cache and not on the disk, marked clean: they must not be
// found by a later start, which would believe them. An empty segment goes altogether.
void SegmentLog::close_current() {
  std::lock_guard lock(mutex_);
  if (!current_) return;
  if (current_->end() == current_->base()) {
    unlink(current_->path().c_str());
    segments_.pop_back();
  } else if (current_->trim() != 0) {
    // Cannot be shortened: what follows starts a segment whose base says where this one ends.
  }
  current_.reset();
  sweep();
}

std::shared_ptr<Segment> SegmentLog::find(uint64_t offset) const {
  std::lock_guard lock(mutex_);
  auto after = std::upper_bound(segments_.begin(), segments_.end(), offset,
                                [](uint64_t at, const auto &segment) { return at < segment->base(); });
  if (after == segments_.begin()) return nullptr;
  auto &segment = *std::prev(after);
  return offset < segment->end() ? segment : nullptr;
}

void SegmentLog::remove_below(uint64_t offset) {
  std::lock_guard lock(mutex_);
  removable_below_ = std::max(removable_below_, offset);
  sweep();
}

void SegmentLog::sweep() {
  auto keep = segments_.begin();
  while (keep != segments_.end() && *keep != current_ && (*keep)->end() <= removable_below_) {
    unlink((*keep)->path().c_str());
    ++keep;
  }
  segments_.erase(segments_.begin(), keep);
  count();
}

uint64_t SegmentLog::index_next() const {
  std::lock_guard lock(mutex_);
  return index_next_;
}

void SegmentLog::count() const {
  uint64_t bytes = 0;
  for (const auto &segment : segments_) bytes += segment->bytes();
  state_.segments.store(segments_.size(), std::memory_order_relaxed);
  state_.segment_bytes.store(bytes, std::memory_order_relaxed);
}

}  // namespace understudy::replay
