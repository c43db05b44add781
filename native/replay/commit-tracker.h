// CommitTracker: how far a run of records is known to have its outcome on the master, from their `committed` fields.
#pragma once
#include <algorithm>
#include <cstdint>
#include <deque>

#include "wire/control.h"
#include "wire/record.h"

namespace understudy::replay {

class CommitTracker {
 public:
  void restart(uint64_t incarnation, uint64_t raw, wire::Mark committed) {
    incarnation_ = incarnation;
    raw_ = raw;
    committed_ = committed;
    pending_.clear();
  }
  void note(const wire::RecordHeader &header) {
    if (header.incarnation != incarnation_) restart(header.incarnation, 0, {});
    raw_ = std::max(raw_, header.committed);
    if (wire::is_sequenced(header.type)) {
      const wire::Mark mark{header.sequence, header.written_bytes};
      if (header.sequence <= raw_) {
        pending_.clear();
        committed_ = mark;
        return;
      }
      if (pending_.size() < kPendingMax) pending_.push_back(mark);
    }
    while (!pending_.empty() && pending_.front().sequence <= raw_) {
      committed_ = pending_.front();
      pending_.pop_front();
    }
  }
  uint64_t incarnation() const { return incarnation_; }
  uint64_t raw() const { return raw_; }                 // the largest field seen; may lie beyond what was received
  wire::Mark committed() const { return committed_; }   // never beyond the last record seen

 private:
  static constexpr size_t kPendingMax = 1u << 20;  // beyond it the mark moves late
  uint64_t incarnation_ = 0;
  uint64_t raw_ = 0;
  wire::Mark committed_;
  std::deque<wire::Mark> pending_;  // received, not committed
};

inline wire::RecordHeader load_header(const void *bytes) {  // records lie unaligned
  wire::RecordHeader header;
  __builtin_memcpy(&header, bytes, sizeof header);
  return header;
}
inline uint64_t record_bytes(const wire::RecordHeader &header) { return sizeof header + header.payload_bytes; }
inline constexpr uint64_t kRecordBytesMax = sizeof(wire::RecordHeader) + wire::kPayloadBytesMax;

}  // namespace understudy::replay
