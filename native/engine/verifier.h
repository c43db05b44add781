// Verifier: compares a whole volume with the standby's copy while clients go on, and repairs it when asked.
//
//   comparing --(differences, repair)--> repairing --> confirming (only what differed)
//
// Each chunk is read past the page cache and hashed under its range lock, and the hash becomes a record at that
// position; the standby compares when its replay reaches the record, so both look at the same moment and there is no
// false alarm. What is dirty has no position yet: it is waited for. A repair makes the differing ranges dirty, in a
// step, and has them resent: the master's copy wins. A region that the master cannot read is told and left out.
//
// Pace: without a rate of its own it leaves clients three quarters of the time, and has the disks alone when none asks.
// Engine thread only.
#pragma once
#include <functional>
#include <vector>

#include "engine/resync.h"

namespace understudy::engine {

struct VerifyOptions {
  bool repair = false;
  uint64_t bytes_per_second = 0;  // 0: as the clients leave room
};

struct VerifyOutcome {
  uint64_t chunks = 0, different = 0;  // of the comparison
  uint64_t repaired = 0;               // of the different ones: sent anew, and equal since
  uint64_t unreadable_bytes = 0;       // of the master's device: not compared
};

class Verifier {
 public:
  using Done = std::function<void(const Status &status, const VerifyOutcome &outcome)>;
  // Makes the ranges dirty, inside a step, and has them resent.
  using Repair = std::function<void(Volume &volume, const std::vector<Range> &ranges)>;
  Verifier(Resync::Host host, Capture &capture, Repair repair);

  // EBUSY: one runs already; EAGAIN: the pair is not in sync.
  Status start(Volume &volume, const VerifyOptions &options, Done done);
  void result(const wire::VerifyResultBody &body);
  void cancel(const char *why);  // the stream was lost: results will not come
  void clients_asked(uint64_t now_ns) { clients_ns_ = now_ns; }
  void turn(uint64_t now_ns);
  bool running() const { return volume_ != nullptr; }
  bool reading() const { return reads_ != 0; }
  int wait_limit_ms(uint64_t now_ns) const;  // when it wants a turn for itself; -1: something will wake it

 private:
  enum class Phase : uint8_t { kComparing, kRepairing, kConfirming };
  struct Chunk;
  void begin_pass(Phase phase, std::vector<Range> targets);
  bool next_chunk(uint64_t *start, uint64_t *end);
  void read(uint64_t start, uint64_t end);
  void again(uint64_t start, uint64_t end);
  void record(const Chunk &chunk);
  void note_unreadable(uint64_t start, uint64_t end, int error);
  void note_different(const wire::VerifyResultBody &body);
  bool waits_for_step() const;
  void finish_if_complete();
  void finish(const Status &status);

  Resync::Host host_;
  Capture &capture_;
  Repair repair_;
  Volume *volume_ = nullptr;
  Done done_;
  VerifyOptions options_;
  VerifyOutcome outcome_;
  Phase phase_ = Phase::kComparing;
  std::vector<Range> targets_;    // of this pass, in order
  size_t target_ = 0;             // the one the cursor is in
  uint64_t cursor_ = 0;
  std::vector<Range> different_;  // in order; neighbours are one
  uint64_t remaining_ = 0;        // found to differ still, when confirming
  uint64_t id_base_ = 0, next_id_ = 0, run_ = 0;
  uint64_t sent_ = 0, answered_ = 0;  // of this pass
  size_t reads_ = 0;
  uint64_t clients_ns_ = 0;       // when a client last asked for something
  uint64_t due_ns_ = 0;           // the next read is not before
  bool retry_ = false;            // a lock, log room or a dirty region was in the way
};

}  // namespace understudy::engine
