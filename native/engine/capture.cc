#include "engine/capture.h"

#include "core/breakage.h"
#include "core/check.h"
#include "core/clock.h"

namespace understudy::engine {

using wire::RecordType;

Capture::Capture(const Options &options, std::vector<std::unique_ptr<Volume>> &volumes, CounterPage page,
                 EventSink events)
    : options_(options),
      volumes_(volumes),
      page_(page),
      events_(std::move(events)),
      state_(options.replicated ? CaptureState::kDetached : CaptureState::kAlone) {
  page_.set(kGroup_incarnation, options.incarnation);
  page_.set(kGroup_log_bytes_max, options.log_bytes);
  page_.set(kGroup_state, static_cast<uint64_t>(state_));
  if (options.log_file) spilling_ = std::make_unique<Spilling>(options.log_file, volumes, page);
}

uint64_t Capture::log_bytes_needed(const Volume &volume, uint64_t start, uint64_t end, bool payload) const {
  if (state_ != CaptureState::kStreaming) return 0;
  uint64_t parts = 1;
  // At most one part more for each edge inside the range: of the filter, or of a run of dirty regions.
  volume.excluded.inside(start, end, [&](uint64_t, uint64_t) { parts++; });
  if (step_open_ && volume.dirty.any()) parts += (end - start) / log::DirtyMap::kRegion / 2 + 1;
  return parts * sizeof(wire::RecordHeader) + (payload ? end - start : 0);
}

bool Capture::room(const Volume &volume, uint64_t start, uint64_t end, bool payload) const {
  if (state_ != CaptureState::kStreaming) return true;
  const uint64_t bytes = log_bytes_needed(volume, start, end, payload);
  return spare_room(bytes) || (spilling_ && spilling_->room(bytes));
}

void Capture::append(Volume &volume, RecordType type, uint8_t flags, uint64_t start, uint64_t length,
                     const void *payload, uint32_t payload_bytes) {
  wire::RecordHeader header{};
  header.magic = wire::kRecordMagic;
  header.type = type;
  header.flags = flags;
  header.volume_index = volume.index;
  header.incarnation = options_.incarnation;
  header.sequence = sequence_;
  header.predecessor = logged_;
  header.committed = sequence_;
  header.offset = start;
  header.length = length;
  header.written_bytes = written_bytes_;
  header.payload_bytes = payload_bytes;
  header.time_ns = wall_ns();
  const uint64_t bytes = log::ReplicationLog::record_bytes(header);
  if (spilled() || (spilling_ && !log_->room(bytes) && spilling_->room(bytes))) spilling_->append(header, payload);
  else log_->append(header, payload);
  logged_ = sequence_;
  urgent_ |= (flags & (wire::kWantReceived | wire::kWantDurable)) != 0;
}

void Capture::capture_part(Volume &volume, RecordType type, uint64_t start, uint64_t end, const uint8_t *payload,
                           uint8_t wants) {
  sequence_++;
  const bool write = type == RecordType::kWrite;
  if (write) written_bytes_ += end - start;
  if (state_ == CaptureState::kStreaming) {
    append(volume, type, wants, start, end - start, payload, write ? static_cast<uint32_t>(end - start) : 0);
  } else if (!BROKEN(kSkipDirtyMark)) {
    volume.dirty.mark(start, end);
  }
}

void Capture::record(Volume &volume, RecordType type, uint64_t start, uint64_t end, const uint8_t *payload,
                     uint8_t wants) {
  if (volume.held.empty()) return record_part(volume, type, start, end, payload, wants);
  volume.held.outside(start, end, [&](uint64_t from, uint64_t to) {
    record_part(volume, type, from, to, payload ? payload + (from - start) : nullptr, wants);
  });
}

void Capture::record_part(Volume &volume, RecordType type, uint64_t start, uint64_t end, const uint8_t *payload,
                          uint8_t wants) {
  uint64_t left_out = end - start;
  if (!volume.lapsed.empty()) volume.lapsed.subtract(start, end);
  volume.excluded.outside(start, end, [&](uint64_t from, uint64_t to) {
    left_out -= to - from;
    if (state_ != CaptureState::kStreaming || !volume.dirty.touches(from, to))
      return capture_part(volume, type, from, to, payload ? payload + (from - start) : nullptr, wants);
    // Dirty and not read yet: the resynchronisation will send what is there when it comes by.
    while (from < to) {
      const bool dirty = volume.dirty.is_dirty(from);
      uint64_t stop = from;
      do stop = std::min(to, (stop / log::DirtyMap::kRegion + 1) * log::DirtyMap::kRegion);
      while (stop < to && volume.dirty.is_dirty(stop) == dirty);
      if (dirty) {
        sequence_++;
        if (type == RecordType::kWrite) written_bytes_ += stop - from;
      } else {
        capture_part(volume, type, from, stop, payload ? payload + (from - start) : nullptr, wants);
      }
      from = stop;
    }
  });
  if (left_out && type == RecordType::kWrite) count_left_out(volume, start, end, left_out);
}

void Capture::count_left_out(Volume &volume, uint64_t start, uint64_t end, uint64_t bytes) {
  volume.page.add(kLeftOutBytes, bytes);
  if (volume.followed.empty()) return;
  volume.excluded.inside(start, end, [&](uint64_t from, uint64_t to) {
    volume.fixed.outside(from, to, [&](uint64_t begin, uint64_t stop) {
      for (const FollowedFileSystem &one : volume.followed) one.rules.saved(begin, stop);
    });
  });
}

void Capture::record_flush(Volume &volume, uint8_t wants) {
  sequence_++;
  if (state_ == CaptureState::kStreaming) append(volume, RecordType::kFlush, wants, 0, 0, nullptr, 0);
}

void Capture::dirty_again(Volume &volume, uint64_t start, uint64_t end) {
  if (step_open_) volume.resent.mark(start, end);
}

void Capture::refused(Volume &volume, uint64_t start, uint64_t end) {
  dirty_again(volume, start, end);
  volume.lapsed.subtract(start, end);  // nobody knows what is there now
  volume.excluded.outside(start, end, [&](uint64_t from, uint64_t to) { volume.dirty.mark(from, to); });
  if (state_ == CaptureState::kStreaming && volume.dirty.any()) open_step(false);
}

void Capture::watched_write(Volume &volume, uint64_t start, uint64_t end) {
  if (volume.watched.touches(start, end)) doubt(volume);
}

void Capture::doubt(Volume &volume) {
  if (state_ == CaptureState::kStreaming && !BROKEN(kSwapFilterUnplaced)) open_step(false);
  volume.watched_writes++;
  if (std::exchange(volume.watch_outstanding, true)) return;
  events_({"watched", {{"volume", static_cast<double>(volume.handle)}}, ""});
}

void Capture::record_sync(Volume &volume, uint64_t start, uint64_t end, const uint8_t *data) {
  CHECK(state_ == CaptureState::kStreaming && step_open_);
  sequence_++;
  append(volume, RecordType::kSync, 0, start, end - start, data, static_cast<uint32_t>(end - start));
}

void Capture::record_zeroes(Volume &volume, uint64_t start, uint64_t end) {
  CHECK(state_ == CaptureState::kStreaming);
  sequence_++;
  append(volume, RecordType::kTrim, 0, start, end - start, nullptr, 0);
}

void Capture::record_left_out(Volume &volume, uint64_t start, uint64_t end) {
  const uint64_t bytes = sizeof(wire::RecordHeader);
  const bool crowded = log_->bytes_used() > log_->bytes_max() / 2;
  if (step_open_ ? !crowded && spare_room(bytes) : spare_room(bytes) || (spilling_ && spilling_->room(bytes))) return record_zeroes(volume, start, end);
  dirty_again(volume, start, end);
  volume.dirty.mark(start, end);
}

void Capture::record_verify(Volume &volume, uint64_t start, uint64_t end, const wire::VerifyPayload &payload) {
  CHECK(state_ == CaptureState::kStreaming);
  sequence_++;
  append(volume, RecordType::kVerify, 0, start, end - start, &payload, sizeof payload);
}

void Capture::open_step(bool initial) {
  if (step_open_) return;
  step_open_ = true;
  begin_sequence_ = ++sequence_;
  append(*volumes_.front(), RecordType::kBegin, initial ? wire::kBeginInitial : 0, 0, 0, nullptr, 0);
}

void Capture::close_step() {
  CHECK(step_open_ && !any_dirty());
  sequence_++;
  append(*volumes_.front(), RecordType::kStep, 0, 0, 0, nullptr, 0);
  step_open_ = false;
  forget_resent();
  for (auto &volume : volumes_) volume->served_before = false;
  events_({"resync-done", {{"sequence", sequence_}, {"bytes", page_.get(kGroup_resync_total_bytes)}}, ""});
}

void Capture::forget_resent() {
  for (auto &volume : volumes_) (void)volume->resent.take();
}

bool Capture::find_resume_position(uint64_t received, uint64_t *position) const {
  if (received == (spilled() ? spilling_->ring_sequence() : logged_)) {
    *position = log_->head();
    return true;
  }
  for (uint64_t at = log_->tail(); at < log_->head();) {
    const wire::RecordHeader header = log_->header_at(at);
    if (wire::is_sequenced(header.type) && header.sequence > received) {
      *position = at;
      return header.predecessor == received;
    }
    at += log::ReplicationLog::record_bytes(header);
  }
  return false;
}

Result<Capture::Attached> Capture::attach(const AttachRequest &request) {
  CHECK(state_ != CaptureState::kAlone);
  uint64_t position = 0;
  if (state_ == CaptureState::kStreaming && !request.all_dirty && !request.fresh &&
      request.peer.incarnation == options_.incarnation && find_resume_position(request.peer.sequence, &position))
    return Attached{true, position};
  if (state_ == CaptureState::kStreaming) give_up_log(page_.get(kGroup_durable_sequence));
  auto log = log::ReplicationLog::create(options_.log_bytes);
  if (!log.ok()) return std::move(log.status);
  log_ = std::move(log.value);
  if (spilling_) spilling_->begin(log_);
  if (request.fresh || request.all_dirty)
    for (auto &volume : volumes_)
      volume->each_replicated(0, volume->size_bytes, [&](uint64_t start, uint64_t end) { volume->dirty.mark(start, end); });
  state_ = CaptureState::kStreaming;
  logged_ = request.peer.sequence;  // what the standby has; kBegin may jump from there
  if (request.peer.incarnation != options_.incarnation) logged_ = 0;
  open_step(request.initial);
  // What is left out reads as zeroes there, whatever the filter was when the standby last heard of it.
  if (!request.fresh)
    for (auto &volume : volumes_)
      volume->each_left_out(0, volume->size_bytes, [&](uint64_t start, uint64_t end) { record_left_out(*volume, start, end); });
  return Attached{false, 0};
}

void Capture::mark_unacknowledged(uint64_t durable) {
  for (auto &volume : volumes_)
    for (const RangeTable *table : {&volume->unstored, &volume->held})
      table->each([&](uint64_t start, uint64_t end) { volume->dirty.mark(start, end); });
  if (state_ != CaptureState::kStreaming) return;
  for (uint64_t at = log_->tail(); at < log_->head();) {
    const wire::RecordHeader header = log_->header_at(at);
    at += log::ReplicationLog::record_bytes(header);
    const bool changes = header.type == RecordType::kWrite || header.type == RecordType::kZero ||
                         header.type == RecordType::kTrim || header.type == RecordType::kSync;
    if (!changes || header.sequence <= durable) continue;
    // A zero record may stand for a range that has left the filter: only what is replicated can be dirty.
    Volume &volume = *volumes_[header.volume_index];
    volume.each_replicated(header.offset, header.offset + header.length,
                      [&](uint64_t start, uint64_t end) { volume.dirty.mark(start, end); });
  }
  if (spilling_) spilling_->mark_dirty();
}

void Capture::give_up_log(uint64_t durable) {
  mark_unacknowledged(durable);
  for (auto &volume : volumes_) volume->held = {};
  if (spilling_) spilling_->end();
  state_ = CaptureState::kDetached;
  step_open_ = false;
  forget_resent();
  log_.reset();  // the session may hold it a moment longer
}

void Capture::detach(const char *reason, uint64_t durable) {
  if (state_ != CaptureState::kStreaming) return;
  give_up_log(durable);
  const std::string why = reason;
  page_.add(why == "log-full"       ? kGroup_detaches_log_full
            : why == "max-lag"      ? kGroup_detaches_max_lag
            : why == "log-file"     ? kGroup_detaches_log_file
                                    : kGroup_detaches_requested,
            1);
  events_({"detached", {{"reason", why}}, ""});
}

Capture::News Capture::publish() {
  page_.set(kGroup_written_sequence, sequence_);
  page_.set(kGroup_written_bytes, written_bytes_);
  page_.set(kGroup_state, step_open_ ? kStateResync : static_cast<uint64_t>(state_));
  publish_volumes();
  if (spilling_) spilling_->show();
  if (!log_) {
    page_.set(kGroup_log_bytes, 0);
    return News::kNone;
  }
  page_.set(kGroup_log_bytes, log_->bytes_used());
  if (log_->published() == log_->head()) return News::kNone;
  log_->publish();
  return std::exchange(urgent_, false) ? News::kUrgent : News::kSome;
}

void Capture::publish_volumes() {
  for (auto &volume : volumes_) volume->page.set(kDirtyBytes, volume->dirty.dirty_bytes());
}

bool Capture::any_dirty() const {
  for (const auto &volume : volumes_)
    if (volume->dirty.any()) return true;
  return false;
}

uint64_t Capture::dirty_bytes() const {
  uint64_t bytes = 0;
  for (const auto &volume : volumes_) bytes += volume->dirty.dirty_bytes();
  return bytes;
}

}  // namespace understudy::engine
