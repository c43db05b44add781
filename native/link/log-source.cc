#include "link/log-source.h"

#include <algorithm>

namespace understudy::link {

using log::ReplicationLog;

LogSource::LogSource(std::shared_ptr<ReplicationLog> log, uint64_t position, engine::PeerMarks &marks, CounterPage page)
    : log_(std::move(log)),
      base_(position),
      marks_(marks),
      page_(page),
      taken_(position),
      counted_(position),
      acked_(position) {}

size_t LogSource::peek(uint64_t offset, const uint8_t **data) {
  const uint64_t position = base_ + offset, published = log_->published();
  taken_ = std::max(taken_, position);
  if (position >= published) return 0;
  *data = log_->at(position);
  return std::min<uint64_t>(published - position, log_->bytes_max());
}

void LogSource::acked(uint64_t offset) {
  acked_ = std::max(acked_, base_ + offset);
  page_.set(kGroup_acked_position, acked_);
  release();
}

void LogSource::durable(uint64_t sequence) {
  durable_ = std::max(durable_, sequence);
  release();
}

void LogSource::release() {
  uint64_t position = log_->tail();
  const uint64_t start = position, published = log_->published();
  while (position < published) {
    const wire::RecordHeader header = log_->header_at(position);
    const uint64_t end = position + ReplicationLog::record_bytes(header);
    if (end > acked_ || header.sequence > durable_) break;
    position = end;
  }
  if (position == start) return;
  // What is freed may be overwritten at once: the sent counter must have walked past it.
  if (counted_ < position) count_sent();
  log_->release(position);
  marks_.poke();
}

void LogSource::count_sent() {
  const uint64_t taken = std::max(taken_, acked_);
  while (counted_ < taken) {
    const wire::RecordHeader header = log_->header_at(counted_);
    const uint64_t end = counted_ + ReplicationLog::record_bytes(header);
    if (end > taken) return;
    page_.set(kGroup_sent_sequence, header.sequence);
    page_.set(kGroup_sent_bytes, header.written_bytes);
    counted_ = end;
  }
}

}  // namespace understudy::link
