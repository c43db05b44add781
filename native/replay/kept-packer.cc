#include "replay/kept-packer.h"

#include <sched.h>

#include <chrono>

#include "core/clock.h"
#include "core/thread.h"
#include "replay/packed-segment.h"

namespace understudy::replay {
namespace {
constexpr uint64_t kLittleBytes = 1u << 20;  // applied in a third of the rest, or during a segment
}

void KeptPacker::start() {
  thread_ = start_thread("us-packer", [this] { run(); });
}

void KeptPacker::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void KeptPacker::wake() {
  {
    std::lock_guard lock(mutex_);
    has_news_ = true;
  }
  changed_.notify_all();
}

void KeptPacker::run() {
  const sched_param none{};
  (void)sched_setscheduler(0, SCHED_IDLE, &none);  // of this thread
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopping_ || has_news_; });
      if (stopping_) return;
      has_news_ = false;
    }
    while (const auto next = kept_.to_pack(below_.load())) {
      if (!waits_for_quiet()) return;
      pack(*next);
    }
  }
}

void KeptPacker::pack(const KeptSegments::Kept &kept) {
  const std::string fresh = kept_.fresh_path_of(kept.index);
  auto segment = kept_.open_raw(kept);
  if (!segment.ok() || !PackedSegment::is_worth_it(*segment.value)) return kept_.leave(kept.index);
  uint64_t applied = applied_bytes_.load(), since = monotonic_ns();
  const auto packed = PackedSegment::pack(*segment.value, fresh, [&] {
    if (!rest_ns_) return rests(0);
    if (!rests(monotonic_ns() - since)) return false;
    if (applied_bytes_.load() - applied >= kLittleBytes) {
      if (!waits_for_quiet()) return false;
      applied = applied_bytes_.load();
    }
    since = monotonic_ns();
    return true;
  });
  if (packed.ok())
    kept_.replace(kept.index, packed.value);
  else if (packed.status.error != ECANCELED)
    kept_.leave(kept.index);
}

bool KeptPacker::rests(uint64_t ns) {
  std::unique_lock lock(mutex_);
  if (ns) changed_.wait_for(lock, std::chrono::nanoseconds(ns), [&] { return stopping_; });
  return !stopping_;
}

bool KeptPacker::waits_for_quiet() {
  for (int quiet = 0; rest_ns_ && quiet < 3; quiet++) {
    const uint64_t before = applied_bytes_.load();
    if (!rests(rest_ns_ / 3)) return false;
    if (applied_bytes_.load() - before >= kLittleBytes) quiet = -1;
  }
  return rests(0);
}

}  // namespace understudy::replay
