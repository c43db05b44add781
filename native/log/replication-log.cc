#include "log/replication-log.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"

namespace understudy::log {
Result<std::shared_ptr<ReplicationLog>> ReplicationLog::create(size_t bytes_max) {
  auto ring = MirroredRing::create(bytes_max);
  if (!ring.ok()) return std::move(ring.status);
  auto log = std::make_shared<ReplicationLog>();
  log->ring_ = std::move(ring.value);
  return log;
}

uint64_t ReplicationLog::record_bytes(const wire::RecordHeader &header) {
  return sizeof(wire::RecordHeader) + header.payload_bytes;
}

void ReplicationLog::unhold(uint64_t bytes) {
  CHECK(held_ >= bytes);
  held_ -= bytes;
}

uint64_t ReplicationLog::put_record(uint8_t *at, wire::RecordHeader &header, const void *payload) {
  if (header.payload_bytes) memcpy(at + sizeof header, payload, header.payload_bytes);
  wire::seal(header, at + sizeof header);  // over the copy, which is in the cache now and will not change any more
  memcpy(at, &header, sizeof header);
  return record_bytes(header);
}

void ReplicationLog::append(wire::RecordHeader &header, const void *payload) {
  CHECK(bytes_used() + record_bytes(header) <= ring_.size());
  head_ += put_record(ring_.at(head_), header, payload);
}

uint64_t ReplicationLog::space() const {
  const uint64_t taken = bytes_used() + held_ + kReserveBytes;
  return ring_.size() - std::min<uint64_t>(taken, ring_.size());
}

void ReplicationLog::advance(uint64_t position) {
  CHECK(position >= head_ && position - tail() <= ring_.size());
  head_ = position;
}

}  // namespace understudy::log
