#include "replay/ledger.h"

#include "core/check.h"

namespace understudy::replay {

using wire::RecordHeader;
using wire::RecordType;

void Ledger::restart(const Watermark &from) {
  std::lock_guard lock(mutex_);
  durable_offset_ = from.log_offset;
  pending_.restart(from.log_offset);
  durable_ = from.applied;
  durable_mark_ = {from.applied.sequence, from.bytes};
  commits_.restart(from.applied.incarnation, from.committed, durable_mark_);
  last_begin_.position = {from.applied.incarnation, from.begin_sequence};
  step_ = from.phase == ReplicaPhase::kInitial ? Step::kOpen : Step::kClosed;
}

void Ledger::note(const uint8_t *records, size_t bytes, uint64_t offset) {
  std::lock_guard lock(mutex_);
  CHECK(offset == durable_offset_);
  for (size_t at = 0; at < bytes;) {
    const RecordHeader header = load_header(records + at);
    note_one(header, offset + at);
    at += record_bytes(header);
    CHECK(at <= bytes);
  }
  durable_offset_ = offset + bytes;
  epoch_.fetch_add(1, std::memory_order_acq_rel);
}

void Ledger::note_one(const RecordHeader &header, uint64_t offset) {
  switch (header.type) {
    case RecordType::kBegin:
      note_begin(header, offset);
      break;
    case RecordType::kStep:
      step_ends_.push_back({offset, offset + sizeof header, header.sequence});
      if (step_ == Step::kOpen) {
        step_ = Step::kClosing;
        step_sequence_ = header.sequence;
        state_.staged_bytes.store(0, std::memory_order_relaxed);
      }
      break;
    case RecordType::kVoid:
      voids_[{header.incarnation, header.offset}] = offset;
      break;
    case RecordType::kWrite:
    case RecordType::kSync:
    case RecordType::kZero:
    case RecordType::kTrim:
      if (step_ == Step::kOpen) {
        staged_.add(header.volume_index, header.offset, header.length);
        state_.staged_bytes.fetch_add(header.payload_bytes, std::memory_order_relaxed);
      }
      break;
    default:
      break;
  }
  commits_.note(header);
  pending_.note(header, offset);
  if (!wire::is_sequenced(header.type)) return;
  durable_ = {header.incarnation, header.sequence};
  durable_mark_ = {header.sequence, header.written_bytes};
}

void Ledger::note_begin(const RecordHeader &header, uint64_t offset) {
  bool still_open = step_ == Step::kOpen;
  if (header.incarnation != durable_.incarnation) {
    // A kStep of unknown outcome is discarded like any other record: the step that it closed goes on.
    if (step_ == Step::kClosing && step_sequence_ > commits_.raw()) still_open = true;
    if (durable_.incarnation) forks_.push_back({offset, commits_.raw()});
  }
  if (!still_open) {
    staged_.clear();
    last_begin_.staged_offset = offset;
    state_.staged_bytes.store(0, std::memory_order_relaxed);
  }
  last_begin_.offset = offset;
  last_begin_.position = {header.incarnation, header.sequence};
  step_ = Step::kOpen;
}

void Ledger::seal() {
  std::lock_guard lock(mutex_);
  sealed_ = true;
  epoch_.fetch_add(1, std::memory_order_acq_rel);
}

Ledger::Limit Ledger::limit_at(uint64_t offset) const {
  for (const Fork &fork : forks_)
    if (fork.offset > offset) return {fork.committed, fork.offset, true};
  return {sealed_ ? wire::kSequenceMax : commits_.raw(), durable_offset_, false};
}

Ledger::Plan Ledger::plan(uint64_t offset) const {
  std::lock_guard lock(mutex_);
  const Limit limit = limit_at(offset);
  return {epoch_.load(std::memory_order_relaxed), limit.end, limit.committed, limit.fixed, !voids_.empty()};
}

bool Ledger::is_void(wire::Position position) const {
  std::lock_guard lock(mutex_);
  return voids_.contains({position.incarnation, position.sequence});
}

std::optional<uint64_t> Ledger::closing(uint64_t begin_offset) const {
  std::lock_guard lock(mutex_);
  for (const StepEnd &step : step_ends_) {
    if (step.offset < begin_offset) continue;
    if (step.sequence > limit_at(step.offset).committed) continue;  // to be discarded, or not yet to be applied
    return step.end;
  }
  return std::nullopt;
}

Ledger::LastBegin Ledger::last_begin() const {
  std::lock_guard lock(mutex_);
  return last_begin_;
}

std::optional<uint64_t> Ledger::open_step_bytes() const {
  std::lock_guard lock(mutex_);
  if (step_ != Step::kOpen) return std::nullopt;
  return durable_offset_ - last_begin_.staged_offset;
}

bool Ledger::staged(uint32_t volume, uint64_t region) const {
  std::lock_guard lock(mutex_);
  return staged_.touches(volume, region);
}

void Ledger::forget_below(uint64_t offset) {
  std::lock_guard lock(mutex_);
  while (!forks_.empty() && forks_.front().offset < offset) forks_.pop_front();
  while (!step_ends_.empty() && step_ends_.front().offset < offset) step_ends_.pop_front();
  std::erase_if(voids_, [&](const auto &entry) { return entry.second < offset; });
}

void Ledger::applied_below(uint64_t offset) {
  std::lock_guard lock(mutex_);
  pending_.forget_below(offset);
}

std::optional<std::vector<RecordEntry>> Ledger::pending(uint64_t offset) const {
  std::lock_guard lock(mutex_);
  return pending_.since(offset);
}

uint64_t Ledger::durable_offset() const {
  std::lock_guard lock(mutex_);
  return durable_offset_;
}
wire::Position Ledger::durable() const {
  std::lock_guard lock(mutex_);
  return durable_;
}
wire::Mark Ledger::durable_mark() const {
  std::lock_guard lock(mutex_);
  return durable_mark_;
}
CommitTracker Ledger::commits() const {
  std::lock_guard lock(mutex_);
  return commits_;
}

}  // namespace understudy::replay
