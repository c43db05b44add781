// Ledger: what the durable log means. It is told every durable record in order (by the logger, or by recovery, which
// makes the two agree) and answers what the applier may do with the record at a log offset.
//
//   record's incarnation is the newest:   sequence <= committed: apply          else: wait
//   a kBegin of another one follows it:   sequence <= what was committed by then: apply   else: discard, its outcome
//                                         is unknown and was never acknowledged as complete
//   a kVoid names it:                     skip
//
// Only durable records count, also as carriers of `committed`: otherwise a crash could forget that a record may be
// applied whose bytes are half in the image already.
// Thread-safe; the logger (or recovery) writes, the applier and the hasher ask.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "replay/commit-tracker.h"
#include "replay/pending-records.h"
#include "replay/staged-map.h"
#include "replay/watermark-file.h"
#include "wire/record.h"

namespace understudy::replay {

class Ledger {
 public:
  Ledger(const std::vector<uint64_t> &volume_bytes, ReplicaState &state) : staged_(volume_bytes), state_(state) {}

  // Recovery: the state at the watermark, before the first note().
  void restart(const Watermark &from);
  // `bytes` of whole records, at log offset `offset`, are durable.
  void note(const uint8_t *records, size_t bytes, uint64_t offset);
  // From now on uncommitted records may be applied too (promote).
  void seal();

  struct Plan {
    uint64_t epoch;            // changes with whatever could change an answer
    uint64_t end;              // log offset up to which this plan speaks
    uint64_t committed;        // records up to this sequence may be applied
    bool discard_uncommitted;  // those above it: discard, else wait
    bool has_voids;
  };
  Plan plan(uint64_t offset) const;
  bool is_void(wire::Position position) const;

  // The open step whose kBegin lies at `begin_offset`: the log offset after its kStep, if that is there and may be applied.
  std::optional<uint64_t> closing(uint64_t begin_offset) const;

  struct LastBegin {
    uint64_t offset = 0;
    wire::Position position;
    uint64_t staged_offset = 0;  // where the step it belongs to was opened
  };
  LastBegin last_begin() const;
  // Of the open step: what it has in the log; nullopt: none is open.
  std::optional<uint64_t> open_step_bytes() const;
  bool staged(uint32_t volume, uint64_t region) const;

  // The watermark file is past `offset`: nobody will ask about anything before it again.
  void forget_below(uint64_t offset);
  // The images have everything before `offset`, so far.
  void applied_below(uint64_t offset);
  // The records from there on; nullopt: not all are remembered.
  std::optional<std::vector<RecordEntry>> pending(uint64_t offset) const;

  uint64_t epoch() const { return epoch_.load(std::memory_order_acquire); }
  uint64_t durable_offset() const;
  wire::Position durable() const;      // the last durable sequenced record
  wire::Mark durable_mark() const;
  CommitTracker commits() const;

 private:
  struct Fork {             // a kBegin of another incarnation
    uint64_t offset;        // of the kBegin
    uint64_t committed;     // of the incarnation before it, for good
  };
  struct StepEnd {          // a kStep
    uint64_t offset, end, sequence;
  };
  struct Limit {
    uint64_t committed, end;
    bool fixed;
  };
  Limit limit_at(uint64_t offset) const;
  void note_one(const wire::RecordHeader &header, uint64_t offset);
  void note_begin(const wire::RecordHeader &header, uint64_t offset);

  mutable std::mutex mutex_;  // of all below
  StagedMap staged_;
  ReplicaState &state_;
  uint64_t durable_offset_ = 0;
  wire::Position durable_;
  wire::Mark durable_mark_;
  CommitTracker commits_;
  PendingRecords pending_;
  std::deque<Fork> forks_;
  std::deque<StepEnd> step_ends_;
  std::map<std::pair<uint64_t, uint64_t>, uint64_t> voids_;  // (incarnation, sequence) -> offset of the marker
  LastBegin last_begin_;
  enum class Step : uint8_t { kClosed, kOpen, kClosing } step_ = Step::kClosed;
  uint64_t step_sequence_ = 0;  // of the kStep, while kClosing
  bool sealed_ = false;
  std::atomic<uint64_t> epoch_{1};
};

}  // namespace understudy::replay
