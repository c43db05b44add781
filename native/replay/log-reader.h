// LogReader: walks the records of the log for the applier. Those that are still in the receiver's memory, where they
// were checked, are shown as they lie there; the others are read from their segments, in large reads, and checked again
// (G8): what lies on a disk has crossed a boundary. Which of the two it is makes no difference to what may be read: only
// what is durable.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "core/status.h"
#include "replay/receiver.h"
#include "replay/segment-log.h"
#include "wire/record.h"

namespace understudy::replay {

class LogReader {
 public:
  LogReader(const SegmentLog &log, Receiver &receiver) : log_(log), receiver_(receiver) {}

  struct Record {
    wire::RecordHeader header;
    const uint8_t *payload = nullptr;  // until the next call
  };
  // The record at `offset`, which lies wholly below the durable offset `limit`.
  Status read(uint64_t offset, uint64_t limit, Record *record);

  // What is in memory from `offset` on is read from there until let_go(). Not for long: the link waits when it comes
  // round the ring. let_go() is true when it may have.
  void hold(uint64_t offset) { holds_ = receiver_.hold(offset); }
  bool let_go() { return std::exchange(holds_, false) && receiver_.let_go(); }

 private:
  // Makes [offset, offset + bytes) stand in the buffer, and as much more as is cheap.
  Status fill(uint64_t offset, uint64_t bytes, uint64_t limit);
  const uint8_t *at(uint64_t offset) const { return buffer_.data() + (offset - start_); }
  bool holds(uint64_t offset, uint64_t bytes) const { return offset >= start_ && offset + bytes <= start_ + filled_; }

  const SegmentLog &log_;
  Receiver &receiver_;
  bool holds_ = false;
  std::shared_ptr<Segment> segment_;
  std::vector<uint8_t> buffer_;  // at most one record and a chunk
  uint64_t start_ = 0;           // log offset of its first byte
  uint64_t filled_ = 0;          // bytes
};

}  // namespace understudy::replay
