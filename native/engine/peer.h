// What the engine needs of the link, and what the link tells the engine. Implemented in native/link.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>

#include "core/counters.h"
#include "core/waker.h"
#include "log/replication-log.h"
#include "wire/control.h"

namespace understudy::engine {

// The standby's watermarks: written by the link thread into the group's counter page, read by the engine thread.
class PeerMarks {
 public:
  PeerMarks(CounterPage page, Waker &engine) : page_(page), engine_(engine) {}
  enum Want : uint8_t { kNothing, kMarks, kRoom };  // replies wait for it; also, or only, room in the log does
  // Link thread. Whether anything waits for them.
  bool update(const wire::WatermarksBody &body) {
    page_.set(kGroup_received_sequence, body.received.sequence);
    page_.set(kGroup_received_bytes, body.received.bytes);
    page_.set(kGroup_committed_sequence, body.committed.sequence);
    page_.set(kGroup_committed_bytes, body.committed.bytes);
    page_.set(kGroup_applied_sequence, body.applied.sequence);
    page_.set(kGroup_applied_bytes, body.applied.bytes);
    page_.set(kGroup_durable_bytes, body.durable.bytes);
    page_.set(kGroup_peer_flags, body.flags);
    page_.set(kGroup_peer_incarnation, body.incarnation);
    page_.word(kGroup_durable_sequence).store(body.durable.sequence, std::memory_order_release);
    updates_.fetch_add(1, std::memory_order_release);
    return wanted_.load(std::memory_order_acquire) != kNothing;
  }
  void poke() {  // the log has more room
    if (wanted_.load(std::memory_order_acquire) == kRoom) engine_.wake();
  }
  // Engine thread.
  uint64_t received() const { return page_.get(kGroup_received_sequence); }
  uint64_t durable() const { return page_.get(kGroup_durable_sequence); }
  uint64_t updates() const { return updates_.load(std::memory_order_acquire); }
  void want(Want wanted) { wanted_.store(wanted, std::memory_order_seq_cst); }

 private:
  CounterPage page_;
  Waker &engine_;
  std::atomic<uint64_t> updates_{0};
  std::atomic<uint8_t> wanted_{kNothing};
};

class PeerLink {
 public:
  virtual ~PeerLink() = default;
  // The session sends the log's records from `position` on, and frees what is durable.
  virtual void start_records(uint64_t session, std::shared_ptr<log::ReplicationLog> log, uint64_t position) = 0;
  virtual void published(bool urgent) = 0;  // the log has grown; urgent: a reply waits for the standby
  virtual void request_hashes(uint64_t session, const wire::HashRequestBody &request) = 0;
  virtual void request_data(uint64_t session, const wire::HashRequestBody &request) = 0;
};

}  // namespace understudy::engine
