#include "replay/logger.h"

#include <poll.h>

#include <algorithm>

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
  const size_t bytes = batch_bytes(from, received);
  const Status status = log_.append(receiver_.at(from), bytes, from, ledger_.durable());
  if (!status.ok()) {
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
