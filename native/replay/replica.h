// Replica: the standby's half of one group: takes the record stream, keeps it in segments, brings the images to it.
//
//   link thread            logger thread                  applier thread
//   receive() -> ring  ->  segment append, fdatasync  ->  image write (records up to min(durable, committed))
//   [received]             [durable]                      [applied], watermark file, old segments removed
//
// Guarantees G2 for what a frozen view shows, G4/G8 for what it has acknowledged: a crash at any point restarts from
// the watermark file and replays the segments. Steps (kBegin .. kStep) are applied as one; the segments are their redo
// log. Does not: speak QUIC, decide who may replicate here, or answer NBD.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/status.h"
#include "engine/device.h"
#include "replay/record-room.h"
#include "wire/control.h"
#include "wire/record.h"

namespace understudy::replay {

// A place in a history, and when it was (the master's wall clock, nanoseconds since 1970; 0: not known).
struct Point {
  wire::Position position;
  uint64_t time_ns = 0;
};

// What is asked for: a position, or the newest record that is not younger than a time; neither: the newest of all.
struct Moment {
  std::optional<wire::Position> position;
  std::optional<uint64_t> time_ns;
  bool is_newest() const { return !position && !time_ns; }
};

struct ReplicaVolume {
  std::string name;
  std::string image_path;     // image.raw in the store, or a block device (--device)
  uint64_t size_bytes = 0;    //
  bool create = false;        // make image_path as a sparse file; otherwise it must be there with this size
};

struct HistoryOptions {  // neither: none is kept, at no cost
  uint64_t age_ns_max = 0;  // what is older goes, in whole epochs
  uint64_t bytes_max = 0;   // all files of it together; beyond it the oldest epochs go
  uint64_t epoch_bytes = 512u << 20;  // of log, or of what was overwritten: then an epoch ends
  uint64_t pack_rest_ns = 3'000'000'000;  // hardly anything is applied for so long: then idle segments are compressed
  bool is_held = false;                   // from the start on: Replica::hold_history()
  bool is_kept() const { return age_ns_max || bytes_max; }
};

struct HistorySummary {
  Point oldest, newest;  // moments between them can be shown
  uint64_t bytes = 0;    // of all its files
  uint64_t saved_bytes = 0, epochs = 0, segments = 0;
  uint64_t compressed_segments = 0, compressed_bytes = 0, uncompressed_bytes = 0;  // those take, and hold
};

struct HistoryTimeline {
  std::vector<uint64_t> written_bytes;  // by bucket of equal time
  std::vector<Point> flushes;           // at most 1000, the newest among them
};

struct ReplicaOptions {
  std::string directory;  // segments/ and watermark live here; made when missing
  std::vector<ReplicaVolume> volumes;
  size_t ring_bytes = 64u << 20;          // received but not yet in a segment, and a quarter for what is logged, not applied
  uint64_t segment_bytes = 64u << 20;     // a segment is closed at about this size
  uint64_t log_bytes_max = 0;             // all segments together; 0: as the file system allows. Beyond it: no more acks
  uint64_t staging_bytes_max = 0;         // of a step that is being collected; 0: as the log allows. Beyond it: no more acks
  HistoryOptions history;
};

enum class ReplicaPhase : uint64_t {
  kFresh = 0,    // nothing was ever received: images read as zeroes where they were made by us
  kInitial = 1,  // initial synchronisation has begun and its step is not applied: unusable
  kCut = 2,      // the images are a cut and follow the master
  kStaging = 3,  // the images are the last cut; a step is being collected
  kStepping = 4, // a complete step is being applied; a view must wait for it
};

// Everything a replica tells, written by its threads, read by anyone.
struct ReplicaState {
  std::atomic<uint64_t> incarnation{0};
  std::atomic<uint64_t> received_sequence{0}, received_bytes{0}, durable_sequence{0}, durable_bytes{0};
  std::atomic<uint64_t> committed_sequence{0}, committed_bytes{0}, applied_sequence{0}, applied_bytes{0};
  std::atomic<uint64_t> phase{0};  // ReplicaPhase
  std::atomic<uint64_t> segments{0}, segment_bytes{0}, segment_syncs{0}, image_syncs{0}, staged_bytes{0};
  std::atomic<uint64_t> records_received{0}, records_applied{0};
  std::atomic<uint64_t> verify_equal{0}, verify_different{0};
  std::atomic<uint64_t> last_heard_ns{0};       // wall clock of the last byte from the master
  std::atomic<uint64_t> staging_bytes_max{0};      // as it is in force
  std::atomic<uint64_t> staging_full{0};           // 1: the step that is being collected has reached it
  std::atomic<uint64_t> errors{0}, last_errno{0};  // of segments and images; while last_errno != 0 nothing is acked
  // The newest record with kWantReceived, kWantDurable: a reply at the master waits for it.
  std::atomic<uint64_t> received_wanted_sequence{0}, durable_wanted_sequence{0};
};

// Answers for the master, produced by the replica's threads; the link sends them. Any thread.
class ReplicaListener {
 public:
  virtual ~ReplicaListener() = default;
  virtual void progressed() = 0;  // a watermark moved or ring space came free: wake the link thread
  virtual void hashed(const wire::HashReplyBody &reply, std::vector<wire::HashEntry> entries) = 0;
  virtual void told(const wire::DataReplyBody &reply, const std::vector<uint8_t> &bytes) = 0;
  virtual void verified(const wire::VerifyResultBody &result) = 0;
  virtual void failed(const std::string &message) = 0;  // an I/O error, for the log
};

class Replica : public RecordRoom {
 public:
  // Opens or makes the directory, checks and replays what is there (returns when the chain is known; applying goes on
  // in the background). The listener must outlive the replica.
  static Result<std::unique_ptr<Replica>> open(const ReplicaOptions &options, ReplicaListener &listener);
  ~Replica() override = default;  // stops at once; nothing acknowledged is lost

