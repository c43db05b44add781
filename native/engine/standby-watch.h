// StandbyWatch: from the standby's watermarks and the time: is it away, are clients still to wait for it, does it lag
// too far behind. Decides nothing else and does nothing: the group acts on it. Engine thread; time comes in.
//
//   away    it owes something, and for the peer timeout no progress was seen. Progress is: something became durable or
//           was applied; or, while it has made durable all it received, more arrived there (a record of 32 MiB takes
//           its time on a slow link). A standby whose disk is full goes on receiving: that is none. Away ends when
//           something becomes durable or is applied, or it owes nothing.
//   behind  it has come back to a log that goes through the file, or the log has gone through the file for the peer
//           timeout: what is asked for now arrives after all that is there, and nobody waits so long (but for the policy
//           `block`). Ends when the file is empty.
//   blocks  under the policy `block`: always, or for `block_ns` from the moment the pair was no longer in sync, with
//           what follows (a resynchronisation) included, until it has been in sync again.
//   lags    more than `lag_bytes_max` are written and not durable there, or the oldest such write is older than
//           `lag_ns_max`. Judged only once the pair has been in sync within the limits: what a resynchronisation
//           leaves to be made durable is no lag. Not judged while the standby is away: that is the other policy's case.
#pragma once
#include <algorithm>
#include <cstdint>
#include <deque>
#include <utility>

namespace understudy::engine {

struct StandbyPolicy {
  uint64_t peer_timeout_ns = 5'000'000'000;
  bool block = false;          // without the standby clients wait
  uint64_t block_ns = 0;       // but not longer than this; 0: for ever
  uint64_t lag_bytes_max = 0;  // 0: no limit
  uint64_t lag_ns_max = 0;     // 0: no limit
  bool lag_detaches = false;   // beyond the limit the log is given up; else clients wait
};

class StandbyWatch {
 public:
  struct Sight {
    uint64_t now_ns;
    bool streaming;  // there is a log
    bool step_open;
    bool spilled;            // a part of it is in the log file
    uint64_t logged;         // sequence of the last record in the log
    uint64_t written_bytes;  // of clients' writes
    uint64_t received, durable, applied;  // the standby's watermarks,
    uint64_t durable_bytes;               // and what of written_bytes is durable there
    uint64_t acked_position;              // of the log: what arrived at the standby
  };
  enum class News : uint8_t { kNone, kAway, kBack };

  explicit StandbyWatch(const StandbyPolicy &policy) : policy_(policy) {}

  News look(const Sight &sight) {
    now_ns_ = sight.now_ns;
    const bool was_away = away_;
    if (sight.streaming) watch_progress(sight);
    else outstanding_ = false;
    watch_file(sight.spilled);
    const bool in_sync = sight.streaming && !sight.step_open && !away_ && !behind_;
    if (in_sync) lost_ = false;
    else if (!std::exchange(lost_, true)) lost_since_ns_ = now_ns_;
    watch_lag(sight, in_sync);
    return away_ == was_away ? News::kNone : away_ ? News::kAway : News::kBack;
  }

  // A session begins: the standby has its whole timeout.
  void attached(uint64_t now_ns) {
    away_ = false;
    progress_ns_ = settled_ns_ = now_ns;
  }
  // A reply begins to wait, and nothing waited before.
  void owes_from(uint64_t now_ns) {
    if (!outstanding_) progress_ns_ = settled_ns_ = now_ns;
    outstanding_ = true;
  }

  bool away() const { return away_; }
  bool behind() const { return behind_; }
  bool outstanding() const { return outstanding_; }
  bool blocks() const {
    return policy_.block && !(policy_.block_ns && lost_ && now_ns_ - lost_since_ns_ >= policy_.block_ns);
  }
  // With so many bytes of clients' writes by now.
  bool lags(uint64_t written_bytes) const {
    if (!judges_lag_ || away_ || behind_) return false;
    return over_bytes(written_bytes) || over_time();
  }
  bool has_lag_limit() const { return policy_.lag_bytes_max || policy_.lag_ns_max; }

 private:
  static constexpr size_t kSamples = 16;  // within lag_ns_max: the error of the age

  struct Sample {
    uint64_t sequence, ns;
  };

  void watch_progress(const Sight &sight) {
    const bool settles = sight.durable != durable_ || sight.applied != applied_;
    const bool arrives = sight.received != received_ || sight.acked_position != acked_;
    durable_ = sight.durable, applied_ = sight.applied, received_ = sight.received, acked_ = sight.acked_position;
    const bool owes = sight.durable < sight.logged;
    if (settles || arrives || !owes || !outstanding_) progress_ns_ = now_ns_;
    if (settles || !owes || !outstanding_ || sight.received <= sight.durable) settled_ns_ = now_ns_;
    if (settles || !owes) away_ = false;
    outstanding_ = owes;
    if (owes && now_ns_ - std::min(progress_ns_, settled_ns_) >= policy_.peer_timeout_ns) away_ = true;
  }

  void watch_file(bool spilled) {
    if (!std::exchange(spilled_, spilled)) spilled_since_ns_ = now_ns_;
    behind_ = spilled && (behind_ || away_ || now_ns_ - spilled_since_ns_ >= policy_.peer_timeout_ns);
  }

  void watch_lag(const Sight &sight, bool in_sync) {
    if (!has_lag_limit()) return;
    durable_bytes_ = sight.durable_bytes;
    if (!in_sync) {
      judges_lag_ = judges_lag_ && sight.streaming && !sight.step_open;
      if (!sight.streaming) samples_.clear();
      return;
    }
    while (!samples_.empty() && samples_.front().sequence <= sight.durable) samples_.pop_front();
    const uint64_t newest = samples_.empty() ? sight.durable : samples_.back().sequence;
    const bool due = samples_.empty() || now_ns_ - samples_.back().ns >= policy_.lag_ns_max / kSamples;
    if (due && sight.logged > newest && samples_.size() < 2 * kSamples) samples_.push_back({sight.logged, now_ns_});
    if (!judges_lag_) judges_lag_ = !over_bytes(sight.written_bytes) && !over_time();
  }

  bool over_bytes(uint64_t written_bytes) const {
    return policy_.lag_bytes_max && written_bytes > durable_bytes_ + policy_.lag_bytes_max;
  }
  bool over_time() const {
    return policy_.lag_ns_max && !samples_.empty() && now_ns_ - samples_.front().ns > policy_.lag_ns_max;
  }

  const StandbyPolicy policy_;
  uint64_t now_ns_ = 0;
  bool away_ = false;
  bool spilled_ = false, behind_ = false;
  uint64_t spilled_since_ns_ = 0;
  bool outstanding_ = false;   // it owes something
  uint64_t progress_ns_ = 0;   // when anything moved, or it first owed something
  uint64_t settled_ns_ = 0;    // when something settled, or there was nothing received that had not
  uint64_t received_ = 0, durable_ = 0, applied_ = 0, acked_ = 0;
  bool lost_ = false;          // not in sync
  uint64_t lost_since_ns_ = 0;
  bool judges_lag_ = false;
  uint64_t durable_bytes_ = 0;
  std::deque<Sample> samples_;  // what had been logged at which time, and is not durable yet
};

}  // namespace understudy::engine
