#include "replay/logger.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>

#include "core/check.h"
#include "core/clock.h"
#include "core/thread.h"

namespace understudy::replay {
namespace {
constexpr uint64_t kBatchBytesMax = 16u << 20;  // keeps a turn short
constexpr uint64_t kRetryNs = 1'000'000'000;
constexpr uint64_t kHoldNs = 100'000'000;
constexpr uint64_t kIdleNs = 10'000'000'000;
constexpr uint64_t kNapNs = 200'000;  // after a turn: what nobody waits for gathers, so that a turn is worth its cost
}  // namespace

void Logger::start() {
  logged_.store(ledger_.durable_offset());
  thread_ = start_thread("us-logger", [this] { run(); });
}

void Logger::stop() {
  stopping_.store(true);
  waker_.wake();
  if (thread_.joinable()) thread_.join();
}

void Logger::run() {
  while (!stopping_.load(std::memory_order_relaxed)) {
    const uint64_t received = receiver_.received_offset();
    if (received == logged_.load(std::memory_order_relaxed))
      sleep(kIdleNs, true);
    else if (progress_.is_failing(Progress::Part::kImage))
      sleep(kHoldNs, false);  // what cannot be applied is not acknowledged
    else {
      turn(received);
      nap();
    }
  }
}

void Logger::nap() {
  waker_.prepare(Waker::kNap);
  // A record that is waited for may have come since the turn began: it will not wake us again.
  if (stopping_.load() || receiver_.state().durable_wanted_sequence > receiver_.state().durable_sequence)
    return waker_.cancel();
  pollfd wait{waker_.fd(), POLLIN, 0};
  const timespec limit{0, kNapNs};
  ppoll(&wait, 1, &limit, nullptr);
  waker_.woken();
}

void Logger::turn(uint64_t received) {
  const uint64_t from = logged_.load(std::memory_order_relaxed);
  const size_t bytes = fitting_bytes(from, batch_bytes(from, received));
  if (bytes == 0) return staging_is_full();
  state_.staging_full.store(0, std::memory_order_relaxed);
  const Status status = log_.append(receiver_.at(from), bytes, from, {ledger_.durable(), ledger_.last_begin().offset});
  if (!status.ok()) {
    log_.keep_no_spares();
    progress_.failed(Progress::Part::kLog, status);
    applier_waker_.wake();  // applying and syncing may free segments
    sleep(kRetryNs, false);
    return;
  }
  progress_.well(Progress::Part::kLog);
  ledger_.note(receiver_.at(from), bytes, from);
  receiver_.release(from + bytes);
  progress_.durable(ledger_.durable(), ledger_.durable_mark());
  logged_.store(from + bytes, std::memory_order_release);
  applier_waker_.wake_lazily();
  listener_.progressed();
}

// All of it, or as many whole records as fit a batch; at least one.
size_t Logger::batch_bytes(uint64_t from, uint64_t received) const {
  const uint64_t all = received - from;
  const uint64_t bytes_max = std::min(kBatchBytesMax, log_.segment_bytes() / 2);
  if (all <= bytes_max) return all;
  uint64_t bytes = record_bytes(load_header(receiver_.at(from)));
  while (bytes < all) {
    const uint64_t next = record_bytes(load_header(receiver_.at(from + bytes)));
    if (bytes + next > bytes_max) break;
    bytes += next;
  }
  CHECK(bytes <= all);
  return bytes;
}

// Of these whole records, those that the maximum of a step leaves room for. What opens or closes a step, or says what
// became of a record, always passes. What goes straight into an image that is no cut is not collected.
size_t Logger::fitting_bytes(uint64_t from, size_t bytes) const {
  const uint64_t bytes_max = state_.staging_bytes_max.load(std::memory_order_relaxed);
  if (bytes_max == 0 || state_.phase.load() < static_cast<uint64_t>(ReplicaPhase::kCut)) return bytes;
  auto collected = ledger_.open_step_bytes();
  size_t at = 0;
  while (at < bytes) {
    const wire::RecordHeader header = load_header(receiver_.at(from + at));
    const size_t size = record_bytes(header);
    const bool begins = header.type == wire::RecordType::kBegin, ends = header.type == wire::RecordType::kStep;
    const bool passes = begins || ends || !wire::is_sequenced(header.type);
    if (collected && !passes && *collected + size > bytes_max) break;
    if (ends) collected.reset();
    else if (begins && !collected) collected = size;
    else if (collected) *collected += size;
    at += size;
  }
  return at;
}

void Logger::staging_is_full() {
  state_.staging_full.store(1, std::memory_order_relaxed);
  const uint64_t bytes_max = state_.staging_bytes_max.load(std::memory_order_relaxed);
  progress_.failed(Progress::Part::kLog,
                   Status::failed(ENOSPC, "collect a step: it has reached its maximum of " + std::to_string(bytes_max) + " bytes"));
  applier_waker_.wake();
  sleep(kRetryNs, false);
}

void Logger::sleep(uint64_t limit_ns, bool until_records) {
  const uint64_t end = monotonic_ns() + limit_ns;
  for (uint64_t now; (now = monotonic_ns()) < end;) {
    waker_.prepare();
    if (stopping_.load() || (until_records && receiver_.received_offset() != logged_.load())) {
      waker_.cancel();
      return;
    }
    pollfd wait{waker_.fd(), POLLIN, 0};
    poll(&wait, 1, static_cast<int>((end - now) / 1'000'000 + 1));
    waker_.woken();
  }
}

}  // namespace understudy::replay
