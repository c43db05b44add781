#include <cerrno>

#include "link/link.h"

namespace understudy::link {

const std::vector<const char *> kReplicaCounterNames = {
    "incarnation",       "received_sequence", "received_bytes",  "durable_sequence", "durable_bytes",
    "committed_sequence", "committed_bytes",  "applied_sequence", "applied_bytes",   "phase",
    "segments",          "segment_bytes",     "segment_syncs",   "image_syncs",      "staged_bytes",
    "records_received",  "records_applied",   "verify_equal",    "verify_different", "last_heard_ns",
    "staging_bytes_max", "staging_full",      "errors",          "last_errno",
    "received_wanted_sequence", "durable_wanted_sequence"};
static_assert(sizeof(replay::ReplicaState) == 26 * sizeof(uint64_t));

Result<wire::Position> ReplicaLink::attach(Link &link, uint64_t id, Compression compression) {
  Result<wire::Position> result(Status::failed(ENOTCONN, "attach replica: the session has ended"));
  link.run_on_link_thread([&] {
    quic::Session *session = link.endpoint().find(id);
    Link::SessionState *state = session ? Link::state_of(*session) : nullptr;
    if (!state) return;
    {
      std::lock_guard lock(mutex_);
      if (link_ && session_ != id)
        if (quic::Session *before = link_->endpoint().find(session_)) {
          if (Link::SessionState *old = Link::state_of(*before)) old->replica = nullptr;
        }
      link_ = &link;
      linked_ = true;
      looks_ = false;
      session_ = id;
    }
    state->replica = this;
    if (auto codec = Codec::make(compression)) state->batch_sink = std::make_unique<BatchSink>(std::move(codec));
    result = Result<wire::Position>(replica_.load()->start_session());
  });
  return result;
}

void ReplicaLink::detach() {
  Link *link;
  {
    std::lock_guard lock(mutex_);
    link = link_;
  }
  if (!link) return;
  link->run_on_link_thread([&] {
    if (quic::Session *session = link->endpoint().find(session_)) {
      if (Link::SessionState *state = Link::state_of(*session)) state->replica = nullptr;
      session->close("the standby is closing");
    }
    std::lock_guard lock(mutex_);
    link_ = nullptr;
    linked_ = looks_ = false;
    session_ = 0;
  });
}

void ReplicaLink::publish_counters() {
  replay::Replica *const replica = replica_.load();
  if (!replica) return;
  const auto *words = reinterpret_cast<const std::atomic<uint64_t> *>(&replica->state());
  std::lock_guard lock(counters_mutex_);
  for (size_t word = 0; word < kReplicaCounterNames.size(); word++)
    page_.set(word, words[word].load(std::memory_order_relaxed));
}

void ReplicaLink::progressed() {
  replay::Replica *const replica = replica_.load();
  if (!replica) return;
  const replay::ReplicaState &state = replica->state();
  const uint64_t wanted = state.durable_wanted_sequence.load();
  const bool awaited = wanted && state.durable_sequence.load() >= wanted && woken_for_.exchange(wanted) != wanted;
  // The counters are told with the watermarks, at the latest; a phase at once: what is usable is decided by it.
  const uint64_t phase = state.phase.load();
  if (told_phase_.exchange(phase) != phase || !linked_) publish_counters();
  if (!awaited && looks_) return;
  std::lock_guard lock(mutex_);
  if (!link_) return;
  awaited ? link_->endpoint().turn_now(session_) : link_->endpoint().wake_lazily();
}

void ReplicaLink::send(wire::FrameType type, const std::vector<uint8_t> &body) {
  std::lock_guard lock(mutex_);
  if (link_) link_->send_frame(session_, make_frame(type, body.data(), body.size()));
}

void ReplicaLink::hashed(const wire::HashReplyBody &reply, std::vector<wire::HashEntry> entries) {
  std::vector<uint8_t> body(sizeof reply + entries.size() * sizeof entries[0]);
  memcpy(body.data(), &reply, sizeof reply);
  memcpy(body.data() + sizeof reply, entries.data(), entries.size() * sizeof entries[0]);
  send(wire::FrameType::kHashReply, body);
}

void ReplicaLink::told(const wire::DataReplyBody &reply, const std::vector<uint8_t> &bytes) {
  std::vector<uint8_t> body(sizeof reply + bytes.size());
  memcpy(body.data(), &reply, sizeof reply);
  if (!bytes.empty()) memcpy(body.data() + sizeof reply, bytes.data(), bytes.size());
  send(wire::FrameType::kDataReply, body);
}

void ReplicaLink::verified(const wire::VerifyResultBody &result) {
  std::vector<uint8_t> body(sizeof result);
  memcpy(body.data(), &result, sizeof result);
  send(wire::FrameType::kVerifyResult, body);
}

void ReplicaLink::failed(const std::string &message) {
  publish_counters();
  events_({"replica-error", {{"replica", handle_}, {"message", message}}, ""});
}

}  // namespace understudy::link
