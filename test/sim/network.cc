#include "network.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <mutex>

#include "core/thread.h"
#include "quic/endpoint.h"
#include "room.h"

namespace sim {

using namespace understudy;

Network *network = nullptr;

namespace {
constexpr size_t kPieceBytesMax = 48u << 10;
constexpr size_t kControlBytesMax = 1u << 20;

struct Parcel {
  enum class Kind : uint8_t { kEstablished, kControl, kRecords, kAck, kCredit, kClosed } kind;
  std::vector<uint8_t> bytes;
  uint64_t number = 0;
  std::string text;
};
}  // namespace

class Session final : public quic::Session {
 public:
  explicit Session(Endpoint &owner) : endpoint(&owner) {}
  bool send_control(std::span<const uint8_t> bytes) override;
  void attach_records(quic::RecordSource *from) override { source = from; }
  void records_consumed(size_t bytes) override;
  void turn_within(uint64_t ns) override { turn_ns = std::min(turn_ns, scheduler->now_ns + ns); }
  void expect_more() override {}
  void close(const std::string &text) override;
  void send(Parcel parcel);
  void pump();
  void deliver(Parcel &parcel);
  void end(quic::CloseReason why, const std::string &words) {
    if (ended) return;
    ended = true;
    reason = why;
    text = words;
  }

