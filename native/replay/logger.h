// Logger: the thread that takes received records from the ring to stable storage. One append and one fdatasync a turn,
// for all that has come in meanwhile (group commit). While it fails nothing is acknowledged, the records stay in the
// ring, and it tries again by itself. The same when a step that is being collected has reached its maximum: what is
// collected stays, and it goes on when the maximum is raised (or the cut is given up: Applier::give_up_cut).
#pragma once
#include <atomic>
#include <thread>

#include "core/waker.h"
#include "replay/ledger.h"
#include "replay/receiver.h"
#include "replay/segment-log.h"

namespace understudy::replay {

class Logger {
 public:
  Logger(Receiver &receiver, SegmentLog &log, Ledger &ledger, Progress &progress, ReplicaListener &listener,
         Waker &waker, Waker &applier_waker, ReplicaState &state)
      : receiver_(receiver), log_(log), ledger_(ledger), progress_(progress), listener_(listener), waker_(waker),
        applier_waker_(applier_waker), state_(state) {}
  ~Logger() { stop(); }
  void start();
  void stop();
  // All that was received is in the log. Any thread.
  bool has_caught_up() const { return logged_.load(std::memory_order_acquire) == receiver_.received_offset(); }

 private:
  void run();
  void turn(uint64_t received);
  size_t batch_bytes(uint64_t from, uint64_t received) const;
  size_t fitting_bytes(uint64_t from, size_t bytes) const;
  void staging_is_full();
  void sleep(uint64_t limit_ns, bool until_records);
  void nap();

  Receiver &receiver_;
  SegmentLog &log_;
  Ledger &ledger_;
  Progress &progress_;
  ReplicaListener &listener_;
  Waker &waker_;
  Waker &applier_waker_;
  ReplicaState &state_;
  std::atomic<uint64_t> logged_{0};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace understudy::replay
