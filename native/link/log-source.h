// LogSource: the replication log as QUIC reads it, and the place where its memory becomes free again: when the standby
// has a record on stable storage *and* the transport needs its bytes no more. Link thread only.
#pragma once
#include <memory>

#include "engine/peer.h"
#include "log/replication-log.h"
#include "quic/endpoint.h"

namespace understudy::link {

class LogSource final : public quic::RecordSource {
 public:
  // `position`: of the log, where stream offset 0 lies.
  LogSource(std::shared_ptr<log::ReplicationLog> log, uint64_t position, engine::PeerMarks &marks, CounterPage page);
  size_t peek(uint64_t offset, const uint8_t **data) override;
  void acked(uint64_t offset) override;
  void durable(uint64_t sequence);
  void count_sent();  // brings the counters up to what was handed to the transport

 private:
  void release();
  std::shared_ptr<log::ReplicationLog> log_;
  const uint64_t base_;
  engine::PeerMarks &marks_;
  CounterPage page_;
  uint64_t taken_;     // handed to the transport up to here
  uint64_t counted_;   // ... of which count_sent() knows
  uint64_t acked_;     // the transport is done below
  uint64_t durable_ = 0;
};

}  // namespace understudy::link
