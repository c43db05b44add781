#include "replay/progress.h"

namespace understudy::replay {

void Progress::received(wire::Position position, uint64_t bytes, wire::Mark committed) {
  std::lock_guard lock(mutex_);
  received_ = {position.incarnation, {position.sequence, bytes}};
  committed_ = committed;
  publish();
}

void Progress::durable(wire::Position position, wire::Mark mark) {
  std::lock_guard lock(mutex_);
  durable_ = {position.incarnation, mark};
  publish();
}

void Progress::applied(uint64_t offset, wire::Position position, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  if (offset < applied_offset_) return;
  applied_offset_ = offset;
  applied_ = {position.incarnation, {position.sequence, bytes}};
  publish();
}

void Progress::publish() const {
  const wire::Mark durable = in_current(durable_), applied = in_current(applied_);
  state_.incarnation.store(received_.incarnation, std::memory_order_relaxed);
  state_.received_sequence.store(received_.mark.sequence, std::memory_order_relaxed);
  state_.received_bytes.store(received_.mark.bytes, std::memory_order_relaxed);
  state_.committed_sequence.store(committed_.sequence, std::memory_order_relaxed);
  state_.committed_bytes.store(committed_.bytes, std::memory_order_relaxed);
  state_.durable_sequence.store(durable.sequence, std::memory_order_relaxed);
  state_.durable_bytes.store(durable.bytes, std::memory_order_relaxed);
  state_.applied_sequence.store(applied.sequence, std::memory_order_relaxed);
  state_.applied_bytes.store(applied.bytes, std::memory_order_release);
}

wire::WatermarksBody Progress::body() const {
  wire::WatermarksBody body{};
  {
    std::lock_guard lock(mutex_);
    body.incarnation = received_.incarnation;
    body.received = received_.mark;
    body.durable = in_current(durable_);
    body.committed = committed_;
    body.applied = in_current(applied_);
  }
  switch (static_cast<ReplicaPhase>(state_.phase.load(std::memory_order_acquire))) {
    case ReplicaPhase::kFresh:
      body.flags = wire::kUnusable;
      break;
    case ReplicaPhase::kInitial:
      body.flags = wire::kStaging | wire::kUnusable;
      break;
    case ReplicaPhase::kStaging:
    case ReplicaPhase::kStepping:
      body.flags = wire::kStaging;
      break;
    case ReplicaPhase::kCut:
      break;
  }
  return body;
}

void Progress::failed(Part part, const Status &status) {
  state_.errors.fetch_add(1, std::memory_order_relaxed);
  const int before = errors_[static_cast<size_t>(part)].exchange(status.error);
  publish_errors();
  if (before != status.error) listener_.failed(status.message);
}

void Progress::well(Part part) {
  if (errors_[static_cast<size_t>(part)].load(std::memory_order_relaxed) == 0) return;
  errors_[static_cast<size_t>(part)].store(0);
  publish_errors();
}

void Progress::publish_errors() {
  const int log = errors_[0].load(), image = errors_[1].load();
  state_.last_errno.store(static_cast<uint64_t>(log ? log : image));
}

}  // namespace understudy::replay
