// Receiver: bytes of the record stream -> checked records in a ring, in order.
//
//        released            received               written
//   ring ---|------ records ----|---- half a record ---|......
//           ^ logger frees      ^ logger takes up to here
//
// Ring positions are log offsets, so a record's place in the ring is also its place in the log. Nothing that breaks
// the protocol, and nothing after it, gets past `received` (G8). All calls come on the link thread, but for those of
// the logger at the end.
#pragma once
#include <atomic>
#include <span>
#include <string>
#include <vector>

#include "core/mirrored-ring.h"
#include "core/status.h"
#include "core/waker.h"
#include "replay/commit-tracker.h"
#include "replay/progress.h"

namespace understudy::replay {

class Receiver {
 public:
  Receiver(MirroredRing ring, std::vector<uint64_t> volume_bytes, ReplicaState &state, Progress &progress,
           Waker &logger_waker)
      : ring_(std::move(ring)), volume_bytes_(std::move(volume_bytes)), state_(state), progress_(progress),
        logger_waker_(logger_waker) {}
  // Recovery: where the log ends.
  void restart(uint64_t log_offset, wire::Position last, wire::Mark mark, const CommitTracker &commits);

  wire::Position start_session();
  Status receive(std::span<const uint8_t> bytes);
  size_t take_consumed();
  void refuse_more() { sealed_.store(true); }  // any thread

  // Logger thread.
  const ReplicaState &state() const { return state_; }
  uint64_t received_offset() const { return received_.load(std::memory_order_acquire); }
  const uint8_t *at(uint64_t log_offset) const { return ring_.at(log_offset); }
  void release(uint64_t log_offset) { released_.store(log_offset, std::memory_order_release); }

 private:
  Status parse();
  Status check(const wire::RecordHeader &header) const;
  Status check_range(const wire::RecordHeader &header) const;
  void accept(const wire::RecordHeader &header);
  void publish();

  MirroredRing ring_;
  const std::vector<uint64_t> volume_bytes_;
  ReplicaState &state_;
  Progress &progress_;
  Waker &logger_waker_;
  uint64_t written_ = 0;        // log offset after the last byte in the ring
  uint64_t parsed_ = 0;         // after the last complete record
  uint64_t taken_ = 0;          // up to here the peer has its credit back
  uint64_t early_ = 0;          // of the credit, what has not left the ring yet
  bool header_good_ = false;    // the header at parsed_ has been checked
  uint64_t accepted_count_ = 0; // records since the last publish()
  bool urgent_ = false;         // one of them is waited for
  wire::Chain chain_;
  wire::Mark mark_;             // of the last sequenced record
  CommitTracker commits_;
  Status broken_;               // why this session takes no more
  std::atomic<bool> sealed_{false};
  std::atomic<uint64_t> received_{0};  // parsed_, for the logger
  std::atomic<uint64_t> released_{0};  // in a segment, durable: the ring may be overwritten
};

}  // namespace understudy::replay