  Endpoint *endpoint;           // null: its host is dead
  std::weak_ptr<Session> peer;
  bool established = false, ended = false;
  quic::CloseReason reason = quic::CloseReason::kLocal;
  std::string text;
  quic::RecordSource *source = nullptr;
  uint64_t sent = 0, credited = 0;      // of the record stream that we send
  uint64_t got = 0, consumed = 0;       // of the one that we receive
  uint64_t in_flight_control = 0;
  uint64_t turn_ns = kNever;
  uint64_t silent_since_ns = 0;         // the peer's host is dead since; 0: it lives
  uint64_t damaged_until_ns = 0;        // at the latest the transport sees itself that a stream is damaged; 0: none is
  uint64_t last_ns[3] = {0, 0, 0};      // arrival of the last parcel: control, records, the rest
  std::multimap<uint64_t, Parcel> inbox;
};

class Endpoint final : public quic::Endpoint {
 public:
  Endpoint(const quic::EndpointOptions &options, quic::SessionHandler &handler)
      : options_(options), handler_(handler), host(scheduler->current->host) {
    network->endpoints.push_back(this);
    thread_ = start_thread("us-link", [this] { run(); });
  }
  ~Endpoint() override {
    stopping_ = true;
    changed.wake_all();
    thread_.join();
    std::erase(network->endpoints, this);
  }
  uint16_t local_port() const override { return options_.listen_port; }
  void allow(std::set<std::string>) override {}
  void set_identity(const quic::Identity &) override {}
  quic::SessionId connect(const std::string &, uint16_t, const std::string &) override;
  void post(std::function<void()> task) override {
    tasks_.push_back(std::move(task));
    changed.wake_all();
  }
  void close(quic::SessionId id, const std::string &text) override {
    post([this, id, text] {
      if (auto *session = find(id)) session->close(text);
    });
  }
  void wake() override { poke(0); }
  void wake_lazily() override { poke(scheduler->random.below(400'000)); }
  void turn_now(quic::SessionId id) override {
    if (!serve_as_guest(id)) wake();
  }
  quic::Session *find(quic::SessionId id) override {
    const auto found = sessions_.find(id);
    return found == sessions_.end() || found->second->ended ? nullptr : found->second.get();
  }
  void add(std::shared_ptr<Session> session) { sessions_.emplace(session->id, std::move(session)); }
  bool listens() const { return !options_.listen_host.empty() && !stopping_; }
  const quic::EndpointOptions &options() const { return options_; }
  quic::SessionHandler &handler() { return handler_; }
  void forget_peers();  // this host is dead

  WaitQueue changed;

 private:
  void poke(uint64_t ns) {
    poke_ns_ = std::min(poke_ns_, scheduler->now_ns + ns);
    changed.wake_all();
  }
  void run();
  void run_session(Session &session);
  void turn(Session &session);
  bool serve_as_guest(quic::SessionId id);
  uint64_t next_ns() const;
  void reap();

  const quic::EndpointOptions options_;
  quic::SessionHandler &handler_;
  std::map<quic::SessionId, std::shared_ptr<Session>> sessions_;
  std::deque<std::function<void()>> tasks_;
  uint64_t poke_ns_ = kNever;
  bool stopping_ = false;
  std::mutex turn_;  // as in native/quic/endpoint-impl.h
  std::thread thread_;

 public:
  const int host;
};

void Network::set_down(bool is_down) {
  if (down == is_down) return;
  down = is_down;
  changed_ns = scheduler->now_ns;
  for (Endpoint *endpoint : endpoints) endpoint->changed.wake_all();
}

void Network::host_died(int host) {
  for (Endpoint *endpoint : endpoints)
    if (endpoint->host == host) endpoint->forget_peers();
  std::erase_if(endpoints, [host](Endpoint *endpoint) { return endpoint->host == host; });
}

// ---- a session

void Session::send(Parcel parcel) {
  const auto other = peer.lock();
  if (!other || !other->endpoint) return;
  const size_t stream = parcel.kind == Parcel::Kind::kControl ? 0 : parcel.kind == Parcel::Kind::kRecords ? 1 : 2;
  const uint64_t at = scheduler->now_ns + 20'000 + scheduler->random.below(network->delay_ns_max);
  other->last_ns[stream] = std::max(other->last_ns[stream], at);
  if (parcel.kind == Parcel::Kind::kEstablished) std::fill_n(other->last_ns, 3, at);  // nothing comes before it
  other->inbox.emplace(other->last_ns[stream], std::move(parcel));
  other->endpoint->changed.wake_all();
}

bool Session::send_control(std::span<const uint8_t> bytes) {
  if (in_flight_control > kControlBytesMax) return false;
  send({Parcel::Kind::kControl, {bytes.begin(), bytes.end()}, 0, ""});
  return true;
}

void Session::records_consumed(size_t bytes) {
  consumed += bytes;
  send({Parcel::Kind::kCredit, {}, consumed, ""});
}

void Session::close(const std::string &words) {
  if (ended) return;
  send({Parcel::Kind::kClosed, {}, 0, words});
  end(quic::CloseReason::kLocal, words);
  endpoint->changed.wake_all();
}

// Sends what the source has and the window allows.
void Session::pump() {
  while (source && !ended && sent - credited < endpoint->options().record_window_bytes) {
    const uint8_t *data = nullptr;
    size_t bytes = source->peek(sent, &data);
    if (!bytes) return;
    bytes = std::min({bytes, endpoint->options().record_window_bytes - (sent - credited),
                      1 + scheduler->random.below(kPieceBytesMax)});
    Parcel parcel{Parcel::Kind::kRecords, {data, data + bytes}, 0, ""};
    sent += bytes;
    if (network->damage_next && --network->damage_next == 0) {
      network->damaged++;
      damaged_until_ns = scheduler->now_ns + scheduler->random.below(500'000'000);
      switch (scheduler->random.below(4)) {
        case 0: parcel.bytes[scheduler->random.below(bytes)] ^= static_cast<uint8_t>(1u << scheduler->random.below(8)); break;
        case 1: parcel.bytes.resize(scheduler->random.below(bytes)); break;
        case 2: send(parcel); break;
        default: std::rotate(parcel.bytes.begin(), parcel.bytes.begin() + static_cast<ptrdiff_t>(bytes / 2), parcel.bytes.end());
      }
    }
    send(std::move(parcel));
  }
}

void Session::deliver(Parcel &parcel) {
  quic::SessionHandler &handler = endpoint->handler();
  switch (parcel.kind) {
    case Parcel::Kind::kEstablished:
      established = true;
      return handler.established(*this);
    case Parcel::Kind::kControl: return handler.control_received(*this, parcel.bytes);
    case Parcel::Kind::kRecords:
      got += parcel.bytes.size();
      handler.records_received(*this, parcel.bytes);
      return send({Parcel::Kind::kAck, {}, got, ""});
    case Parcel::Kind::kAck:
      if (source) source->acked(std::min(parcel.number, sent));
      return;
    case Parcel::Kind::kCredit:
      credited = std::max(credited, std::min(parcel.number, sent));
      return;
    case Parcel::Kind::kClosed: return end(quic::CloseReason::kPeer, parcel.text);
  }
}

// ---- an endpoint

quic::SessionId Endpoint::connect(const std::string &, uint16_t, const std::string &) {
  auto ours = std::make_shared<Session>(*this);
  ours->id = ++network->last_session;
  ours->outgoing = true;
  ours->peer_address = "standby";
  ours->peer_fingerprint = "peer";
  Endpoint *target = nullptr;
  for (Endpoint *endpoint : network->endpoints)
    if (endpoint->host != host && endpoint->listens()) target = endpoint;
  if (target && !network->down) {
    auto theirs = std::make_shared<Session>(*target);
    theirs->id = ++network->last_session;
    theirs->peer_address = "master";
    theirs->peer_fingerprint = "peer";
    theirs->peer = ours;
    ours->peer = theirs;
    target->add(theirs);
    ours->send({Parcel::Kind::kEstablished, {}, 0, ""});
    theirs->send({Parcel::Kind::kEstablished, {}, 0, ""});
  } else {
    ours->silent_since_ns = scheduler->now_ns;
  }
  add(ours);
  changed.wake_all();
  return ours->id;
}

void Endpoint::forget_peers() {
  for (auto &[id, session] : sessions_) {
    session->endpoint = nullptr;
    if (const auto other = session->peer.lock(); other && other->endpoint) {
      other->silent_since_ns = scheduler->now_ns;
      other->endpoint->changed.wake_all();
    }
  }
}

void Endpoint::run_session(Session &session) {
  const uint64_t now = scheduler->now_ns;
  while (!network->down && !session.ended && !session.inbox.empty() && session.inbox.begin()->first <= now) {
    Parcel parcel = std::move(session.inbox.begin()->second);
    session.inbox.erase(session.inbox.begin());
    session.deliver(parcel);
  }
  const uint64_t idle = options_.idle_timeout_ns;
  if (session.silent_since_ns && now - session.silent_since_ns >= idle) session.end(quic::CloseReason::kTimeout, "silence");
  if (network->down && now - network->changed_ns >= idle) session.end(quic::CloseReason::kTimeout, "silence");
  if (session.damaged_until_ns && now >= session.damaged_until_ns) session.close("damaged");
  if (session.established && !session.ended) turn(session);
}

void Endpoint::turn(Session &session) {
  session.turn_ns = kNever;
  handler_.turn(session);
  session.pump();
}

bool Endpoint::serve_as_guest(quic::SessionId id) {
  const std::unique_lock turn_lock(turn_, std::try_to_lock);
  if (!turn_lock || scheduler->random.one_in(4)) return false;
  const auto found = sessions_.find(id);
  if (found == sessions_.end() || !found->second->established || found->second->ended) return false;
  const std::shared_ptr<Session> session = found->second;
  turn(*session);
  return !session->ended && session->turn_ns == kNever;
}

void Endpoint::reap() {
  for (auto at = sessions_.begin(); at != sessions_.end();) {
    const std::shared_ptr<Session> session = at->second;
    if (!session->ended && !stopping_) {
      ++at;
      continue;
    }
    session->close("the endpoint is closing");
    session->source = nullptr;
    at = sessions_.erase(at);
    handler_.closed(*session, session->reason, session->text);
    session->endpoint = nullptr;
  }
}

uint64_t Endpoint::next_ns() const {
  uint64_t next = poke_ns_;
  for (const auto &[id, session] : sessions_) {
    next = std::min(next, session->turn_ns);
    if (session->damaged_until_ns) next = std::min(next, session->damaged_until_ns);
    if (!network->down && !session->inbox.empty()) next = std::min(next, session->inbox.begin()->first);
    if (session->silent_since_ns) next = std::min(next, session->silent_since_ns + options_.idle_timeout_ns);
    if (network->down) next = std::min(next, network->changed_ns + options_.idle_timeout_ns);
  }
  return next;
}

void Endpoint::run() {
  std::unique_lock turn(turn_);
  while (!stopping_) {
    poke_ns_ = kNever;
    while (!tasks_.empty()) {
      auto task = std::move(tasks_.front());
      tasks_.pop_front();
      task();
    }
    for (auto &[id, session] : std::map(sessions_)) run_session(*session);
    reap();
    if (!tasks_.empty() || stopping_) continue;
    const uint64_t next = next_ns();
    turn.unlock();
    if (next > scheduler->now_ns) scheduler->block_on(changed, next);
    else scheduler->yield();
    turn.lock();
  }
  reap();
  while (!tasks_.empty()) {
    auto task = std::move(tasks_.front());
    tasks_.pop_front();
    task();
  }
}

}  // namespace sim

namespace understudy::quic {

Result<std::unique_ptr<Endpoint>> Endpoint::open(const EndpointOptions &options, SessionHandler &handler) {
  return std::unique_ptr<Endpoint>(new sim::Endpoint(options, handler));
}

}  // namespace understudy::quic
