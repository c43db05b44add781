// ReplicationLog: the master's records that the standby has not made durable yet, in a ring in memory.
//
//        tail               sent                published   head
//   ------|==================|===================|...........|------
//    free   sent, kept until  ready for the link   being written
//           durable there
//
// The engine thread writes (append, publish), the link thread reads and frees (at, release). Bounded: room() says
// whether a record still fits; what happens when not is the caller's decision (block or detach).
#pragma once
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>

#include "core/mirrored-ring.h"
#include "wire/record.h"

namespace understudy::log {

class ReplicationLog {
 public:
  static Result<std::shared_ptr<ReplicationLog>> create(size_t bytes_max);
  size_t bytes_max() const { return ring_.size(); }
  uint64_t bytes_used() const { return head_ - tail(); }

  // Engine thread.
  // Whether `bytes` more fit, beside what is held and a reserve for records that must always find room (begin, step).
  bool room(uint64_t bytes) const { return bytes_used() + held_ + bytes + kReserveBytes <= ring_.size(); }
  void hold(uint64_t bytes) { held_ += bytes; }  // room for a record whose operation is still under way
  void unhold(uint64_t bytes);
  uint64_t held() const { return held_; }
  // Seals the header and copies both. There must be room().
  void append(wire::RecordHeader &header, const void *payload);
  // For whole records that were put behind the head by other means (engine/spilling.h): how many bytes may be there,
  // beside what is held; where they go; and that they are there.
  uint64_t space() const;
  uint8_t *behind_head(uint64_t position) { return ring_.at(position); }
  void advance(uint64_t position);
  void publish() { published_.store(head_, std::memory_order_release); }
  uint64_t head() const { return head_; }

  // Any thread.
  uint64_t published() const { return published_.load(std::memory_order_acquire); }
  uint64_t tail() const { return tail_.load(std::memory_order_acquire); }
  wire::RecordHeader header_at(uint64_t position) const {  // a copy: records are not aligned
    wire::RecordHeader header;
    memcpy(&header, ring_.at(position), sizeof header);
    return header;
  }
  static uint64_t record_bytes(const wire::RecordHeader &header);
  // How a record lies in memory, on the link and on disk; returns its bytes.
  static uint64_t put_record(uint8_t *at, wire::RecordHeader &header, const void *payload);
  const uint8_t *at(uint64_t position) const { return ring_.at(position); }

  // Link thread: nothing below `position` is needed any more.
  void release(uint64_t position) { tail_.store(position, std::memory_order_release); }

  static constexpr uint64_t kReserveBytes = 64u << 10;

 private:
  MirroredRing ring_;
  uint64_t head_ = 0;  // engine thread
  uint64_t held_ = 0;  // engine thread
  alignas(64) std::atomic<uint64_t> published_{0};
  alignas(64) std::atomic<uint64_t> tail_{0};
};

}  // namespace understudy::log
