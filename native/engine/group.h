// Group: volumes that share one history, and the engine thread that serves them.
//
// One turn of the thread:
//   wait -> commands -> standby's watermarks -> requests of each readable client -> resync, verify
//        -> publish the log -> start device flushes -> replies that are due -> one send per client
// Requests and sends only while there is a lease, where one is needed (lease.h).
//
// All writes of the group pass this one thread, so that their order on the device, in the log and in the sequence is
// the same by construction. What may wait for a disk runs on workers, under a lock on its range (FlightTable).
//
// All this belongs to whoever holds turn_: the engine thread, but while it sleeps; then the link thread, which has the
// standby's watermarks, may send the replies that waited for them (answer_now). Waking a thread takes longer.
#pragma once
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/event.h"
#include "core/patience.h"
#include "core/waker.h"
#include "core/work-pool.h"
#include "engine/admission.h"
#include "engine/capture.h"
#include "engine/connection.h"
#include "engine/lease.h"
#include "engine/pairing.h"
#include "engine/resync.h"
#include "engine/standby-watch.h"
#include "engine/verifier.h"

namespace understudy::engine {

enum class Durability : uint8_t { kAsync, kFlush, kReceived, kDurable };

struct GroupOptions {
  std::string name;
  Capture::Options capture;
  Durability durability = Durability::kFlush;
  StandbyPolicy standby;
  uint64_t resync_bytes_per_second = 0;  // 0: no limit
  LeaseTerms lease;
  bool holds_writes = false;  // until let_write(): reads are answered, what changes a device waits
  uint64_t hold_ns = 30'000'000'000;  // what is nobody's yet (holding.cc)
};

class Group {
 public:
  // The pool, the link and the sink must outlive the group. link may be null when nothing is replicated.
  Group(const GroupOptions &options, std::vector<std::unique_ptr<Volume>> volumes, WorkPool &pool, PeerLink *link,
        EventSink events);
  ~Group();     // stop(); connections are closed
  void stop();  // ends the thread; what is in flight on workers is waited for

  // Any thread: run on the engine thread.
  void post(std::function<void()> task);
  PeerMarks &peer() { return peer_; }
  // Link thread.
  void marks_arrived(const wire::WatermarksBody &marks);
  Lease &lease() { return lease_; }  // what has changed in it is noticed with the next turn: post()
  CounterPage page() const { return page_; }
  const std::vector<std::unique_ptr<Volume>> &volumes() const { return volumes_; }
  Volume *volume_by_handle(uint32_t handle);

  // Engine thread (through post).
  void adopt(uint64_t connection, ClientState state, Volume &volume);
  void attach(const AttachRequest &request);
  void session_lost(uint64_t session);
  void detach(const char *reason);
  // From here on writes to these ranges are told. The mark stands for what was written there until now, all of which is
  // on the device: what is read after this call is true as long as set_ranges() finds that the mark is.
  uint64_t watch(Volume &volume, RangeTable watched);
  // What was read with this mark: `fixed`, and what is followed, is left out from here on. If something was written there
  // since: `watched` is raised again, and the step stays open. So it does, with nothing in force of it, if a watch says that
  // it has to be read again: refused is which, or -1.
  struct Installed {
    int refused = -1;
    std::string why;
  };
  Installed set_ranges(Volume &volume, RangeTable fixed, RangeTable watched, uint64_t mark,
                       std::vector<FollowedFileSystem> followed = {});
  // It is on disk that the standby may lack what is acknowledged from here on (pairing.h).
  void part() { pairing_.part(); }
  void hashes_arrived(const wire::HashReplyBody &reply, const std::vector<wire::HashEntry> &entries) {
    resync_.hashes_arrived(reply, entries);
  }
  void data_arrived(const wire::DataReplyBody &reply, const std::vector<uint8_t> &bytes) {
    resync_.data_arrived(reply, bytes);
  }
  void verify_arrived(const wire::VerifyResultBody &body) { verifier_.result(body); }
  Verifier &verifier() { return verifier_; }
  Capture &capture() { return capture_; }
  // The peer says that it may differ here.
  void suspect(Volume &volume, const RangeTable &ranges);
  // The dirty maps on disk become whole; done is told when all are, or of the first that fails (marking.cc).
  void fill_marks(Marks::Done done);
  // A clean stop of one volume: its dirty map as it is, with what the standby has not made durable. The last call.
  void finish_marks(Volume &volume, Marks::Done done);
  // Instead, when another process goes on at once: the map in memory becomes that, and the one on disk stays a superset.
  void hand_over_marks(Volume &volume);
  // No request is taken any more; done is called when all that were taken are answered.
  void quiesce(std::function<void()> done);
  // Ends that: as if nothing had been.
  void resume();
  // GroupOptions.holds_writes is over.
  void let_write() { holds_writes_ = false; }
  // Once quiet: the volume's clients, which are this engine's no more. None that has failed is among them.
  std::vector<ClientState> take_clients(const Volume &volume);

 private:
  enum class Outcome { kDone, kPark, kAwaitOutput };

  void run();
  int wait_limit_ms();
  int wait_limit_without_timers_ms();
  void repair(Volume &volume, const std::vector<Range> &ranges);
  bool is_patient();
  bool ask_again();
  void wait(int limit_ms);
  void run_tasks();
  void serve_all();

