// The applier's life around its turns: when it syncs, how it starts, rests and stops. The turns are in applier.cc.
#include <poll.h>
#include <sys/resource.h>

#include <algorithm>

#include "core/check.h"
#include "core/clock.h"
#include "core/thread.h"
#include "replay/applier.h"

namespace understudy::replay {
namespace {
constexpr uint64_t kSyncBytes = 256u << 20;
constexpr uint64_t kSyncNs = 1'000'000'000;
constexpr uint64_t kSyncNsMax = 10'000'000'000;
constexpr int kSyncShare = 3;               // while there is work: at most one part in four of the time
constexpr uint64_t kRetryNs = 1'000'000'000;
constexpr uint64_t kIdleNs = 10'000'000'000;
constexpr uint64_t kNapNs = 300'000;        // after a turn that found little: let records gather
constexpr uint64_t kLittleBytes = 1u << 20;
constexpr uint64_t kAsideNs = 1'000'000'000;
constexpr int kLastNice = 5;  // a third of another thread's share: who writes waits for what is left
constexpr int kAsidePollMs = 20;
constexpr uint64_t kCloneNsMax = 100'000'000, kCloneSoonNsMax = 250'000'000;
}  // namespace

void Applier::start(const Watermark &from, uint64_t redo_end) {
  cursor_ = persisted_ = from;
  redo_end_ = redo_end;
  phase_ = from.phase;
  publish();
  thread_ = start_thread("us-applier", [this] { run(); });
}

void Applier::stop() {
  stopping_.store(true);
  waker_.wake();
  if (thread_.joinable()) thread_.join();
}

void Applier::give_up_cut() {
  gives_up_cut_.store(true);
  waker_.wake();
}

void Applier::run() {
  while (!stopping_.load(std::memory_order_relaxed)) {
    if (stands_aside()) {
      rest_aside();
      continue;
    }
    if (comes_last_.exchange(false)) setpriority(PRIO_PROCESS, 0, kLastNice);  // 0: this thread
    const uint64_t since = monotonic_ns();
    Turn result = turn();
    if (!sync_when_due(result)) result = Turn::kFailed;
    if (result == Turn::kIdle) tend_history();
    gate_->turned();
    listener_.progressed();  // also when idle: the end of a redo is a change of phase without a record
    const bool clones = history_ && result != Turn::kFailed && clone_some(monotonic_ns() - since);
    if (result == Turn::kWorked)
      nap();
    else if (!clones)
      rest(result);
  }
  if (!progress_.is_failing(Progress::Part::kImage)) sync_now();
}

// The sooner the images are cloned, the less is saved. So short turns (turn_bytes_max_) lie far apart meanwhile; if it lasts, replay
// may be at a quarter of its rate. But whoever waits for what is not applied yet (a promotion, a view) waits for one slice.
bool Applier::clone_some(uint64_t turn_ns) {
  const uint64_t end = monotonic_ns() + (history_->clones_soon() ? kCloneSoonNsMax : std::min(turn_ns * 3, kCloneNsMax));
  bool more;
  while ((more = history_->clone_slice()) && monotonic_ns() < end && waiting_.load() == 0 && !stands_aside() && !stopping_.load()) continue;
  return more;
}

bool Applier::sync_when_due(Turn last) {
  // In the middle of a step the watermark cannot move: the step is all or nothing.
  if (is_clean_ || phase_ == ReplicaPhase::kStepping || last == Turn::kFailed) return true;
  if (stands_aside()) return true;
  const bool wanted = last == Turn::kIdle && sync_wanted_.load(std::memory_order_relaxed);
  if (!wanted && unsynced_bytes_ < kSyncBytes && monotonic_ns() - unsynced_since_ns_ < sync_after_ns(last)) return true;
  return sync_now();
}

// Of an image that is slow to sync each sync is to cover much: what is written twice between two is synced once.
uint64_t Applier::sync_after_ns(Turn last) const {
  return last == Turn::kWorked ? std::clamp(sync_took_ns_ * kSyncShare, kSyncNs, kSyncNsMax) : kSyncNs;
}

bool Applier::sync_now() {
  if (is_clean_ || phase_ == ReplicaPhase::kStepping || is_closing_) return true;
  lock_ = gate_->turn();
  const bool good = sync(phase_);
  lock_.unlock();
  return good;
}

// Images to stable storage, then the watermark file, then the segments below it go. `phase`: what the file is to say.
// With the gate held, but not while the disk is waited for: nothing but this thread moves what is written here.
bool Applier::sync(ReplicaPhase phase) {
  Watermark mark = cursor_;
  mark.phase = phase == ReplicaPhase::kStaging ? ReplicaPhase::kCut : phase;
  mark.durable_offset = ledger_.durable_offset();
  mark.segment_index_next = log_.index_next();
  let_go();
  lock_.unlock();
  const uint64_t since = monotonic_ns();
  Status flushed = flush_images();
  sync_took_ns_ = monotonic_ns() - since;
  if (flushed.ok() && history_) flushed = history_->cover(mark.log_offset);
  const int error = flushed.ok() ? file_.store(mark) : 0;
  if (flushed.ok() && !error) log_.remove_below(mark.log_offset);
  if (flushed.ok() && !error && history_)
    history_->settled(mark, applied_time_ns_, may_begin_epoch(phase, mark.log_offset));
  lock_ = gate_->turn();
  is_sync_failing_ = !flushed.ok() || error;
  if (!flushed.ok()) replay_from_last_sync();
  if (!flushed.ok()) return fail(flushed), false;
  if (error) return fail(Status::failed(error, "write the watermark file")), false;
  progress_.well(Progress::Part::kImage);
  persisted_ = mark;
  is_clean_ = true;
  unsynced_bytes_ = 0;
  ledger_.forget_below(mark.log_offset);
  return true;
}

Status Applier::flush_images() {
  for (auto &image : images_) {
    state_.image_syncs.fetch_add(1, std::memory_order_relaxed);
    if (int error = image->flush()) return Status::failed(error, "flush the image of volume " + image->name());
  }
  return Status::good();
}

// What a failed flush covered may be gone: everything since the last good one is written once more.
void Applier::replay_from_last_sync() {
  redo_end_ = std::max(redo_end_, cursor_.log_offset);
  cursor_ = persisted_;
  phase_ = persisted_.phase;
  step_end_ = 0;
  is_closing_ = false;
  unsynced_bytes_ = 0;
  publish();
}

// Nobody waits for what is applied. So after a small turn the next one waits a little; a drain or stop ends the nap.
void Applier::nap() {
  if (cursor_.log_offset - napped_at_ >= kLittleBytes || sync_wanted_.load(std::memory_order_relaxed)) {
    napped_at_ = cursor_.log_offset;
    return;
  }
  napped_at_ = cursor_.log_offset;
  waker_.prepare(Waker::kNap);
  if (stopping_.load()) return waker_.cancel();
  pollfd wait{waker_.fd(), POLLIN, 0};
  const timespec limit{0, kNapNs};
  ppoll(&wait, 1, &limit, nullptr);
  waker_.woken();
}

void Applier::rest(Turn last) {
  const uint64_t now = monotonic_ns();
  uint64_t limit = now + kIdleNs;
  if (last == Turn::kFailed)
    limit = now + kRetryNs;
  else if (!is_clean_)
    limit = std::max(now, std::min(limit, unsynced_since_ns_ + kSyncNs));
  for (uint64_t at = now; at < limit; at = monotonic_ns()) {
    waker_.prepare();
    const bool asked = (sync_wanted_.load() && !is_clean_) || gives_up_cut_.load() || (history_ && history_->wants_room());
    const bool news = last == Turn::kIdle && (ledger_.epoch() != idle_epoch_ || asked);
    if (stopping_.load() || news) {
      waker_.cancel();
      return;
    }
    pollfd wait{waker_.fd(), POLLIN, 0};
    poll(&wait, 1, static_cast<int>((limit - at) / 1'000'000 + 1));
    waker_.woken();
  }
  if (is_clean_ && last == Turn::kIdle) log_.drop_spares();  // a volume that nobody writes takes no room for it
}

void Applier::stand_aside(bool is_aside) {
  aside_until_ns_.store(is_aside ? monotonic_ns() + kAsideNs : 0);
  waker_.wake();
}

void Applier::come_last() { comes_last_.store(true); }

bool Applier::stands_aside() {
  uint64_t until = aside_until_ns_.load(std::memory_order_relaxed);
  if (until == 0) return false;
  if (waiting_.load() == 0 && monotonic_ns() < until) return true;
  aside_until_ns_.compare_exchange_strong(until, 0);
  return false;
}

void Applier::rest_aside() {
  waker_.prepare(Waker::kNap);
  if (stopping_.load() || !stands_aside()) return waker_.cancel();
  pollfd wait{waker_.fd(), POLLIN, 0};
  poll(&wait, 1, kAsidePollMs);
  waker_.woken();
}

struct Applier::Waits {
  std::atomic<int> &count;
  explicit Waits(Applier &applier) : count(applier.waiting_) { count++; }
  ~Waits() { count--; }
};

Status Applier::drain(uint64_t deadline_ns) {
  const Waits waits(*this);
  sync_wanted_.store(true);
  waker_.wake();
  const bool done = gate_->wait(deadline_ns, [&] {
    waker_.wake();
    return is_clean_ && idle_epoch_ == ledger_.epoch() && !is_redoing();
  });
  sync_wanted_.store(false);
  return done ? Status::good() : late("drain");
}

Status Applier::apply_all(uint64_t deadline_ns) {
  const Waits waits(*this);
  const bool done = gate_->wait(deadline_ns, [&] {
    waker_.wake();
    const bool all = phase_ == ReplicaPhase::kCut && cursor_.log_offset >= ledger_.durable_offset();
    return (all || idle_epoch_ == ledger_.epoch()) && !is_redoing();
  });
  return done ? Status::good() : late("apply");
}

Status Applier::catch_up(uint64_t deadline_ns) {
  const Waits waits(*this);
  const uint64_t target = ledger_.durable_offset(), epoch = ledger_.epoch();
  waker_.wake();
  gate_->wait(deadline_ns, [&] {
    return cursor_.log_offset >= target || idle_epoch_ >= epoch || progress_.is_failing(Progress::Part::kImage);
  });
  {
    auto gate = gate_->visit();
    if (cursor_.log_offset >= target || idle_epoch_ >= epoch) return Status::good();
  }
  return late("catch up");
}

Status Applier::late(const std::string &action) {
  auto gate = gate_->visit();
  return Status::failed(ETIMEDOUT, action + ": the images stand at record " + std::to_string(cursor_.applied.sequence) +
                                       ", the log ends at " + std::to_string(ledger_.durable().sequence));
}

}  // namespace understudy::replay
