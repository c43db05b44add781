#include "link/link.h"

#include <cerrno>

#include "core/breakage.h"
#include "core/clock.h"

namespace understudy::link {
namespace {
constexpr size_t kOutgoingMax = 4096;                  // frames waiting for room; beyond this the session ends
constexpr uint64_t kStatsEveryNs = 100'000'000;
constexpr uint64_t kTellEveryNs = 1'000'000;           // watermarks that nobody waits for
constexpr uint64_t kAsksPerLease = 4;                  // some may be late, or lost with a session

template <typename Body>
bool take(std::span<const uint8_t> bytes, Body &body) {
  if (bytes.size() < sizeof body) return false;
  memcpy(&body, bytes.data(), sizeof body);
  return true;
}

const char *reason_name(quic::CloseReason reason) {
  switch (reason) {
    case quic::CloseReason::kLocal: return "local";
    case quic::CloseReason::kPeer: return "peer";
    case quic::CloseReason::kTimeout: return "timeout";
    case quic::CloseReason::kPeerNotAllowed: return "peer-not-allowed";
    case quic::CloseReason::kRefusedByPeer: return "refused-by-peer";
    case quic::CloseReason::kProtocol: return "protocol";
  }
  return "protocol";
}
}  // namespace

// Its thread may be in a task that goes through endpoint_, which must stand until the thread has been joined: reset()
// would clear it first.
Link::~Link() {
  delete endpoint_.get();
  (void)endpoint_.release();
}

Status Link::open(const quic::EndpointOptions &options) {
  auto endpoint = quic::Endpoint::open(options, *this);
  if (!endpoint.ok()) return endpoint.status;
  endpoint_ = std::move(endpoint.value);
  return Status::good();
}

void Link::run_on_link_thread(std::function<void()> task) {
  std::promise<void> done;
  endpoint_->post([&] {
    task();
    done.set_value();
  });
  done.get_future().wait();
}

void Link::send_json(uint64_t session, const std::string &json) {
  send_frame(session, make_frame(wire::FrameType::kJson, json.data(), json.size()));
}

void Link::send_frame(uint64_t session, std::vector<uint8_t> frame) {
  endpoint_->post([this, session, frame = std::move(frame)]() mutable {
    if (quic::Session *found = endpoint_->find(session); found && state_of(*found)) queue(*found, std::move(frame));
  });
}

void Link::queue(quic::Session &session, std::vector<uint8_t> frame) {
  SessionState &state = *state_of(session);
  state.outgoing.push_back(std::move(frame));
  flush_outgoing(session);
  if (state.outgoing.size() > kOutgoingMax) session.close("the peer does not read its control stream");
}

void Link::flush_outgoing(quic::Session &session) {
  SessionState &state = *state_of(session);
  while (!state.outgoing.empty() && session.send_control(state.outgoing.front())) state.outgoing.pop_front();
}

void Link::established(quic::Session &session) {
  session.user = std::make_shared<SessionState>();
  events_({"session-established",
           {{"session", session.id},
            {"endpoint", handle},
            {"outgoing", session.outgoing},
            {"fingerprint", session.peer_fingerprint},
            {"keyId", session.peer_ids.own},
            {"formerId", session.peer_ids.former},
            {"address", session.peer_address}},
           ""});
}

void Link::moved(quic::Session &session) {
  events_({"session-moved", {{"session", session.id}, {"address", session.peer_address}}, ""});
}

void Link::closed(quic::Session &session, quic::CloseReason reason, const std::string &text) {
  if (SessionState *state = state_of(session)) {
    if (GroupLink *group = state->group) {
      if (engine::Group *owner = group->group_; group->session_ == session.id) {
        group->session_ = 0;
        owner->page().set(kGroup_session, 0);
        owner->post([owner, id = session.id] { owner->session_lost(id); });
      }
    }
    if (ReplicaLink *replica = state->replica) {
      std::lock_guard lock(replica->mutex_);
      if (replica->session_ == session.id) {
        replica->session_ = 0;
        replica->link_ = nullptr;
        replica->linked_ = replica->looks_ = false;
      }
    }
    session.user.reset();
  }
  events_({"session-closed",
           {{"session", session.id},
            {"endpoint", handle},
            {"outgoing", session.outgoing},
            {"reason", std::string(reason_name(reason))},
            {"text", text}},
           ""});
}

void Link::control_received(quic::Session &session, std::span<const uint8_t> bytes) {
  const auto keep = session.user;  // a frame may end the session
  if (!keep) return;
  const Status status = state_of(session)->reader.feed(
      bytes, [&](wire::FrameType type, std::span<const uint8_t> body) { frame_received(session, type, body); });
  if (!status.ok()) session.close(status.message);
}

void Link::frame_received(quic::Session &session, wire::FrameType type, std::span<const uint8_t> body) {
  SessionState *state = state_of(session);
  if (!state) return;
  if (type == wire::FrameType::kJson) {
    events_({"session-message", {{"session", session.id}}, std::string(body.begin(), body.end())});
  } else if (state->group) {
    master_frame(session, type, body);
  } else if (state->replica) {
    standby_frame(session, type, body);
  } else if (type == wire::FrameType::kWatermarks) {
    state->early_marks.assign(body.begin(), body.end());  // the standby is ready before the group knows of it
  } else {
    session.close("a frame came before the welcome");
  }
}

void Link::master_frame(quic::Session &session, wire::FrameType type, std::span<const uint8_t> body) {
  SessionState &state = *state_of(session);
  engine::Group *group = state.group->group_;
  if (type == wire::FrameType::kWatermarks) {
    wire::WatermarksBody marks;
    if (!take(body, marks)) return session.close("watermarks: too short");
    // Until our first record is there the numbers are another incarnation's and mean nothing here.
    if (marks.incarnation != group->capture().incarnation())
      marks.received = marks.durable = marks.committed = marks.applied = {};
    if (state.source) state.source->durable((BROKEN(kFreeAtReceived) ? marks.received : marks.durable).sequence);
    group->marks_arrived(marks);
    session.expect_more();
  } else if (type == wire::FrameType::kHashReply) {
    wire::HashReplyBody reply;
    if (!take(body, reply) || body.size() != sizeof reply + reply.count * sizeof(wire::HashEntry))
      return session.close("hash reply: wrong length");
    std::vector<wire::HashEntry> entries(reply.count);
    memcpy(entries.data(), body.data() + sizeof reply, reply.count * sizeof(wire::HashEntry));
    group->post([group, reply, entries = std::move(entries)] { group->hashes_arrived(reply, entries); });
  } else if (type == wire::FrameType::kDataReply) {
    wire::DataReplyBody reply;
    if (!take(body, reply) || body.size() != sizeof reply + (reply.error ? 0 : reply.bytes))
      return session.close("data reply: wrong length");
    std::vector<uint8_t> bytes(body.begin() + sizeof reply, body.end());
    group->post([group, reply, bytes = std::move(bytes)] { group->data_arrived(reply, bytes); });
  } else if (type == wire::FrameType::kVerifyResult) {
    wire::VerifyResultBody result;
    if (!take(body, result)) return session.close("verify result: too short");
    group->post([group, result] { group->verify_arrived(result); });
  } else if (type == wire::FrameType::kLeaseGrant) {
    wire::LeaseBody grant;
    if (!take(body, grant)) return session.close("lease: too short");
    if (grant.length_ns != group->lease().length_ns() || grant.sent_ns > state.lease_asked_ns)
      return session.close("lease: it was not asked for");
    group->lease().granted(grant.sent_ns);
    group->post([] {});
  }
}

void Link::standby_frame(quic::Session &session, wire::FrameType type, std::span<const uint8_t> body) {
  ReplicaLink *const replica = state_of(session)->replica;
  if (type == wire::FrameType::kLeaseRequest) {
    wire::LeaseBody asked;
    if (!take(body, asked)) return session.close("lease: too short");
    if (replica->grants(asked.length_ns)) queue(session, make_frame(wire::FrameType::kLeaseGrant, &asked, sizeof asked));
    return;
  }
  if (type != wire::FrameType::kHashRequest && type != wire::FrameType::kDataRequest) return;
  wire::HashRequestBody request;
  if (!take(body, request)) return session.close("hash or data request: too short");
  const Status status = type == wire::FrameType::kHashRequest ? replica->replica_.load()->hash(request) : replica->replica_.load()->tell(request);
  if (!status.ok()) session.close(status.message);
}

void Link::records_received(quic::Session &session, std::span<const uint8_t> bytes) {
  SessionState *state = state_of(session);
  if (!state || !state->replica) return session.close("records came before the welcome");
  replay::Replica &replica = *state->replica->replica_.load();
  const Status status = state->batch_sink ? state->batch_sink->receive(bytes, replica) : replica.receive(bytes);
  if (!status.ok()) {
    events_({"log", {{"level", std::string("error")}, {"message", "session with " + session.peer_address + ": " + status.message}}, ""});
    session.close(status.message);
  }
}

// Whether a reply at the master waits for what these marks say and the last ones did not.
static bool is_awaited(const wire::WatermarksBody &marks, const Link::SessionState &state) {
  const replay::ReplicaState &wanted = state.replica->wanted();
  const uint64_t received = wanted.received_wanted_sequence, durable = wanted.durable_wanted_sequence;
  const bool news = marks.incarnation != state.told.incarnation;
  return (received <= marks.received.sequence && (news || received > state.told.received.sequence)) ||
         (durable <= marks.durable.sequence && (news || durable > state.told.durable.sequence));
}

// Once something was told, more is likely: it is looked for in time, and nobody has to wake this thread for what no reply
// waits for.
void Link::tell_watermarks(quic::Session &session, SessionState &state) {
  ReplicaLink &replica = *state.replica;
  const auto is_told = [&state](const wire::WatermarksBody &marks) { return memcmp(&marks, &state.told, sizeof marks) == 0; };
  const uint64_t now = monotonic_ns(), due = state.told_ns + kTellEveryNs;
  wire::WatermarksBody marks = replica.replica_.load()->watermarks();
  if (now < due && (is_told(marks) || !is_awaited(marks, state))) {
    replica.looks_ = true;
    return session.turn_within(due - now);
  }
  replica.looks_ = false;
  if (is_told(marks)) marks = replica.replica_.load()->watermarks();  // of one that has seen us looking until now
  if (is_told(marks) || state.outgoing.size() > 16) return;
  if (is_awaited(marks, state)) session.expect_more();
  state.told = marks;
  state.told_ns = now;
  replica.publish_counters();  // before the master can speak of it
  queue(session, make_frame(wire::FrameType::kWatermarks, &marks, sizeof marks));
  replica.looks_ = true;
  session.turn_within(kTellEveryNs);
}

void Link::ask_for_lease(quic::Session &session, SessionState &state) {
  const uint64_t length_ns = state.group->group_->lease().length_ns();
  if (!length_ns) return;
  const uint64_t now = monotonic_ns();
  if (now >= state.lease_due_ns) {
    state.lease_due_ns = now + length_ns / kAsksPerLease;
    const wire::LeaseBody body{length_ns, state.lease_asked_ns = boot_ns()};
    queue(session, make_frame(wire::FrameType::kLeaseRequest, &body, sizeof body));
  }
  session.turn_within(state.lease_due_ns - now);
}

void Link::turn(quic::Session &session) {
  SessionState *state = state_of(session);
  if (!state) return;
  flush_outgoing(session);
  if (state->replica) {
    if (state->batch_sink) records_received(session, {});  // what waited for room in the ring
    if (const size_t consumed = state->batch_sink ? state->batch_sink->take_consumed() : state->replica->replica_.load()->take_consumed())
      session.records_consumed(consumed);
    tell_watermarks(session, *state);
  }
  if (state->source) state->source->count_sent();
  if (state->group) ask_for_lease(session, *state);
  const uint64_t now = monotonic_ns();
  const uint64_t moved = session.stats.bytes_sent + session.stats.bytes_received;
  // A keep-alive's timer comes before its packet: what is told with the answer need not be told again after it.
  if (state->group && moved == state->stats_bytes) return;
  if (now < state->stats_ns) {  // the last bytes before a silence are counted too
    if (moved != state->stats_bytes) session.turn_within(state->stats_ns - now);
    return;
  }
  state->stats_ns = now + kStatsEveryNs;
  state->stats_bytes = moved;
  if (state->replica) state->replica->publish_counters();
  if (!state->group) return;
  CounterPage page = state->group->group_->page();
  page.set(kGroup_session_rtt_ns, session.stats.rtt_ns);
  page.set(kGroup_session_cwnd_bytes, session.stats.congestion_window_bytes);
  page.set(kGroup_session_packet_bytes, session.stats.packet_bytes);
  page.set(kGroup_session_packets_sent, session.stats.packets_sent);
  page.set(kGroup_session_packets_received, session.stats.packets_received);
  page.set(kGroup_session_packets_lost, session.stats.packets_lost);
  page.set(kGroup_session_bytes_sent, session.stats.bytes_sent);
  page.set(kGroup_session_bytes_received, session.stats.bytes_received);
  page.set(kGroup_session_bytes_retransmitted, session.stats.bytes_retransmitted);
}

}  // namespace understudy::link
