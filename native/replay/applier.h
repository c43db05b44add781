// Applier: the thread that brings the images to the log, record by record, in order.
//
//   phase        record            does
//   kFresh       kBegin            watermark file says kInitial, then -> kInitial
//   kCut         kBegin            -> kStaging, and stays before it
//   kStaging     give_up_cut()     watermark file says kInitial, then -> kInitial
//   kStaging     (kStep is there)  -> kStepping: applies all to the kStep, flush, watermark file, -> kCut
//   kInitial     kStep             flush, watermark file, -> kCut
//
// Whether a step is staged is decided here, where it is known what the images are, and not by the kBegin's flag: the
// master goes by the welcome, and the image may have become a cut since. Once a cut, always a cut, unless
// the operator gives it up because the step cannot be collected beside it.
//
// Crash cases: the images may be ahead of the watermark file in any mixture. Replaying from there ends in the same
// bytes (idempotent), and until it has reached the point where the log ended at the start (`redo`), no view is given:
// phase kStepping. The same is done when an image fdatasync fails: what it covered may be gone from memory and disk,
// so all since the last good one is written again.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/waker.h"
#include "replay/history.h"
#include "replay/ledger.h"
#include "replay/log-reader.h"
#include "replay/progress.h"
#include "replay/turn-gate.h"
#include "replay/volume-image.h"
#include "replay/watermark-file.h"

namespace understudy::replay {

struct ApplierParts {
  std::vector<std::shared_ptr<VolumeImage>> images;
  std::shared_ptr<TurnGate> gate;
  WatermarkFile file;
  std::shared_ptr<History> history;  // null: none is kept
};

class Applier {
 public:
  Applier(ApplierParts parts, SegmentLog &log, Receiver &receiver, Ledger &ledger, Progress &progress,
          ReplicaState &state, ReplicaListener &listener, Waker &waker)
      : images_(std::move(parts.images)), gate_(std::move(parts.gate)), file_(std::move(parts.file)),
        history_(std::move(parts.history)), log_(log),
        ledger_(ledger), progress_(progress), state_(state), listener_(listener), waker_(waker), reader_(log, receiver) {}
  ~Applier() { stop(); }
  // Where to go on; everything below redo_end may be in the images already.
  void start(const Watermark &from, uint64_t redo_end);
  // Joins the thread after a last flush and watermark, if nothing fails.
  void stop();

  // Waits until all that may be applied is applied and synced.
  Status drain(uint64_t deadline_ns);
  // Waits until all that may be applied is applied; not for a sync that is under way, if it was before that.
  Status apply_all(uint64_t deadline_ns);
  // Waits until all that is in the log now, and may be applied, is applied. An image that fails ends the wait.
  Status catch_up(uint64_t deadline_ns);
  // See Replica.
  void stand_aside(bool is_aside);
  // Readers do not wait for what is left, only writers: the thread gives way to others. For good.
  void come_last();
  // The step that is being collected goes straight into the images, which are no cut until its end. Any thread.
  void give_up_cut();
  std::shared_ptr<TurnGate> gate() const { return gate_; }
  WatermarkFile &file() { return file_; }  // before start()

  // With the gate held.
  ReplicaPhase phase() const { return phase_; }
  bool is_torn() const { return is_torn_; }  // a part of a record is in the images: no view before it is there whole
  bool is_redoing() const { return cursor_.log_offset < redo_end_; }
  // All that may be applied is, whole, and the watermark file says so.
  bool is_at_rest() const {
    return is_clean_ && !is_redoing() && !is_torn_ && phase_ != ReplicaPhase::kStepping && idle_epoch_ == ledger_.epoch();
  }
  uint64_t log_offset() const { return cursor_.log_offset; }
  Point applied_point() const { return {cursor_.applied, applied_time_ns_}; }

 private:
  enum class Turn : uint8_t { kWorked, kIdle, kFailed };
  static constexpr uint64_t kTurnBytesMax = 4u << 20, kShortTurnBytesMax = 512u << 10;
  static constexpr int kTurnRecordsMax = 1024;
  void run();
  Turn turn();
  Turn stage();
  Turn apply_some(const Ledger::Plan &plan, uint64_t end);
  Status save_ahead(const Ledger::Plan &plan, uint64_t end);
  bool may_begin_epoch(ReplicaPhase phase, uint64_t log_offset) const;
  void tend_history();
  bool clone_some(uint64_t turn_ns);
  bool stands_aside();
  Turn open_step(const wire::RecordHeader &header);
  Turn finish_step();
  int apply(const LogReader::Record &record);
  int apply_zero(const wire::RecordHeader &header);
  void verify(const LogReader::Record &record);
  void consume(const wire::RecordHeader &header, bool is_skipped);
  void let_go();
  bool sync(ReplicaPhase phase);
  bool sync_now();
  Status flush_images();
  void replay_from_last_sync();
  bool sync_when_due(Turn last);
  uint64_t sync_after_ns(Turn last) const;
  void nap();
  void rest(Turn last);
  void rest_aside();
  Status late(const std::string &action);
  void publish();
  Turn fail(const Status &status);

  std::vector<std::shared_ptr<VolumeImage>> images_;
  std::shared_ptr<TurnGate> gate_;
  WatermarkFile file_;
  std::shared_ptr<History> history_;
  SegmentLog &log_;
  Ledger &ledger_;
  Progress &progress_;
  ReplicaState &state_;
  ReplicaListener &listener_;
  Waker &waker_;
  LogReader reader_;

  // Applier thread; read by others with the gate held.
  Watermark cursor_;                           // where it stands; durable_offset and segment_index_next unused
  Watermark persisted_;                        // what the watermark file says
  ReplicaPhase phase_ = ReplicaPhase::kFresh;
  uint64_t applied_time_ns_ = 0;               // when the master made cursor_.applied; 0: before this start
  uint64_t redo_end_ = 0;
  bool is_torn_ = false;
  uint64_t idle_epoch_ = 0;                    // nothing to do as of this epoch of the ledger
  bool is_clean_ = true;                       // persisted_ says all of cursor_

  uint64_t saved_to_ = 0;                      // log offset: what these records overwrite is in the history
  uint64_t step_end_ = 0;                      // log offset; while kStepping
  bool is_closing_ = false;                    // a kStep has been consumed, and is not on stable storage yet
  bool is_sync_failing_ = false;               // the last sync() failed: only a good one ends the error
  uint64_t napped_at_ = 0;                     // log offset at the last nap()
  uint64_t applied_count_ = 0;                 // records since the last publish()
  std::unique_lock<std::mutex> lock_;          // the gate, while the applier has it
  uint64_t unsynced_bytes_ = 0;
  uint64_t unsynced_since_ns_ = 0;             // monotonic
  uint64_t sync_took_ns_ = 0;                  // of the images, the last time
  uint64_t turn_bytes_max_ = kTurnBytesMax;    // of this turn
  struct Waits;
  std::atomic<int> waiting_{0};                // who waits for what is not applied yet
  std::atomic<uint64_t> aside_until_ns_{0};    // monotonic; 0: it does not stand aside
  std::atomic<bool> comes_last_{false};
  std::atomic<bool> sync_wanted_{false};
  std::atomic<bool> gives_up_cut_{false};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace understudy::replay
