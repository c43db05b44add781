// Spilling: the replication log beyond its memory. When a record finds no room in the ring it goes to a file, and while
// anything is there, everything that follows goes there too: the order of the log is one.
//
//   log position:   tail ........ head of the ring | ........... written | .......... head
//                   in memory: the link's          | in the file         | in the buffer
//                                       <-- refilled, checked            <-- written
//
// The file is written and read by a thread of its own, one job at a time; the reader puts what it has checked straight
// behind the head of the ring. A short overflow never reaches the file: it is taken back from the buffer.
//
// What cannot be kept (the file refuses, or gives back something else than was written: G8) is told to `lost`, and the
// group falls back to the dirty map: the ranges of everything that passed through here are remembered in memory, so
// nothing has to be read for that. The file is tried again every few seconds. It is not read after a crash: a mark stays
// on disk until the standby has what was written (marks.h), wherever the record lies.
//
// Bounded: the file's maximum, the buffer, one bit for 64 KiB of the volumes (only while something is spilled).
// Engine thread only, but for the jobs.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/event.h"
#include "core/work-pool.h"
#include "engine/volume.h"
#include "log/replication-log.h"
#include "log/spill-file.h"

namespace understudy::engine {

class Spilling {
 public:
  struct Host {
    std::function<void(std::function<void()>)> post;  // run on the engine thread; any thread
    std::function<void()> lost;                       // what is spilled cannot be kept: detach
    EventSink events;
  };
  static constexpr size_t kBufferBytes = 48u << 20;  // the largest record, and something to breathe

  Spilling(std::shared_ptr<log::SpillFile> file, std::vector<std::unique_ptr<Volume>> &volumes, CounterPage page,
           size_t buffer_bytes = kBufferBytes);
  void bind(Host host);

  // A log begins, with nothing spilled; or it is given up, with all that is spilled.
  void begin(std::shared_ptr<log::ReplicationLog> log);
  void end();

  bool active() const { return spilled_bytes_ != 0; }
  bool room(uint64_t bytes) const;
  // Its disk has to answer before it can be said whether there is room (also when it has answered, and the next job is
  // begun at the end of this turn); since when.
  bool busy() const { return state_ != State::kBroken && (busy_ || writes()); }
  uint64_t busy_since_ns(uint64_t now_ns) const { return busy_ ? busy_since_ns_ : now_ns; }
  // There must be room().
  void append(wire::RecordHeader &header, const void *payload);
  // The sequence of the last record that has reached the ring; only while active().
  uint64_t ring_sequence() const { return chain_.last.sequence; }
  // Every range that may be in here (some may have left) becomes dirty.
  void mark_dirty() const;

  void turn(uint64_t now_ns, bool stopping);
  // Its disk does not answer.
  void give_up() { fail(ETIMEDOUT, "wait"); }
  bool working() const { return busy_; }  // a job is on the thread
  int wait_limit_ms(uint64_t now_ns) const;
  void show();

 private:
  // Broken: it is not used until it could be emptied, written and read.
  enum class State { kNew, kReady, kBroken };
  struct Read;

  void start(std::function<int()> job, std::function<void(int)> ended);
  void empty(bool probes);
  void write();
  bool read();
  void read_ended(const Read &read, int error);
  void fail(int error, const char *action);
  void drained();
  uint64_t head() const { return log_->head() + spilled_bytes_; }
  // A job of a log that was given up is still under way: it may read the buffer where the next log would write.
  bool lingers() const { return busy_ && job_epoch_ != epoch_; }
  uint64_t buffered_from() const { return std::max(written_, loaded_); }
  bool writes() const;  // there is enough for a job

  const std::shared_ptr<log::SpillFile> file_;
  std::vector<std::unique_ptr<Volume>> &volumes_;
  CounterPage page_;
  Host host_;
  const size_t buffer_bytes_;
  MirroredRing buffer_;  // the byte at log position P lies at P
  State state_ = State::kNew;
  int error_ = 0;
  bool said_ = false;    // that it is broken
  bool used_ = false;    // the file holds something, needed or not
  uint64_t now_ns_ = 0;
  uint64_t idle_ns_ = 0;   // since when nothing is spilled
  uint64_t retry_ns_ = 0;  // when a broken one is tried again

  std::shared_ptr<log::ReplicationLog> log_;
  uint64_t epoch_ = 0;          // counts logs
  uint64_t spilled_bytes_ = 0;  // from the head of the ring to ours
  uint64_t written_ = 0;        // log position: below it lies in the file,
  uint64_t loaded_ = 0;         // below it behind the head of the ring: at least this, of a record that is not whole yet
  uint64_t unsynced_ = 0;       // bytes
  wire::Chain chain_;           // of what has reached the ring
  std::vector<log::DirtyMap> ranges_;  // of each volume

  bool busy_ = false;
  uint64_t job_epoch_ = 0;
  bool read_next_ = false;  // reads and writes take turns
  uint64_t busy_since_ns_ = 0;
  std::unique_ptr<WorkPool> thread_;  // last
};

}  // namespace understudy::engine
