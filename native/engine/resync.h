// Resync: walks the dirty maps while a step is open and turns what differs into records, among the clients' writes.
//
//   dirty run -> [hashes asked of the standby] -> read on a worker, under a range lock -> compared -> records -> clean
//
// A run's bit is cleared in the same turn in which its record enters the log, so that each byte is at every moment
// either dirty, or in the log, or at the standby. Holes and zeroes are not read or sent as data. The log is filled to
// half at most, so that clients always find room. Engine thread only, but for what workers do.
//
// Giving back (a master that may have lost what the standby has; it serves nobody meanwhile): the same walk the other
// way round. What differs is asked of the standby and written to the device; the step closes once the device was flushed.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "core/pace.h"
#include "core/work-pool.h"
#include "engine/capture.h"

namespace understudy::engine {

class Resync {
 public:
  struct Host {  // what the group offers
    WorkPool &pool;
    std::function<void(std::function<void()>)> post;  // run on the engine thread; any thread
    PeerLink *link;
    EventSink events;
    uint64_t bytes_per_second = 0;  // of the device, at most; 0: as fast as it goes
  };
  Resync(Host host, Capture &capture, std::vector<std::unique_ptr<Volume>> &volumes, CounterPage page);

  enum class Way : uint8_t {
    kSend,   // what differs goes to the standby
    kFresh,  // so does all: the standby reads as zeroes everywhere, so nothing has to be compared
    kTake,   // what differs comes from the standby
  };
  // A step has been opened.
  void start(uint64_t session, Way way);
  // The session is gone, or another one carries on: answers still owed by the old one must be asked for again.
  void session_changed(uint64_t session);
  // The filter has changed, or something behind the cursor became dirty: reads under way are not believed (their runs
  // are still dirty), and the standby is no longer all zeroes where nothing was sent.
  void replan();
  void cancel();
  void hashes_arrived(const wire::HashReplyBody &reply, const std::vector<wire::HashEntry> &entries);
  void data_arrived(const wire::DataReplyBody &reply, const std::vector<uint8_t> &bytes);
  // Advances; closes the step when nothing is dirty and nothing is outstanding. False: it wants another turn soon.
  bool turn();
  bool busy() const { return reads_ || puts_; }  // on workers
  bool taking() const { return active_ && way_ == Way::kTake; }

 private:
  struct Chunk {
    Volume *volume;
    uint64_t start, end;
    enum { kWanted, kAsked, kReady, kReading } stage;
    std::vector<wire::HashEntry> hashes;  // empty: send it all, but for zeroes
  };
  struct ReadResult;
  // What the standby has been asked to give back: [start, end), of which `bytes` have come.
  struct Taking {
    Volume *volume;
    uint64_t start, end;
    bool is_covered;  // by staged records
    enum { kWanted, kAsked, kComplete, kPutting } stage;
    std::vector<uint8_t> bytes = {};
  };

  void plan();
  bool plan_next();
  bool skip_hole(Volume &volume, uint64_t start, uint64_t end);
  wire::HashRequestBody question(const Volume &volume, uint64_t start, uint64_t end) const;
  void ask(Chunk &chunk);
  void read(Chunk &chunk);
  void emit(const std::shared_ptr<ReadResult> &result);
  void emit_region(Volume &volume, uint64_t start, uint64_t end, const uint8_t *data, bool zero);
  bool may_finish();
  // give-back.cc
  void take(const ReadResult &result);
  void take_turn();
  void ask_for(Taking &taking);
  void put(Taking &taking);
  bool follow_staged(const Taking &taking);
  void take_failed(Volume &volume, const char *operation, uint64_t offset, uint64_t length, int error);
  bool is_taken();

  Host host_;
  Capture &capture_;
  std::vector<std::unique_ptr<Volume>> &volumes_;
  CounterPage page_;
  bool active_ = false;
  Way way_ = Way::kSend;
  uint64_t session_ = 0;
  uint64_t begin_sequence_ = 0;
  uint64_t epoch_ = 0;  // reads started before a cancel() are not believed
  uint64_t total_bytes_ = 0;
  size_t cursor_volume_ = 0;
  uint64_t cursor_ = 0;
  size_t reads_ = 0, puts_ = 0;
  std::deque<Chunk> chunks_;
  std::deque<Taking> takings_;
  uint64_t ask_again_ns_ = 0;        // the standby could not tell yet
  bool take_failed_ = false;         // told; the step stays open
  std::vector<uint64_t> flushes_;    // a ticket for each volume: what was taken is on its disk; empty: not asked for
  Pace pace_;
};

}  // namespace understudy::engine
