// Link: what happens on an endpoint's sessions: records leave the log of a group, or enter a replica; watermarks,
// hashes and verdicts travel on the control stream; messages between the TypeScript halves pass through as JSON.
//
//   master:   GroupLink   engine thread -> start_records, published      link thread -> PeerMarks, Group::post
//   standby:  ReplicaLink logger, applier, hasher threads -> progressed  link thread -> Replica::receive
#pragma once
#include <atomic>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/event.h"
#include "engine/group.h"
#include "link/batch-sink.h"
#include "link/batch-source.h"
#include "link/frames.h"
#include "link/log-source.h"
#include "quic/endpoint.h"
#include "replay/replica.h"

namespace understudy::link {

class GroupLink;
class ReplicaLink;

class Link final : public quic::SessionHandler {
 public:
  explicit Link(EventSink events) : events_(std::move(events)) {}
  ~Link() override;
  Status open(const quic::EndpointOptions &options);
  quic::Endpoint &endpoint() { return *endpoint_; }
  double handle = 0;  // of the addon

  // Any thread.
  void send_json(uint64_t session, const std::string &json);
  void send_frame(uint64_t session, std::vector<uint8_t> frame);
  // Runs `task` on the link thread and waits for it. Not from the link thread.
  void run_on_link_thread(std::function<void()> task);

  struct SessionState {
    FrameReader reader;
    std::deque<std::vector<uint8_t>> outgoing;  // frames the session had no room for
    GroupLink *group = nullptr;
    std::unique_ptr<LogSource> source;
    std::unique_ptr<BatchSource> batch_source;  // around it, in a session that compresses
    std::vector<uint8_t> early_marks;  // the last watermarks that came before `group` was known
    ReplicaLink *replica = nullptr;
    std::unique_ptr<BatchSink> batch_sink;  // in a session that compresses
    wire::WatermarksBody told;  // the last watermarks that were sent,
    uint64_t told_ns = 0;       // and when
    uint64_t lease_asked_ns = 0;  // boot_ns() when a lease was asked for last; 0: never
    uint64_t lease_due_ns = 0;    // when it is to be asked for again
    uint64_t stats_ns = 0;     // when the counters are due again,
    uint64_t stats_bytes = 0;  // and what the session had moved when they were last written
  };
  static SessionState *state_of(quic::Session &session) { return static_cast<SessionState *>(session.user.get()); }

 private:
  void established(quic::Session &session) override;
  void control_received(quic::Session &session, std::span<const uint8_t> bytes) override;
  void records_received(quic::Session &session, std::span<const uint8_t> bytes) override;
  void moved(quic::Session &session) override;
  void turn(quic::Session &session) override;
  void closed(quic::Session &session, quic::CloseReason reason, const std::string &text) override;

  void frame_received(quic::Session &session, wire::FrameType type, std::span<const uint8_t> body);
  static void master_frame(quic::Session &session, wire::FrameType type, std::span<const uint8_t> body);
  void standby_frame(quic::Session &session, wire::FrameType type, std::span<const uint8_t> body);
  void queue(quic::Session &session, std::vector<uint8_t> frame);
  void flush_outgoing(quic::Session &session);
  void tell_watermarks(quic::Session &session, SessionState &state);
  void ask_for_lease(quic::Session &session, SessionState &state);
  friend class GroupLink;
  friend class ReplicaLink;

  EventSink events_;
  std::unique_ptr<quic::Endpoint> endpoint_;
};

// A group's way to its standby, over whatever link its session is on.
class GroupLink final : public engine::PeerLink {
 public:
  ~GroupLink() override { leave(); }
  void bind(engine::Group &group) { group_ = &group; }
  // JavaScript thread: the session that is about to be attached is on `link`, and compresses so.
  void use(Link &link, Compression compression);
  // Closes the session, if any. Afterwards neither the link nor the group hears of the other.
  void leave();
  bool uses(const Link &link) const { return link_ == &link; }

  void start_records(uint64_t session, std::shared_ptr<log::ReplicationLog> log, uint64_t position) override;
  void published(bool urgent) override;
  void request_hashes(uint64_t session, const wire::HashRequestBody &request) override;
  void request_data(uint64_t session, const wire::HashRequestBody &request) override;

 private:
  friend class Link;
  std::mutex mutex_;                // of link_, against the engine thread
  Link *link_ = nullptr;            // changed by the JavaScript thread
  Compression compression_ = Compression::kOff;  // of the session that is about to be attached
  engine::Group *group_ = nullptr;
  std::atomic<uint64_t> session_{0};  // set by the link thread
  bool had_session_ = false;        // link thread: the next one is a reconnect
};

// A replica's way to its master, and its counters.
class ReplicaLink final : public replay::ReplicaListener {
 public:
  ReplicaLink(double handle, EventSink events, CounterPage page)
      : handle_(handle), events_(std::move(events)), page_(page) {}
  // Its applier may call progressed() before this, and then there is nothing to tell yet.
  void bind(replay::Replica &replica) { replica_.store(&replica, std::memory_order_release); }
  // Routes the session's records here; returns where the history stands. ENOTCONN: the session is gone.
  Result<wire::Position> attach(Link &link, uint64_t session, Compression compression = Compression::kOff);
  void detach();  // no call into the replica comes after this
  bool uses(const Link &link) {
    std::lock_guard lock(mutex_);
    return link_ == &link;
  }
  void publish_counters();
  // Any thread. What a master may be granted from now on: somebody has put on disk that it may be; 0: nothing.
  void set_lease_max(uint64_t length_ns) { lease_max_ns_ = length_ns; }
  // Link thread. The grant counts from before it is sent.
  bool grants(uint64_t length_ns) {
    if (!length_ns || length_ns > lease_max_ns_) return false;
    granted_ns_ = monotonic_ns();
    return true;
  }
  // Any thread: monotonic, of the last grant; 0: there was none.
  uint64_t granted_ns() const { return granted_ns_; }
  const replay::ReplicaState &wanted() const { return replica_.load()->state(); }

  void progressed() override;
  void hashed(const wire::HashReplyBody &reply, std::vector<wire::HashEntry> entries) override;
  void told(const wire::DataReplyBody &reply, const std::vector<uint8_t> &bytes) override;
  void verified(const wire::VerifyResultBody &result) override;
  void failed(const std::string &message) override;

 private:
  friend class Link;
  void send(wire::FrameType type, const std::vector<uint8_t> &body);
  const double handle_;
  EventSink events_;
  CounterPage page_;
  std::atomic<replay::Replica *> replica_{nullptr};
  std::mutex counters_mutex_;  // of publish_counters
  std::mutex mutex_;       // of the two below
  Link *link_ = nullptr;   // of the session that feeds us, if any
  uint64_t session_ = 0;
  std::atomic<bool> linked_{false};     // link_ is set
  std::atomic<bool> looks_{false};      // the link thread looks at the watermarks soon, by itself
  std::atomic<uint64_t> told_phase_{~0ull};
  std::atomic<uint64_t> lease_max_ns_{0}, granted_ns_{0};
  std::atomic<uint64_t> woken_for_{0};  // the durable sequence the link thread was last woken for
};

// The words of a replica's page are the fields of ReplicaState in their order.
extern const std::vector<const char *> kReplicaCounterNames;

}  // namespace understudy::link
