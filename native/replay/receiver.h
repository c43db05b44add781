// Receiver: bytes of the record stream -> checked records in a ring, in order.
//
//          held     released            received               written
//   ring ---|--------|------ records ----|---- half a record ---|......
//           ^        ^ logger frees      ^ logger takes up to here
//           ^ applier takes from here what is in the log and still in memory
//
// Ring positions are log offsets, so a record's place in the ring is also its place in the log. Nothing that breaks
// the protocol, and nothing after it, gets past `received` (G8). All calls come on the link thread, but for those of
// the logger and the applier at the end.
//
// A quarter of the ring stays free of new bytes behind `released`. So the applier finds there what was logged last, and
// holds nobody up as long as it is not further behind than that within one turn.
#pragma once
#include <atomic>
#include <mutex>
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
      : ring_(std::move(ring)), room_bytes_(ring_.size() - ring_.size() / 4), volume_bytes_(std::move(volume_bytes)),
        state_(state), progress_(progress), logger_waker_(logger_waker) {}
  // Recovery: where the log ends.
  void restart(uint64_t log_offset, wire::Position last, wire::Mark mark, const CommitTracker &commits);

  wire::Position start_session();
  Status receive(std::span<const uint8_t> bytes);
  uint8_t *place(size_t bytes);
  Status placed(size_t bytes);
  size_t take_consumed();
  void refuse_more() { sealed_.store(true); }  // any thread

  // Logger thread.
  const ReplicaState &state() const { return state_; }
  uint64_t received_offset() const { return received_.load(std::memory_order_acquire); }
  const uint8_t *at(uint64_t log_offset) const { return ring_.at(log_offset); }
  void release(uint64_t log_offset);  // all before it is in the log

  // Applier thread. True: the bytes from `log_offset` to received_offset() stay at() their place until let_go().
  bool hold(uint64_t log_offset);
  // True: room came free by it, which the link has to be told.
  bool let_go();

 private:
  Status may_take() const;
  Status parse();
  Status check(const wire::RecordHeader &header) const;
  void sum_payload(const wire::RecordHeader &header);
  void begin_record();
  Status check_range(const wire::RecordHeader &header) const;
  void accept(const wire::RecordHeader &header);
  void publish();
  uint64_t kept_bytes() const { return ring_.size() - room_bytes_; }
  void free_logged();  // with mutex_ held

  MirroredRing ring_;
  const uint64_t room_bytes_;   // of the ring, for what is not in the log yet
  const std::vector<uint64_t> volume_bytes_;
  ReplicaState &state_;
  Progress &progress_;
  Waker &logger_waker_;
  uint64_t written_ = 0;        // log offset after the last byte in the ring
  uint64_t parsed_ = 0;         // after the last complete record
  uint64_t taken_ = 0;          // up to here the peer has its credit back
  uint64_t early_ = 0;          // of the credit, what has not left the ring yet
  bool header_good_ = false;    // the header at parsed_ has been checked,
  uint64_t payload_summed_ = 0; // and so many bytes of its payload summed up, while they were warm
  uint32_t payload_crc32c_ = 0;
  uint64_t accepted_count_ = 0; // records since the last publish()
  bool urgent_ = false;         // one of them is waited for
  wire::Chain chain_;
  wire::Mark mark_;             // of the last sequenced record
  CommitTracker commits_;
  Status broken_;               // why this session takes no more
  std::atomic<bool> sealed_{false};
  std::atomic<uint64_t> received_{0};  // parsed_, for the logger
  std::atomic<uint64_t> released_{0};  // up to room_bytes_ from here on may be written over

  static constexpr uint64_t kNothing = UINT64_MAX / 2;
  std::mutex mutex_;              // of all below, and of changes of released_
  uint64_t logged_ = 0;           // in a segment, durable
  uint64_t held_ = kNothing;      // the applier reads from here on
  uint64_t oldest_ = 0;           // nothing before it was ever in the ring
};

}  // namespace understudy::replay
