#include "replay/log-reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/check.h"
#include "replay/commit-tracker.h"

namespace understudy::replay {
namespace {
constexpr uint64_t kChunkBytes = 512u << 10;

Status damaged(uint64_t offset, const Segment &segment, const std::string &why) {
  return {EBADMSG, "replay: segment " + std::to_string(segment.index()) + ": log offset " + std::to_string(offset) +
                       ": " + why + " (EBADMSG)"};
}
}  // namespace

Status LogReader::read(uint64_t offset, uint64_t limit, Record *record) {
  if (holds_) {
    record->header = load_header(receiver_.at(offset));
    record->payload = receiver_.at(offset) + sizeof record->header;
    CHECK(offset + record_bytes(record->header) <= limit);
    return Status::good();
  }
  if (!holds(offset, sizeof record->header))
    if (Status status = fill(offset, sizeof record->header, limit); !status.ok()) return status;
  record->header = load_header(at(offset));
  wire::RecordFault fault = check_header(record->header);
  if (fault == wire::RecordFault::kNone) {
    const uint64_t bytes = record_bytes(record->header);
    if (!holds(offset, bytes))
      if (Status status = fill(offset, bytes, limit); !status.ok()) return status;
    record->payload = at(offset) + sizeof record->header;
    fault = check_payload(record->header, record->payload);
  }
  if (fault == wire::RecordFault::kNone) return Status::good();
  start_ = filled_ = 0;  // read it afresh next time
  return damaged(offset, *segment_, to_string(fault));
}

Status LogReader::fill(uint64_t offset, uint64_t bytes, uint64_t limit) {
  if (!segment_ || offset < segment_->base() || offset >= segment_->end()) {
    segment_ = log_.find(offset);
    start_ = filled_ = 0;
    if (!segment_) return Status::failed(EBADMSG, "replay: no segment holds log offset " + std::to_string(offset));
  }
  const uint64_t available = std::min(limit, segment_->end()) - offset;
  if (bytes > available) return damaged(offset, *segment_, "a record is longer than its segment");
  // Keep what is there already and read on behind it.
  uint64_t kept = 0;
  if (offset >= start_ && offset < start_ + filled_) {
    kept = start_ + filled_ - offset;
    memmove(buffer_.data(), at(offset), kept);
  }
  start_ = offset;
  filled_ = kept;
  const uint64_t wanted = std::min(available, std::max(bytes, kChunkBytes));
  if (buffer_.size() < wanted) buffer_.resize(wanted);
  size_t done = 0;
  if (int error = segment_->read(buffer_.data() + kept, wanted - kept, offset + kept, &done))
    return Status::failed(error, "replay: read segment " + std::to_string(segment_->index()));
  filled_ = kept + done;
  if (filled_ < bytes) return damaged(offset, *segment_, "the file ends too early");
  return Status::good();
}

}  // namespace understudy::replay
