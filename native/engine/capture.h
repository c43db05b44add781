// Capture: gives each write of the group its sequence and its place: the replication log or the dirty map.
//
//   alone      no standby configured: counted, marked dirty
//   detached   marked dirty
//   streaming  logged (in memory, or through a file: spilling.h); with a step open, what is dirty and not read yet
//              stays dirty instead
//
// Engine thread only. A record is made when the device has answered, so its outcome is known before it is published:
// `committed` is always the newest sequence, and a refused write never reaches the log (it only dirties its range).
// That is legal: a write that was submitted after another one completed is numbered after it (G2).
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/event.h"
#include "engine/peer.h"
#include "engine/spilling.h"
#include "engine/volume.h"

namespace understudy::engine {

enum class CaptureState : uint64_t { kAlone = 0, kDetached = 1, kStreaming = 2 };
inline constexpr uint64_t kStateResync = 3;  // what the counters show while a step is open

struct AttachRequest {
  uint64_t session = 0;
  wire::Position peer;  // the last record the standby has
  bool fresh = false, initial = false, all_dirty = false;
  bool give_back = false;  // the standby has what this side may have lost
};

class Capture {
 public:
  struct Options {
    uint64_t incarnation = 0;
    size_t log_bytes = 0;
    bool replicated = false;
    std::shared_ptr<log::SpillFile> log_file;  // null: the log is in memory only
  };
  Capture(const Options &options, std::vector<std::unique_ptr<Volume>> &volumes, CounterPage page, EventSink events);

  CaptureState state() const { return state_; }
  bool step_open() const { return step_open_; }
  uint64_t incarnation() const { return options_.incarnation; }
  uint64_t last_sequence() const { return sequence_; }
  uint64_t begin_sequence() const { return begin_sequence_; }  // of the step that is open, or was last
  uint64_t last_logged() const { return logged_; }
  uint64_t written_bytes() const { return written_bytes_; }
  const std::shared_ptr<log::ReplicationLog> &log() const { return log_; }
  Spilling *spilling() { return spilling_.get(); }  // null: no log file
  bool spilled() const { return spilling_ && spilling_->active(); }

  // Whether the records of an operation on [start, end) find room, `payload` bytes of it with data. Always, unless
  // streaming. Hold and unhold reserve that room while the operation is on a worker.
  bool room(const Volume &volume, uint64_t start, uint64_t end, bool payload) const;
  // For records of our own making: they do not go through the log file, but wait.
  bool spare_room(uint64_t bytes) const { return !spilled() && log_->room(bytes); }
  uint64_t log_bytes_needed(const Volume &volume, uint64_t start, uint64_t end, bool payload) const;

  // wants: RecordFlags that say what a reply waits for. Of a write not what is held.
  void record(Volume &volume, wire::RecordType type, uint64_t start, uint64_t end, const uint8_t *payload, uint8_t wants);
  void record_flush(Volume &volume, uint8_t wants);
  // Before a range becomes dirty: in the middle of a step the standby may be asked for its hash before the records of
  // this step that are on the way have arrived, so what is there is sent whatever it answers.
  //   1. the step begins  2. a write there is logged  3. the device refuses another: dirty  4. the standby, which has
  //   not received 2 yet, has what the device has  5. nothing would be sent, and 2 becomes visible
  void dirty_again(Volume &volume, uint64_t start, uint64_t end);
  // The device failed an operation: its range may differ from the standby's.
  void refused(Volume &volume, uint64_t start, uint64_t end);

  // A write is about to touch a watched range.
  void watched_write(Volume &volume, uint64_t start, uint64_t end);
  // What the filter was made from does not hold any more: opens a step before the next record, so that no cut shows the new
  // partition table, or name of a file, without the contents that belong to it; whoever reads it is told.
  void doubt(Volume &volume);

  // Made by a resynchronisation or a verify; they pass the dirty map by.
  void record_sync(Volume &volume, uint64_t start, uint64_t end, const uint8_t *data);
  void record_zeroes(Volume &volume, uint64_t start, uint64_t end);
  // The standby must have zeroes where the filter leaves something out, whatever it has now: a record says so, or, while the
  // log has no room to spare, the resynchronisation when it comes by: the range is dirty then.
  void record_left_out(Volume &volume, uint64_t start, uint64_t end);
  void record_verify(Volume &volume, uint64_t start, uint64_t end, const wire::VerifyPayload &payload);

  void open_step(bool initial);
  void close_step();

  // Resumes within the log, or starts over with a step; says which and from which position of the log the session
  // must send.
  struct Attached {
    bool resumed;
    uint64_t log_position;
  };
  Result<Attached> attach(const AttachRequest &request);
  // Gives the log up for the dirty map: all that is logged beyond `durable` becomes dirty.
  void detach(const char *reason, uint64_t durable);
  void mark_unacknowledged(uint64_t durable);

  // End of a turn: what was recorded becomes visible to link and counters.
  enum class News : uint8_t { kNone, kSome, kUrgent };  // for the link; urgent: a reply waits for the standby
  News publish();
  void publish_volumes();  // their dirty bytes
  bool any_dirty() const;
  uint64_t dirty_bytes() const;

 private:
  void record_part(Volume &volume, wire::RecordType type, uint64_t start, uint64_t end, const uint8_t *payload, uint8_t wants);
  void count_left_out(Volume &volume, uint64_t start, uint64_t end, uint64_t bytes);
  void give_up_log(uint64_t durable);
  void forget_resent();
  bool find_resume_position(uint64_t received, uint64_t *position) const;
  void append(Volume &volume, wire::RecordType type, uint8_t flags, uint64_t start, uint64_t length,
              const void *payload, uint32_t payload_bytes);
  void capture_part(Volume &volume, wire::RecordType type, uint64_t start, uint64_t end, const uint8_t *payload,
                    uint8_t wants);

  const Options options_;
  std::vector<std::unique_ptr<Volume>> &volumes_;
  CounterPage page_;
  EventSink events_;
  CaptureState state_;
  bool step_open_ = false;
  uint64_t begin_sequence_ = 0;
  uint64_t sequence_ = 0;       // of the last captured record
  uint64_t logged_ = 0;         // of the last record that went to the log: the next one's predecessor
  uint64_t written_bytes_ = 0;
  bool urgent_ = false;         // since the last publish() something was logged that a reply waits for
  std::shared_ptr<log::ReplicationLog> log_;
  std::unique_ptr<Spilling> spilling_;
};

}  // namespace understudy::engine