  virtual const ReplicaState &state() const = 0;

  // Link thread. A new session starts on a record boundary: what was half received is dropped. Returns where the
  // history stands: the last complete record in memory or log.
  virtual wire::Position start_session() = 0;
  // Copies all of `bytes` into the ring (the window guarantees that they fit: 3/4 of ring_bytes >= record window + one
  // record) and checks each record that is complete. An error is a protocol violation: the session must be reset.
  // place() and placed() are the same for who writes to the ring itself, and knows what to do when it has no room.
  virtual Status receive(std::span<const uint8_t> bytes) = 0;
  // Bytes that have left the ring since the last call: credit for the peer.
  virtual size_t take_consumed() = 0;
  virtual wire::WatermarksBody watermarks() const = 0;
  // Answered through hashed(), from a worker, in order.
  virtual Status hash(const wire::HashRequestBody &request) = 0;
  // Through told(), in pieces, in the same order: what the image holds there.
  virtual Status tell(const wire::HashRequestBody &request) = 0;

  // A step that cannot be collected beside the cut goes straight into the images, which are unusable until its end.
  // EALREADY: none is being collected.
  virtual Status give_up_cut() = 0;
  // From now on; any thread. 0: no maximum.
  virtual void set_staging_max(uint64_t bytes) = 0;

  // A promotion is near, and needs the processors and the disk first: for a second nothing is applied or synced but what somebody
  // waits for (drain(), catch_up()); or until it is told that none is. Any thread.
  virtual void stand_aside(bool is_aside) = 0;

  // Waits until everything durable and committed is applied and synced (SIGTERM), or the time is over: ETIMEDOUT.
  virtual Status drain(uint64_t timeout_ns) = 0;
  // Applies everything durable, committed or not, but no open step, and takes no more records (promote). The images are
  // read as they are to be then, and files can be opened by whoever goes on with them; that they are synced is drain()'s.
  // With `fork`, that they are applied is drain()'s too, where the images can be read together with what they have not yet
  // (over_unapplied()): *fork is where they will stand. It stays empty when all is applied.
  virtual Status seal(uint64_t timeout_ns, std::optional<wire::Position> *fork = nullptr) = 0;
  // An image, opened by who goes on with it, after seal(): shown with what it has not yet. It may outlive the replica.
  virtual std::unique_ptr<Device> over_unapplied(std::unique_ptr<Device> image, size_t volume) = 0;

  // Waits until what is in the log or the ring now is applied, as far as it may be: records of an open step stay where
  // they are. So a view() after it is at least as new as every acknowledgement given before the call. ETIMEDOUT.
  virtual Status catch_up(uint64_t timeout_ns) = 0;

  // A view of a volume, frozen at the applied position; the applier keeps what it is about to overwrite in a
  // scratch file for as long as the view lives (copy before write). writable: a throw-away overlay on top of it.
  // EAGAIN while a step is being applied (phase kStepping), ENODATA while unusable (kFresh, kInitial).
  struct View {
    std::unique_ptr<Device> device;
    wire::Position position;
  };
  virtual Result<View> view(size_t volume, bool writable) = 0;
  // Views of several volumes, all at one moment: the newest, or one of the history (ERANGE: the history has none such;
  // the text says what it has). Which it is, `point` says: a moment within a step, or between two records, is the newest
  // cut at or before it. With a history, moments before the present are there in every phase.
  struct Views {
    std::vector<std::unique_ptr<Device>> devices;
    Point point;
  };
  // nullopt: none is kept, or it has not begun.
  virtual std::optional<HistorySummary> history() const = 0;
  // Of the records made in [from_ns, to_ns), by the master's clock. ENODATA: there is no history.
  virtual Result<HistoryTimeline> timeline(uint64_t from_ns, uint64_t to_ns, size_t buckets) const = 0;
  virtual Result<Views> views(const std::vector<size_t> &volumes, const Moment &moment, bool writable) = 0;
  // What view() shows, as a file: a reflink of the image with `tail` behind it (image-file.h). Which moment it is. EEXIST:
  // there is something at `path`; EOPNOTSUPP, EXDEV, EINVAL: no reflink from the image to there.
  virtual Result<Point> clone(size_t volume, const std::string &path, std::span<const uint8_t> tail) = 0;

  // Which point that is, of all volumes, and that everything is there to show it. As views().
  struct Found {
    Point point;
    bool is_within_step;  // asked for was one in the middle of a step; the point is the cut before it
  };
  virtual Result<Found> find(const Moment &moment) = 0;
  // While it is held nothing goes from the history, and no epoch ends, whatever its limits are and whatever has no room: then
  // nothing more is applied. Only what a disk has lost is not there any more. Any thread.
  virtual void hold_history(bool is_held) = 0;
  // After seal() and drain(), with a held history: the images become what they were at exactly this position, a part with each
  // call (rollback.h). From the first call on they are nothing else until it is done. EBUSY: not everything is applied; any
  // error: the next call begins at the start. One caller.
  struct RolledBack {
    uint64_t done_bytes, total_bytes;
    bool is_done;  // and on stable storage
  };
  virtual Result<RolledBack> roll_back(const wire::Position &to, uint64_t bytes_max) = 0;
};

}  // namespace understudy::replay
