#include "log/replication-log.h"

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

void ReplicationLog::append(wire::RecordHeader &header, const void *payload) {
  const uint64_t bytes = record_bytes(header);
  CHECK(bytes_used() + bytes <= ring_.size());
  uint8_t *at = ring_.at(head_);
  if (header.payload_bytes) memcpy(at + sizeof header, payload, header.payload_bytes);
  wire::seal(header, at + sizeof header);  // over the copy, which is in the cache now and will not change any more
  memcpy(at, &header, sizeof header);
  head_ += bytes;
}

}  // namespace understudy::log
