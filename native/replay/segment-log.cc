#include "replay/segment-log.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "core/check.h"
#include "replay/file-io.h"

namespace understudy::replay {
namespace {
constexpr size_t kSparesMax = 6;  // about what goes at one sync of the images
}  // namespace

void SegmentLog::adopt(std::vector<std::shared_ptr<Segment>> segments, uint64_t index_next) {
  std::lock_guard lock(mutex_);
  segments_ = std::move(segments);
  index_next_ = index_next;
  count();
}

Status SegmentLog::append(const void *records, size_t bytes, uint64_t base, const Before &before) {
  if (Status status = make_room(bytes); !status.ok()) return status;
  if (!current_ || current_->bytes() + bytes > segment_bytes_)  // a long record may have one to itself
    if (Status status = roll(base, before); !status.ok()) return status;
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
    std::lock_guard lock(mutex_);
    uint64_t used = state_.segment_bytes.load(std::memory_order_relaxed);
    for (const Spare &spare : spares_) used += spare.bytes;
    return log_bytes_max_ && used && used + bytes > log_bytes_max_;
  };
  if (!full()) return Status::good();
  drop_spares();
  if (!full()) return Status::good();
  close_current();  // it may be all applied and in the way
  remove_below(0);
  drop_spares();
  if (!full()) return Status::good();
  return Status::failed(ENOSPC, "append: log has reached its maximum of " + std::to_string(log_bytes_max_) + " bytes");
}

Status SegmentLog::roll(uint64_t base, const Before &before) {
  if (current_ && current_->last_before().incarnation == before.last.incarnation &&
      before.begin_offset < current_->base())
    current_->ends_plainly_at(before.last);
  close_current();
  uint64_t index;
  {
    std::lock_guard lock(mutex_);
    index = index_next_++;
  }
  Result<std::shared_ptr<Segment>> made = Status::failed(ENOENT, "nothing is set aside");
  if (const std::string spare = take_spare(before.last); !spare.empty())
    made = Segment::write_over(spare, directory_, index, base, before.last, segment_bytes_);
  if (!made.ok()) made = Segment::create(directory_, index, base, before.last, segment_bytes_);
  if (!made.ok()) return made.status;
  std::lock_guard lock(mutex_);
  segments_.push_back(made.value);
  current_ = std::move(made.value);
  count();
  return Status::good();
}

// The path of a file that may be written over by records after `last`; empty: there is none.
std::string SegmentLog::take_spare(wire::Position last) {
  std::lock_guard lock(mutex_);
  const auto found = std::find_if(spares_.begin(), spares_.end(), [&](const Spare &spare) {
    return spare.last.incarnation == last.incarnation && spare.last.sequence < last.sequence;
  });
  if (found == spares_.end()) return "";
  std::string path = std::move(found->path);
  spares_.erase(found);
  return path;
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
  count();
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
  std::vector<std::shared_ptr<Segment>> removable;
  {
    std::lock_guard lock(mutex_);
    removable_below_ = std::max(removable_below_, offset);
    removable = take_removable();
  }
  std::vector<Spare> aside;
  for (const auto &segment : removable) {
    if (set_aside(*segment))
      aside.push_back({Segment::set_aside_path_of(directory_, segment->index()), *segment->plain_end(), segment->bytes()});
    else
      unlink(segment->path().c_str());
  }
  if (aside.empty()) return;
  // Before one is written over: else its old name could come back after a power cut, with a header that is not its own.
  const bool good = sync_directory(directory_) == 0;
  std::lock_guard lock(mutex_);
  for (Spare &spare : aside) {
    if (good && keeps_spares_ && spares_.size() < kSparesMax)
      spares_.push_back(std::move(spare));
    else
      unlink(spare.path.c_str());
  }
}

bool SegmentLog::set_aside(const Segment &segment) {
  {
    std::lock_guard lock(mutex_);
    if (!keeps_spares_ || spares_.size() >= kSparesMax || !segment.plain_end()) return false;
  }
  return rename(segment.path().c_str(), Segment::set_aside_path_of(directory_, segment.index()).c_str()) == 0;
}

void SegmentLog::drop_spares() {
  std::lock_guard lock(mutex_);
  for (const Spare &spare : spares_) unlink(spare.path.c_str());
  spares_.clear();
}

void SegmentLog::keep_no_spares() {
  {
    std::lock_guard lock(mutex_);
    keeps_spares_ = false;
  }
  drop_spares();
}

std::vector<std::shared_ptr<Segment>> SegmentLog::take_removable() {
  auto keep = segments_.begin();
  while (keep != segments_.end() && *keep != current_ && (*keep)->end() <= removable_below_) ++keep;
  std::vector<std::shared_ptr<Segment>> removable;
  for (auto segment = segments_.begin(); segment != keep; ++segment)
    if (!take_ || !take_(**segment)) removable.push_back(*segment);
  segments_.erase(segments_.begin(), keep);
  count();
  return removable;
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
