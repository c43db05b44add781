// What the applier does for the history, if one is kept.
#include "core/check.h"
#include "replay/applier.h"

namespace understudy::replay {

using wire::RecordType;

// Before a turn: what the records that it may apply are about to overwrite gets to stable storage. One pass over the same
// records, by the same plan, so that a turn waits for the disk once. More than is applied then (voids) does no harm: what
// is saved is what was there when the epoch began. With the gate held, but not while the disk is waited for.
Status Applier::save_ahead(const Ledger::Plan &plan, uint64_t end) {
  if (!history_->saves_blocks()) {
    saved_to_ = end;
    return history_->save(images_, {});
  }
  std::vector<History::Change> changes;
  const uint64_t first = cursor_.log_offset;
  uint64_t at = first;
  reader_.hold(at);
  for (int count = 0; count < kTurnRecordsMax && at < end && at - first < turn_bytes_max_; count++) {
    LogReader::Record record;
    if (Status status = reader_.read(at, end, &record); !status.ok()) {
      let_go();
      return status;
    }
    const wire::RecordHeader &header = record.header;
    const bool committed = !wire::is_sequenced(header.type) || header.sequence <= plan.committed;
    if (!committed && !plan.discard_uncommitted) break;
    const bool zeroes = header.type == RecordType::kZero || header.type == RecordType::kTrim;
    if (committed && (zeroes || header.type == RecordType::kWrite || header.type == RecordType::kSync))
      changes.push_back({header.volume_index, zeroes, header.offset, header.length});
    at += record_bytes(header);
    if (committed && header.type == RecordType::kBegin && phase_ != ReplicaPhase::kInitial && !step_end_) break;
  }
  let_go();
  // The next turn looks at the record at `at` too, and leaves it: unless it may be applied, by the same plan.
  saved_to_ = std::max(at, first + 1);
  if (changes.empty()) return history_->save(images_, {});
  lock_.unlock();
  Status saved = history_->save(images_, changes);
  lock_ = gate_->turn();
  return saved;
}

// An epoch may begin where the images are a cut, and hold nothing of what is behind it.
bool Applier::may_begin_epoch(ReplicaPhase phase, uint64_t log_offset) const {
  return (phase == ReplicaPhase::kCut || phase == ReplicaPhase::kStaging) && log_offset >= redo_end_ && !is_torn_;
}

// Between two turns, when nothing is to be synced: it may begin, or what is too old may go.
void Applier::tend_history() {
  if (!history_) return;
  if (history_->wants_room()) history_->make_room();
  if (is_clean_ && !is_closing_ && phase_ != ReplicaPhase::kStepping)
    history_->settled(persisted_, applied_time_ns_, may_begin_epoch(phase_, persisted_.log_offset));
}

}  // namespace understudy::replay