  // requests.cc
  void serve(Connection &connection);
  void enqueue(Connection &connection);
  Outcome execute(Connection &connection, const ParsedRequest &request);
  uint32_t validate(const Connection &connection, const ParsedRequest &request) const;
  Outcome read(Connection &connection, const ParsedRequest &request);
  void read_on_worker(Connection &connection, const ParsedRequest &request);
  Outcome write(Connection &connection, const ParsedRequest &request);
  Outcome zero(Connection &connection, const ParsedRequest &request, RequestKind kind);
  Outcome flush(Connection &connection, const ParsedRequest &request);
  Outcome others(Connection &connection, const ParsedRequest &request);
  bool log_has_room(Volume &volume, uint64_t start, uint64_t end, bool payload);
  bool room_will_come();
  void log_is_blocked();
  void log_unblocked();
  void finish(Connection &connection, const ParsedRequest &request, RequestKind kind, uint64_t bytes, int error);
  uint8_t wants_of(const ParsedRequest &request) const;
  void zero_ended(Connection &connection, const ParsedRequest &request, RequestKind kind, int error);
  void write_on_worker(Connection &connection, const ParsedRequest &request);
  void write_ended(Connection &connection, const ParsedRequest &request, int error);
  void follow(Volume &volume, uint64_t start, uint64_t end, bool payload);
  void on_device_late(Volume &volume, uint64_t start, uint64_t end, bool payload);
  void refused(Volume &volume, uint64_t start, uint64_t end);
  void failed(Volume &volume, const char *operation, uint64_t offset, uint64_t length, int error);
  void answer(Connection &connection, uint16_t type, uint64_t cookie, uint64_t offset, RequestKind kind,
              uint64_t bytes, uint64_t start_ns, int error);
  void run_on_worker(Connection &connection, const ParsedRequest &request, bool writes, uint64_t held,
                     std::function<int()> job, std::function<void(int)> ended);

  // filtering.cc
  void lapse(Volume &volume, const std::vector<filesystem::ByteRange> &freed);
  void leave_out(Volume &volume);
  void leave_out(Volume &volume, const Range &range);
  void send_dirty();
  bool storable(Volume &volume, uint64_t start, uint64_t end);

  // holding.cc
  bool may_hold(const Volume &volume) const;
  void hold(Volume &volume, uint64_t start, uint64_t end);
  void settle_held(Volume &volume);
  void release(Volume &volume);
  void release(Volume &volume, uint64_t start, uint64_t end);
  void release_old(Volume &volume);
  void turn_held();
  int held_limit_ms() const;

  // marking.cc
  void bind_marks();
  bool may_write(Volume &volume, uint64_t start, uint64_t end);
  bool marked(Volume &volume, uint64_t start, uint64_t end);
  void note_dirty(Volume &volume, uint64_t start, uint64_t end);
  void turn_marks();
  MarkClock mark_clock() const;
  bool marks_busy() const;
  int marks_limit_ms() const;

  // durability.cc
  bool in_sync() const;
  bool is_held() const;
  bool standby_counts() const;
  void pair();
  void wait_for_durability(Connection &connection, const ParsedRequest &request, RequestKind kind, uint64_t bytes,
                           bool flush);
  void start_flushes();
  void flush_ended(Volume &volume, uint64_t ticket, int error, const std::vector<uint64_t> &covered);
  bool answer_now();
  void answer_waiters();
  void hold_until_step();
  void let_go();
  void answer_queue(std::deque<Waiter> &queue, uint64_t received, uint64_t durable);
  void release_alone();
  void watch_standby();
  void bind_spilling();

  // leasing.cc
  bool may_answer() const;
  void watch_lease();
  void drop_gone();
  int lease_limit_ms() const;

  void touch(Connection &connection);
  void send_outputs();
  void send_output(Connection &connection);
  void take_left_outputs();
  void settle(Connection &connection);  // frees it when it has ended
  std::unique_ptr<Connection> forget(Connection &connection);
  void drop_stalled();
  bool needs_acks() const;
  bool needs_room() const;

  const GroupOptions options_;
  std::vector<std::unique_ptr<Volume>> volumes_;
  WorkPool &pool_;
  PeerLink *link_;
  EventSink events_;
  CounterPage page_;
  Waker waker_;
  PeerMarks peer_;
  Capture capture_;
  Resync resync_;
  Verifier verifier_;

  Fd epoll_;
  std::mutex tasks_mutex_;
  std::vector<std::function<void()>> tasks_;
  std::atomic<bool> tasks_pending_{false};
  std::atomic<bool> outputs_left_{false};
  std::atomic<bool> stopping_{false};
  std::mutex turn_;  // of all below; nobody waits for it but the engine thread when it wakes up

  // Engine thread, or the link thread in its place.
  std::unordered_map<Connection *, std::unique_ptr<Connection>> connections_;
  std::vector<Connection *> readable_, touched_, parked_;
  size_t operations_ = 0;     // on workers
  Admission admission_;
  Patience patience_{50'000, Patience::kAlone};
  uint64_t stall_check_ns_ = 0;
  bool quiescing_ = false;
  std::vector<std::function<void()>> quiesced_;
  uint64_t turn_ns_ = 0;      // when this turn began: the start of every request taken in it
  uint64_t session_ = 0;      // 0: none
  StandbyWatch watch_;
  Lease lease_;
  Pairing pairing_;
  uint64_t updates_seen_ = 0;
  bool holds_writes_;
  bool holding_ = false;      // replies wait for a step
  bool resync_waits_ = false; // for log room or a range lock
  bool log_blocked_ = false;
  uint64_t log_blocked_ns_ = 0;
  std::thread thread_;        // last: everything above is ready before it starts
};

}  // namespace understudy::engine
