#include "engine/verifier.h"

#include <algorithm>
#include <cstring>

#include "core/clock.h"
#include "engine/region-reader.h"

namespace understudy::engine {
namespace {
constexpr uint64_t kChunkBytes = 1u << 20;
constexpr uint64_t kRegion = wire::kRegionBytes;
constexpr uint64_t kRecordBytes = sizeof(wire::RecordHeader) + sizeof(wire::VerifyPayload);
constexpr size_t kReadsMax = 2;
constexpr uint64_t kAnswersOwedMax = 64;
constexpr uint64_t kAnswersOwedBusy = 2;         // the standby compares between the clients' records
constexpr uint64_t kBusyNs = 50'000'000;         // so long after a request clients count as active
constexpr uint64_t kPauses = 3;                  // then each read is followed by a pause of so many times its length
constexpr uint64_t kPauseNsMax = 1'000'000'000;
constexpr size_t kDifferentMax = 4096;           // ranges; beyond, the last one grows: more is compared, no less
constexpr int kRetryMs = 5;
}  // namespace

struct Verifier::Chunk {
  struct Part {  // what could be read of it
    uint64_t start, end;
    wire::VerifyPayload payload;
  };
  std::vector<Part> parts;
  std::vector<uint64_t> unreadable;
  uint64_t start, end;
  int error;
  uint64_t took_ns;
};

Verifier::Verifier(Resync::Host host, Capture &capture, Repair repair)
    : host_(std::move(host)), capture_(capture), repair_(std::move(repair)) {}

Status Verifier::start(Volume &volume, const VerifyOptions &options, Done done) {
  if (volume_) return Status::failed(EBUSY, "verify: " + volume.name + ": a verify is already running");
  if (capture_.state() != CaptureState::kStreaming || capture_.step_open())
    return Status::failed(EAGAIN, "verify: " + volume.name + ": the standby is not in sync; wait for it first");
  volume_ = &volume;
  done_ = std::move(done);
  options_ = options;
  outcome_ = {};
  different_.clear();
  remaining_ = 0;
  due_ns_ = 0;
  begin_pass(Phase::kComparing, {{0, volume.size_bytes}});
  return Status::good();
}

void Verifier::begin_pass(Phase phase, std::vector<Range> targets) {
  phase_ = phase;
  targets_ = std::move(targets);
  target_ = 0;
  cursor_ = targets_.front().start;
  sent_ = answered_ = 0;
  id_base_ = next_id_;
  run_++;
}

int Verifier::wait_limit_ms(uint64_t now_ns) const {
  if (!volume_) return -1;
  if (phase_ == Phase::kRepairing || retry_) return kRetryMs;
  if (due_ns_ > now_ns) return static_cast<int>((due_ns_ - now_ns) / 1'000'000 + 1);
  return -1;
}

bool Verifier::next_chunk(uint64_t *start, uint64_t *end) {
  while (target_ < targets_.size() && cursor_ >= targets_[target_].end)
    if (++target_ < targets_.size()) cursor_ = targets_[target_].start;
  if (target_ == targets_.size()) return false;
  *start = cursor_;
  *end = std::min((cursor_ / kChunkBytes + 1) * kChunkBytes, targets_[target_].end);
  return true;
}

void Verifier::turn(uint64_t now_ns) {
  retry_ = false;
  if (!volume_) return;
  if (phase_ == Phase::kRepairing) {
    if (waits_for_step()) return;
    begin_pass(Phase::kConfirming, different_);
  }
  const bool busy = !options_.bytes_per_second && now_ns - clients_ns_ < kBusyNs;
  uint64_t start, end;
  while (reads_ < (busy ? 1 : kReadsMax) && sent_ - answered_ < (busy ? kAnswersOwedBusy : kAnswersOwedMax) &&
         now_ns >= due_ns_ && next_chunk(&start, &end)) {
    // A hole is a chunk like any other: the standby must have zeroes there too.
    if (volume_->dirty.touches(start, end) || !volume_->flights.may_read(start, end, now_ns) ||
        !capture_.spare_room(kChunkBytes)) {
      retry_ = true;
      return;
    }
    if (options_.bytes_per_second)  // never catches up by more than one chunk: a rate, not a mean
      due_ns_ = std::max(due_ns_, now_ns - std::min<uint64_t>(now_ns, 100'000'000)) +
                (end - start) * 1'000'000'000 / options_.bytes_per_second;
    read(start, end);
    cursor_ = end;
  }
}

bool Verifier::waits_for_step() const {
  if (capture_.step_open()) return true;
  return std::any_of(different_.begin(), different_.end(),
                     [this](const Range &range) { return volume_->dirty.touches(range.start, range.end); });
}

void Verifier::read(uint64_t start, uint64_t end) {
  const uint64_t flight = volume_->flights.add(start, end, false);
  const auto log = capture_.log();
  const uint64_t held = kRecordBytes * (kChunkBytes / kRegion);
  log->hold(held);
  reads_++;
  host_.pool.submit([this, volume = volume_, start, end, flight, log, held, run = run_,
                     left_out = volume_->left_out(start, end)] {
    const uint64_t began_ns = monotonic_ns();
    const RegionData data = read_regions(*volume->device, left_out, start, end, ReadFrom::kStored);
    Chunk chunk{{}, data.unreadable, start, end, data.error, 0};
    for (uint64_t at = start; at < end;) {
      const bool readable = std::find(data.unreadable.begin(), data.unreadable.end(), at) == data.unreadable.end();
      uint64_t stop = end;  // up to the next region that cannot be read
      for (uint64_t bad : data.unreadable)
        if (bad > at) stop = std::min(stop, bad);
      if (!readable) stop = std::min(end, at + kRegion);
      if (readable) {
        chunk.parts.push_back({at, stop, {}});
        hash_bytes(data.bytes.data() + (at - start), stop - at, chunk.parts.back().payload.hash);
      }
      at = stop;
    }
    chunk.took_ns = monotonic_ns() - began_ns;
    host_.post([this, volume, flight, log, held, run, left_out, chunk = std::move(chunk)] {
      log->unhold(held);
      reads_--;
      volume->flights.remove(flight);
      if (run != run_ || !volume_ || capture_.state() != CaptureState::kStreaming) return;
      // 1. the chunk is read, zeroes for what is left out  2. the filter changes  3. this would be compared behind the change.
      if (volume->dirty.touches(chunk.start, chunk.end) || left_out != volume->left_out(chunk.start, chunk.end))
        again(chunk.start, chunk.end);
      else
        record(chunk);
    });
  });
}

void Verifier::again(uint64_t start, uint64_t end) {
  if (target_ == targets_.size()) cursor_ = start;
  targets_.push_back({start, end});
}

void Verifier::record(const Chunk &chunk) {
  const uint64_t now_ns = monotonic_ns();
  if (!options_.bytes_per_second && now_ns - clients_ns_ < kBusyNs)
    due_ns_ = now_ns + std::min(kPauseNsMax, kPauses * chunk.took_ns);
  for (uint64_t at : chunk.unreadable) note_unreadable(at, std::min(at + kRegion, chunk.end), chunk.error);
  for (Chunk::Part part : chunk.parts) {
    part.payload.id = ++next_id_;
    sent_++;
    capture_.record_verify(*volume_, part.start, part.end, part.payload);
  }
  finish_if_complete();
}

void Verifier::note_unreadable(uint64_t start, uint64_t end, int error) {
  if (phase_ == Phase::kComparing) outcome_.unreadable_bytes += end - start;
  host_.events({"device-error",
                {{"volume", static_cast<double>(volume_->handle)},
                 {"operation", std::string("verify read")},
                 {"error", Status::failed(error, "read").message},
                 {"offset", start},
                 {"length", end - start}},
                ""});
}

void Verifier::result(const wire::VerifyResultBody &body) {
  if (!volume_ || body.id <= id_base_ || body.id > next_id_) return;
  answered_++;
  if (phase_ == Phase::kComparing) outcome_.chunks++;
  if (!body.equal) note_different(body);
  finish_if_complete();
}

void Verifier::note_different(const wire::VerifyResultBody &body) {
  if (phase_ == Phase::kConfirming) {
    remaining_++;
    return;
  }
  outcome_.different++;
  const Range range{body.offset, body.offset + body.length};
  const bool neighbour = !different_.empty() && different_.back().end == range.start;
  if (neighbour || different_.size() == kDifferentMax)
    different_.back().end = range.end;
  else
    different_.push_back(range);
  host_.events({"verify-result",
                {{"volumeIndex", static_cast<double>(body.volume_index)},
                 {"offset", body.offset},
                 {"length", body.length},
                 {"equal", false},
                 {"error", body.error ? Status::failed(static_cast<int>(body.error), "read image").message : ""}},
                ""});
}

void Verifier::finish_if_complete() {
  uint64_t start, end;
  if (phase_ == Phase::kRepairing || reads_ || answered_ < sent_ || next_chunk(&start, &end)) return;
  if (phase_ == Phase::kComparing && options_.repair && !different_.empty()) {
    phase_ = Phase::kRepairing;
    repair_(*volume_, different_);
    return;
  }
  if (phase_ == Phase::kConfirming) outcome_.repaired = outcome_.different - std::min(remaining_, outcome_.different);
  finish(Status::good());
}

void Verifier::cancel(const char *why) {
  if (volume_) finish(Status::failed(ECANCELED, "verify: " + volume_->name + ": " + why));
}

void Verifier::finish(const Status &status) {
  volume_ = nullptr;
  run_++;
  std::exchange(done_, nullptr)(status, outcome_);
}

}  // namespace understudy::engine
