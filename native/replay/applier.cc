#include "replay/applier.h"

#include <cstring>

#include "core/breakage.h"
#include "core/check.h"
#include "core/clock.h"
#include "core/thread.h"
#include "replay/digest.h"

namespace understudy::replay {

using wire::RecordHeader;
using wire::RecordType;

namespace {
constexpr uint64_t kZeroPieceBytes = 1u << 30;
constexpr uint64_t kZeroHoldBytesMax = 16u << 20;  // a longer zero may take its time: the link does not wait for it
}  // namespace

Applier::Turn Applier::turn() {
  lock_ = gate_->turn();
  const uint64_t before = cursor_.log_offset;
  Turn result = is_closing_ ? finish_step() : Turn::kWorked;
  uint64_t epoch = ledger_.epoch();
  if (result == Turn::kWorked && phase_ == ReplicaPhase::kStaging) result = stage();
  if (result == Turn::kWorked) {
    const Ledger::Plan plan = ledger_.plan(cursor_.log_offset);
    epoch = plan.epoch;
    const uint64_t end = step_end_ ? std::min(plan.end, step_end_) : plan.end;
    turn_bytes_max_ = history_ && history_->clones_soon() && waiting_.load() == 0 ? kShortTurnBytesMax : kTurnBytesMax;
    Status saved = history_ ? save_ahead(plan, end) : Status::good();
    reader_.hold(cursor_.log_offset);
    result = saved.ok() ? apply_some(plan, end) : fail(saved);
    let_go();
  }
  if (result == Turn::kIdle && cursor_.log_offset != before) result = Turn::kWorked;
  if (result == Turn::kIdle) {
    redo_end_ = 0;  // all that could have been in the images is applied: they are a cut again
    idle_epoch_ = epoch;
  }
  publish();
  lock_.unlock();
  return result;
}

// Staging: is the step complete by now?
Applier::Turn Applier::stage() {
  const auto closing = ledger_.closing(cursor_.log_offset);
  if (!closing && !gives_up_cut_.load()) return Turn::kIdle;
  const bool gives_up = !closing;
  if (gives_up && !sync(ReplicaPhase::kInitial)) return Turn::kFailed;
  gives_up_cut_.store(false);
  if (gives_up) {
    phase_ = ReplicaPhase::kInitial;
    publish();
    return Turn::kWorked;
  }
  step_end_ = *closing;
  phase_ = ReplicaPhase::kStepping;
  publish();
  return Turn::kWorked;
}

Applier::Turn Applier::apply_some(const Ledger::Plan &plan, uint64_t end) {
  const uint64_t first = cursor_.log_offset;
  for (int count = 0; count < kTurnRecordsMax && cursor_.log_offset < end; count++) {
    if (stopping_.load(std::memory_order_relaxed) || cursor_.log_offset - first >= turn_bytes_max_) return Turn::kWorked;
    if (count > 0 && stands_aside()) return Turn::kWorked;
    if (!history_ && count > 0 && gate_->is_wanted()) return Turn::kWorked;  // with one a short turn costs as much as a long one
    LogReader::Record record;
    if (Status status = reader_.read(cursor_.log_offset, end, &record); !status.ok()) return fail(status);
    const RecordHeader &header = record.header;
    const bool sequenced = wire::is_sequenced(header.type);
    const bool committed = !sequenced || header.sequence <= plan.committed;
    if (!committed && !plan.discard_uncommitted) {
      // It could be read, which may have failed before. What commits it is not logged while anything fails here.
      if (!is_sync_failing_) progress_.well(Progress::Part::kImage);
      return Turn::kIdle;
    }
    const bool skip = !committed || (plan.has_voids && sequenced && ledger_.is_void({header.incarnation, header.sequence}));
    if (!skip && header.type == RecordType::kBegin && phase_ != ReplicaPhase::kInitial && !step_end_)
      return open_step(header);
    CHECK(!history_ || cursor_.log_offset < saved_to_);
    if (!skip) file_.reach(end);
    if (!skip)
      if (int error = apply(record)) {
        is_torn_ = true;
        return fail(Status::failed(error, "apply: image of volume " + images_[header.volume_index]->name() +
                                              ": record " + std::to_string(header.sequence)));
      }
    if (!is_sync_failing_) progress_.well(Progress::Part::kImage);
    is_torn_ = false;
    consume(header, skip);
    if (!skip && header.type == RecordType::kStep && (step_end_ || phase_ == ReplicaPhase::kInitial)) {
      is_closing_ = true;
      return finish_step();
    }
  }
  return cursor_.log_offset == first ? Turn::kIdle : Turn::kWorked;
}

Applier::Turn Applier::open_step(const RecordHeader &header) {
  const bool initial = phase_ == ReplicaPhase::kFresh;
  if (!initial && BROKEN(kApplyPiecemeal)) {
    consume(header, false);
    return Turn::kWorked;
  }
  if (!initial) {
    phase_ = ReplicaPhase::kStaging;  // in a redo the step may be half in the images: stage() looks before any view
    return Turn::kWorked;
  }
  // On disk first: from the next record on the image is no cut.
  if (!sync(ReplicaPhase::kInitial)) return Turn::kFailed;
  phase_ = ReplicaPhase::kInitial;
  publish();
  consume(header, false);
  return Turn::kWorked;
}

// The kStep has been consumed. Visible only when it is on stable storage, so that it is never undone.
Applier::Turn Applier::finish_step() {
  if (!sync(ReplicaPhase::kCut)) return Turn::kFailed;
  is_closing_ = false;
  step_end_ = 0;
  phase_ = ReplicaPhase::kCut;
  return Turn::kWorked;
}

int Applier::apply(const LogReader::Record &record) {
  const RecordHeader &header = record.header;
  switch (header.type) {
    case RecordType::kWrite:
      CHECK(header.volume_index < images_.size());
      return images_[header.volume_index]->write(record.payload, header.payload_bytes, header.offset);
    case RecordType::kSync:
      CHECK(header.volume_index < images_.size());
      return images_[header.volume_index]->write_passing(record.payload, header.payload_bytes, header.offset);
    case RecordType::kZero:
    case RecordType::kTrim:
      return apply_zero(header);
    case RecordType::kVerify:
      if (!is_redoing()) verify(record);
      return 0;
    default:
      return 0;
  }
}

int Applier::apply_zero(const RecordHeader &header) {
  CHECK(header.volume_index < images_.size());
  VolumeImage &image = *images_[header.volume_index];
  if (header.length > kZeroHoldBytesMax) let_go();
  const ZeroHow how = header.type == RecordType::kZero ? ZeroHow::kKeep : ZeroHow::kPunch;
  for (uint64_t at = 0; at < header.length;) {
    const uint64_t bytes = std::min(kZeroPieceBytes, header.length - at);
    if (int error = image.zero(header.offset + at, bytes, how)) return error;
    at += bytes;
    if (stopping_.load(std::memory_order_relaxed) && at < header.length) return EINTR;  // done again at the next start
  }
  return 0;
}

void Applier::verify(const LogReader::Record &record) {
  CHECK(record.header.volume_index < images_.size());
  wire::VerifyPayload payload;
  memcpy(&payload, record.payload, sizeof payload);
  Digest digest;
  Device &device = images_[record.header.volume_index]->device();
  const int error = digest_range(device, record.header.offset, record.header.length, true, &digest);
  const bool equal = !error && memcmp(digest.data(), payload.hash, digest.size()) == 0;
  (equal ? state_.verify_equal : state_.verify_different).fetch_add(1, std::memory_order_relaxed);
  listener_.verified({payload.id, record.header.offset, record.header.length, record.header.volume_index,
                      static_cast<uint16_t>(equal), static_cast<uint32_t>(error)});
}

void Applier::consume(const RecordHeader &header, bool is_skipped) {
  if (history_) history_->note(header, cursor_.log_offset, is_skipped);
  const uint64_t bytes = record_bytes(header);
  cursor_.log_offset += bytes;
  if (header.incarnation != cursor_.applied.incarnation) cursor_.committed = 0;
  cursor_.committed = std::max(cursor_.committed, header.committed);
  if (header.type == RecordType::kBegin) cursor_.begin_sequence = header.sequence;
  if (wire::is_sequenced(header.type)) {
    cursor_.applied = {header.incarnation, header.sequence};
    cursor_.bytes = header.written_bytes;
    applied_time_ns_ = header.time_ns;
    applied_count_++;
  }
  if (is_clean_) unsynced_since_ns_ = monotonic_ns();
  is_clean_ = false;
  unsynced_bytes_ += bytes;
}

void Applier::let_go() {
  if (reader_.let_go()) listener_.progressed();
}

// What others are told. A redo is told as a step: the images are no cut until it is through.
void Applier::publish() {
  state_.records_applied.fetch_add(std::exchange(applied_count_, 0), std::memory_order_relaxed);
  for (auto &image : images_)
    if (image->take_lost_views())
      listener_.failed("export of volume " + image->name() +
                       ": no room to keep what the standby overwrites; it answers EIO from now on: end it and export anew");
  ledger_.applied_below(cursor_.log_offset);
  if (phase_ != ReplicaPhase::kStepping) progress_.applied(cursor_.log_offset, cursor_.applied, cursor_.bytes);
  const bool on_cut = phase_ == ReplicaPhase::kCut || phase_ == ReplicaPhase::kStaging;
  const ReplicaPhase told = on_cut && is_redoing() ? ReplicaPhase::kStepping : phase_;
  state_.phase.store(static_cast<uint64_t>(told), std::memory_order_release);
}

Applier::Turn Applier::fail(const Status &status) {
  if (!(status.error == EINTR && stopping_.load())) progress_.failed(Progress::Part::kImage, status);
  log_.keep_no_spares();  // the image may need their room
  if (history_ && (status.error == ENOSPC || status.error == EDQUOT)) history_->make_room();
  return Turn::kFailed;
}

}  // namespace understudy::replay
