#include "replay/receiver.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/clock.h"
#include "core/crc32c.h"

namespace understudy::replay {

using wire::RecordFault;
using wire::RecordHeader;
using wire::RecordType;

namespace {
constexpr uint64_t kWindowBytesMax = 16u << 20;  // at least the link's flow-control window for records

Status refuse(const RecordHeader &header, const std::string &why) {
  return {EPROTO, "receive: record " + std::to_string(header.sequence) + " of incarnation " +
                      std::to_string(header.incarnation) + ": " + why + " (EPROTO)"};
}
bool touches_volume(RecordType type) {
  return type == RecordType::kWrite || type == RecordType::kZero || type == RecordType::kTrim ||
         type == RecordType::kSync || type == RecordType::kVerify;
}
}  // namespace

void Receiver::restart(uint64_t log_offset, wire::Position last, wire::Mark mark, const CommitTracker &commits) {
  written_ = parsed_ = taken_ = log_offset;
  received_.store(log_offset);
  released_.store(log_offset);
  logged_ = oldest_ = log_offset;
  chain_.last = last;
  mark_ = mark;
  commits_ = commits;
  progress_.received(last, mark.bytes, commits_.committed());
}

wire::Position Receiver::start_session() {
  written_ = parsed_;
  early_ = 0;
  taken_ = written_;  // credit for bytes of an earlier session is no use to this one
  begin_record();
  broken_ = Status::good();
  return chain_.last;
}

Status Receiver::may_take() const {
  if (sealed_.load(std::memory_order_relaxed))
    return Status::failed(EROFS, "receive: this replica is sealed and takes no more records");
  return broken_;
}

Status Receiver::receive(std::span<const uint8_t> bytes) {
  if (Status status = may_take(); !status.ok()) return status;
  uint8_t *const room = place(bytes.size());
  if (!room)
    return broken_ = Status::failed(ENOBUFS, "receive: ring of " + std::to_string(room_bytes_) + " bytes holds " +
                                                 std::to_string(written_ - released_.load()) + ", no room for " +
                                                 std::to_string(bytes.size()));
  memcpy(room, bytes.data(), bytes.size());
  return placed(bytes.size());
}

uint8_t *Receiver::place(size_t bytes) {
  const uint64_t used = written_ - released_.load(std::memory_order_acquire);
  return used + bytes > room_bytes_ ? nullptr : ring_.at(written_);
}

Status Receiver::placed(size_t bytes) {
  if (Status status = may_take(); !status.ok()) return status;
  state_.last_heard_ns.store(wall_ns(), std::memory_order_relaxed);
  written_ += bytes;
  const uint64_t before = parsed_;
  broken_ = parse();
  if (parsed_ != before) publish();
  return broken_;
}

Status Receiver::parse() {
  while (written_ - parsed_ >= sizeof(RecordHeader)) {
    const RecordHeader header = load_header(ring_.at(parsed_));
    if (!header_good_)
      if (Status status = check(header); !status.ok()) return status;
    header_good_ = true;
    sum_payload(header);
    if (written_ - parsed_ < record_bytes(header)) break;
    if (payload_crc32c_ != header.payload_crc32c) return refuse(header, to_string(RecordFault::kPayloadChecksum));
    accept(header);
  }
  return Status::good();
}

// Of a record at parsed_ that may not be whole yet: a large one comes in many pieces, and is not in the processor's cache
// any more when the last one is there.
void Receiver::sum_payload(const RecordHeader &header) {
  const uint64_t there = std::min<uint64_t>(written_ - parsed_ - sizeof header, header.payload_bytes);
  if (there == payload_summed_) return;
  const uint8_t *payload = ring_.at(parsed_) + sizeof header;
  payload_crc32c_ = crc32c(payload_crc32c_, payload + payload_summed_, there - payload_summed_);
  payload_summed_ = there;
}

Status Receiver::check(const RecordHeader &header) const {
  if (RecordFault fault = check_header(header); fault != RecordFault::kNone) return refuse(header, to_string(fault));
  if (!chain_.follows(header))
    return refuse(header, std::string(to_string(RecordFault::kGap)) + ": the last was " +
                              std::to_string(chain_.last.sequence) + " of incarnation " +
                              std::to_string(chain_.last.incarnation) + ", its predecessor is " +
                              std::to_string(header.predecessor));
  if (header.sequence > wire::kSequenceMax) return refuse(header, "sequence is beyond the maximum");
  if (header.type == RecordType::kVoid && (header.offset == 0 || header.offset > chain_.last.sequence))
    return refuse(header, "void of sequence " + std::to_string(header.offset) + ", which was not received");
  if (header.type == RecordType::kVoid && header.offset <= commits_.raw())
    return refuse(header, "void of sequence " + std::to_string(header.offset) + ", which is committed");
  return touches_volume(header.type) ? check_range(header) : Status::good();
}

Status Receiver::check_range(const RecordHeader &header) const {
  if (header.volume_index >= volume_bytes_.size())
    return refuse(header, "volume " + std::to_string(header.volume_index) + " of " +
                              std::to_string(volume_bytes_.size()));
  const uint64_t size = volume_bytes_[header.volume_index];
  if (header.offset > size || header.length > size - header.offset)
    return refuse(header, "range " + std::to_string(header.offset) + "+" + std::to_string(header.length) +
                              " is beyond the volume's " + std::to_string(size) + " bytes");
  return Status::good();
}

void Receiver::accept(const RecordHeader &header) {
  chain_.advance(header);
  commits_.note(header);
  if (wire::is_sequenced(header.type)) mark_ = {header.sequence, header.written_bytes};
  if (header.flags & wire::kWantReceived) state_.received_wanted_sequence.store(header.sequence);
  if (header.flags & wire::kWantDurable) {
    state_.durable_wanted_sequence.store(header.sequence);
    urgent_ = true;
  }
  if (header.type == RecordType::kBegin) {  // sequences start over, and no reply waits for what is staged
    state_.received_wanted_sequence.store(0);
    state_.durable_wanted_sequence.store(0);
  }
  parsed_ += record_bytes(header);
  begin_record();
  accepted_count_++;
}

void Receiver::begin_record() {
  header_good_ = false;
  payload_summed_ = 0;
  payload_crc32c_ = 0;
}

void Receiver::publish() {
  state_.records_received.fetch_add(std::exchange(accepted_count_, 0), std::memory_order_relaxed);
  progress_.received(chain_.last, mark_.bytes, commits_.committed());
  received_.store(parsed_, std::memory_order_release);
  std::exchange(urgent_, false) ? logger_waker_.wake() : logger_waker_.wake_lazily();
}

size_t Receiver::take_consumed() {
  const uint64_t released = released_.load(std::memory_order_acquire);
  uint64_t credit = 0;
  if (released > taken_) credit = released - std::exchange(taken_, released);
  const uint64_t repaid = std::min(credit, early_);
  early_ -= repaid;
  credit -= repaid;
  // A record larger than the peer's window would never be whole, and so never leave: what is here of it counts as
  // gone, as long as the ring has room for a window more.
  const uint64_t partial = written_ - parsed_;
  if (partial > early_ && written_ - released + kWindowBytesMax <= room_bytes_)
    credit += partial - std::exchange(early_, partial);
  return static_cast<size_t>(credit);
}

void Receiver::release(uint64_t log_offset) {
  std::lock_guard lock(mutex_);
  logged_ = log_offset;
  free_logged();
}

bool Receiver::hold(uint64_t log_offset) {
  std::lock_guard lock(mutex_);
  // The link may already be writing up to room_bytes_ beyond `released_`.
  if (log_offset < oldest_ || released_.load(std::memory_order_relaxed) > log_offset + kept_bytes()) return false;
  held_ = log_offset;
  return true;
}

bool Receiver::let_go() {
  std::lock_guard lock(mutex_);
  held_ = kNothing;
  const uint64_t before = released_.load(std::memory_order_relaxed);
  free_logged();
  return released_.load(std::memory_order_relaxed) != before;
}

void Receiver::free_logged() {
  released_.store(std::min(logged_, held_ + kept_bytes()), std::memory_order_release);
}

}  // namespace understudy::replay
