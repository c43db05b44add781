// LogReader: walks the records of the log for the applier, in large reads, and checks each again (G8): what lies on a
// disk has crossed a boundary.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "core/status.h"
#include "replay/segment-log.h"
#include "wire/record.h"

namespace understudy::replay {

class LogReader {
 public:
  explicit LogReader(const SegmentLog &log) : log_(log) {}

  struct Record {
    wire::RecordHeader header;
    const uint8_t *payload = nullptr;  // until the next call
  };
  // The record at `offset`, which lies wholly below the durable offset `limit`.
  Status read(uint64_t offset, uint64_t limit, Record *record);

 private:
  // Makes [offset, offset + bytes) stand in the buffer, and as much more as is cheap.
  Status fill(uint64_t offset, uint64_t bytes, uint64_t limit);
  const uint8_t *at(uint64_t offset) const { return buffer_.data() + (offset - start_); }
  bool holds(uint64_t offset, uint64_t bytes) const { return offset >= start_ && offset + bytes <= start_ + filled_; }

  const SegmentLog &log_;
  std::shared_ptr<Segment> segment_;
  std::vector<uint8_t> buffer_;  // at most one record and a chunk
  uint64_t start_ = 0;           // log offset of its first byte
  uint64_t filled_ = 0;          // bytes
};

}  // namespace understudy::replay
