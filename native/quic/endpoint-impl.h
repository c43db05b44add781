// The link thread: one loop over the endpoint's sockets, its sessions and their timers.
//
//   listen sockets (one for each address of listen_host) --\                          /-- sessions others opened
//                                                           >-- by connection id --> <
//   dial socket (any port, both families) -----------------/                          \-- sessions we opened
//
// One turn: tasks, packets in, timers, the handler's turn() and packets out for each session to which something
// happened, sessions that ended. It sleeps in ppoll() when a turn found nothing more to do.
//
// All this belongs to whoever holds turn_: the link thread, but while it sleeps; then a guest (turn_now) may serve one
// session. A guest that leaves more to do, or an earlier timer than the sleeper has set, wakes it.
//
// Bounds (G7): kIncomingMax sessions opened by others, kHalfOpenMax of them in the handshake; beyond kRetryAbove of
// those, or of kBadInitialsMax, an address must prove itself by a Retry; kGravesMax ended sessions whose last word may
// have to be repeated.
#pragma once
#include <atomic>
#include <cstring>
#include <deque>
#include <mutex>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/patience.h"
#include "core/waker.h"
#include "quic/endpoint.h"
#include "quic/resolver.h"
#include "quic/session-impl.h"
#include "quic/stateless.h"
#include "quic/udp-socket.h"

namespace understudy::quic {

SessionId next_session_id();

class EndpointImpl final : public Endpoint, public SessionHost {
 public:
  EndpointImpl(const EndpointOptions &options, SessionHandler &handler);
  ~EndpointImpl() override;
  Status start();

  uint16_t local_port() const override { return local_port_; }
  void allow(std::set<std::string> fingerprints) override;
  void set_identity(const Identity &identity) override;
  SessionId connect(const std::string &host, uint16_t port, const std::string &expected_fingerprint) override;
  void post(std::function<void()> task) override;
  void close(SessionId session, const std::string &text) override;
  void wake() override { request(kUrgent); }
  void wake_lazily() override { request(kLazy); }
  void turn_now(SessionId session) override;
  Session *find(SessionId session) override;

 private:
  static constexpr size_t kIncomingMax = 1024;
  static constexpr size_t kHalfOpenMax = 64;
  static constexpr size_t kRetryAbove = 16;
  static constexpr unsigned kBadInitialsMax = 50;  // a second; beyond: a Retry before any memory is spent
  static constexpr size_t kGravesMax = 256;
  static constexpr size_t kListenAddressesMax = 4;
  static constexpr int kReadRounds = 4;  // a turn
  // From an answer that somebody waited for until his next request: a way there and back, and what he does in between.
  static constexpr uint64_t kPatienceNs = 200'000;

  // An ended session that the peer may not know to have ended.
  struct Grave {
    UdpSocket *socket;
    std::vector<uint8_t> packet;  // CONNECTION_CLOSE; empty: say nothing
    Address local, remote;
    std::vector<ngtcp2_cid> connection_ids;
    uint64_t keep_until;
    unsigned visits = 0;
  };
  struct Route {
    SessionImpl *session = nullptr;
    std::shared_ptr<Grave> grave;
  };
  struct CidHash {
    size_t operator()(const ngtcp2_cid &id) const {
      return std::hash<std::string_view>{}({reinterpret_cast<const char *>(id.data), id.datalen});
    }
  };
  struct CidEqual {
    bool operator()(const ngtcp2_cid &a, const ngtcp2_cid &b) const { return ngtcp2_cid_eq(&a, &b) != 0; }
  };

  // SessionHost
  const EndpointOptions &options() const override { return options_; }
  SessionHandler &handler() override { return handler_; }
  std::shared_ptr<Credentials> credentials() override { return credentials_; }
  bool is_allowed(const std::string &fingerprint) override;
  void add_connection_id(const ngtcp2_cid &id, SessionImpl &session) override { routes_[id] = {&session, nullptr}; }
  void remove_connection_id(const ngtcp2_cid &id) override { routes_.erase(id); }
  void reset_token(const ngtcp2_cid &id, uint8_t *token) override { stateless_->reset_token(id, token); }
  void expect_more() override { patience_.rewarded(monotonic_ns()); }
  uint8_t *batch_buffer() override { return batch_buffer_.get(); }

  // endpoint-impl.cc
  enum Request : uint8_t { kNothing, kLazy, kUrgent };
  void request(Request request);
  Status open_listeners();
  Status open_dialer();
  void run();
  bool turn();
  void run_tasks();
  void serve_timers(uint64_t now);
  bool serve_sessions();
  bool serve(SessionImpl &session);
  bool serve_as_guest(SessionId session);
  void reap();
  bool is_patient();
  void sleep(std::unique_lock<std::mutex> &turn);
  void start_session(SessionId id, const std::string &host, uint16_t port, const std::string &fingerprint);
  // endpoint-receive.cc
  bool receive();
  void receive_batch(UdpSocket &socket, const IncomingBatch &batch, uint64_t now);
  SessionImpl *receive_packet(UdpSocket &socket, const IncomingBatch &batch, const uint8_t *packet, size_t bytes,
                              uint64_t now);
  void receive_stray(UdpSocket &socket, const IncomingBatch &batch, const ngtcp2_version_cid &id, const uint8_t *packet,
                     size_t bytes, uint64_t now);
  void accept(UdpSocket &socket, const IncomingBatch &batch, const uint8_t *packet, size_t bytes, uint64_t now);
  void visit_grave(Grave &grave);
  void reply(UdpSocket &socket, const IncomingBatch &batch, size_t bytes);
  bool is_dialer(const UdpSocket &socket) const { return &socket == dialer_; }

  const EndpointOptions options_;
  SessionHandler &handler_;
  uint16_t local_port_ = 0;

  // Any thread.
  std::mutex mutex_;
  std::vector<std::function<void()>> tasks_;  // by mutex_
  std::set<std::string> allowed_;             // by mutex_
  bool closed_for_tasks_ = false;             // by mutex_
  std::atomic<uint8_t> requested_{kNothing};  // a turn for everybody
  std::atomic<bool> has_tasks_{false};
  std::atomic<bool> stopping_{false};
  Waker waker_;
  Resolver resolver_;
  std::mutex turn_;  // of all below; nobody waits for it but the link thread when it wakes up

  // Link thread, or a guest.
  std::shared_ptr<Credentials> credentials_;
  std::unique_ptr<StatelessReplies> stateless_;
  std::vector<std::unique_ptr<UdpSocket>> sockets_;
  UdpSocket *dialer_ = nullptr;  // one of sockets_, opened by the first connect()
  std::unordered_map<ngtcp2_cid, Route, CidHash, CidEqual> routes_;
  std::unordered_map<SessionId, std::unique_ptr<SessionImpl>> sessions_;
  bool may_nap_ = false;  // a lazy request was served in the last turn: more of them are likely
  Patience patience_{kPatienceNs, Patience::kYields};
  uint64_t last_guest_ns_ = 0;
  uint64_t sleeps_until_ = UINT64_MAX;
  std::deque<std::shared_ptr<Grave>> graves_;
  size_t incoming_ = 0;
  uint64_t bad_initials_since_ = 0;
  unsigned bad_initials_ = 0;
  UdpSocket::Buffers receive_buffers_;
  std::unique_ptr<uint8_t[]> batch_buffer_;
  std::thread thread_;
};

}  // namespace understudy::quic
