#include "engine/verifier.h"

#include <algorithm>
#include <cstring>

#include "engine/region-reader.h"

namespace understudy::engine {
namespace {
constexpr uint64_t kChunkBytes = 1u << 20;
constexpr size_t kReadsMax = 2;
constexpr uint64_t kAnswersOwedMax = 64;
}  // namespace

Verifier::Verifier(Resync::Host host, Capture &capture) : host_(std::move(host)), capture_(capture) {}

Status Verifier::start(Volume &volume, Done done) {
  if (volume_) return Status::failed(EBUSY, "verify: " + volume.name + ": a verify is already running");
  if (capture_.state() != CaptureState::kStreaming || capture_.step_open())
    return Status::failed(EAGAIN, "verify: " + volume.name + ": the standby is not in sync; wait for it first");
  volume_ = &volume;
  done_ = std::move(done);
  cursor_ = sent_ = answered_ = different_ = unread_ = 0;
  id_base_ = next_id_;
  run_++;
  return Status::good();
}

void Verifier::turn() {
  if (!volume_) return;
  while (cursor_ < volume_->size_bytes && reads_ < kReadsMax && sent_ - answered_ < kAnswersOwedMax) {
    const uint64_t end = std::min(cursor_ + kChunkBytes, volume_->size_bytes);
    // A hole is a chunk like any other: the standby must have zeroes there too.
    if (volume_->flights.conflicts(cursor_, end, false) || !capture_.log()->room(kChunkBytes)) return;
    read(cursor_, end);
    cursor_ = end;
  }
}

void Verifier::read(uint64_t start, uint64_t end) {
  const uint64_t flight = volume_->flights.add(start, end, false);
  const auto log = capture_.log();
  const uint64_t held = sizeof(wire::RecordHeader) + sizeof(wire::VerifyPayload);
  log->hold(held);
  reads_++;
  host_.pool.submit([this, volume = volume_, start, end, flight, log, held, run = run_, excluded = volume_->excluded] {
    RegionData data = read_regions(*volume->device, excluded, start, end);
    wire::VerifyPayload payload{};
    hash_bytes(data.bytes.data(), data.bytes.size(), payload.hash);
    host_.post([this, volume, start, end, flight, log, held, run, payload, error = data.error]() mutable {
      log->unhold(held);
      reads_--;
      volume->flights.remove(flight);
      if (run != run_ || !volume_ || capture_.state() != CaptureState::kStreaming) return;
      if (error) {
        unread_++;
        return finish_if_complete();
      }
      payload.id = ++next_id_;
      sent_++;
      capture_.record_verify(*volume, start, end, payload);
    });
  });
}

void Verifier::result(const wire::VerifyResultBody &body) {
  if (!volume_ || body.id <= id_base_ || body.id > next_id_) return;
  answered_++;
  if (!body.equal) {
    different_++;
    host_.events({"verify-result",
                  {{"volumeIndex", static_cast<double>(body.volume_index)},
                   {"offset", body.offset},
                   {"length", body.length},
                   {"equal", false},
                   {"error", body.error ? Status::failed(static_cast<int>(body.error), "read image").message : ""}},
                  ""});
  }
  finish_if_complete();
}

void Verifier::finish_if_complete() {
  if (cursor_ < volume_->size_bytes || reads_ || answered_ < sent_) return;
  Status status = Status::good();
  if (unread_)
    status = Status::failed(EIO, "verify: " + volume_->name + ": " + std::to_string(unread_) + " MiB could not be read");
  volume_ = nullptr;
  std::exchange(done_, nullptr)(status, sent_, different_);
}

void Verifier::cancel(const char *why) {
  if (!volume_) return;
  Status status = Status::failed(ECANCELED, "verify: " + volume_->name + ": " + why);
  volume_ = nullptr;
  run_++;
  std::exchange(done_, nullptr)(status, sent_, different_);
}

}  // namespace understudy::engine
