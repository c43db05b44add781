// QUIC between hosts: ngtcp2 and GnuTLS on one UDP socket and one thread of their own (the link thread).
//
// Guarantees: mutual TLS 1.3, each side pinned to the SHA-256 fingerprint of the other's public key (G6); bytes of the
// record stream arrive once, in order, or the session ends; memory is bounded by the flow-control windows.
// Does not: know what a record is, reconnect, or decide who may replicate what. That is link/ and src/.
//
// A session has two streams: `control`, both ways, for small frames, sent first; and `records`, one way, from the side
// that connected (the master), read straight out of the replication log without a copy of our own.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>

#include "core/status.h"

namespace understudy::quic {

using SessionId = uint64_t;  // never reused within a process

// This host's key. The certificate is made from it on the fly (self-signed); peers pin the public key, not the
// certificate.
struct Identity {
  std::string key_pem;  // PKCS#8, ECDSA P-256 or Ed25519; behind it, while it is rotated, the endorsement
};
Result<Identity> create_identity();
// A new key, with an endorsement by the old one: two certificates, of the new key signed by the old, and of the old.
// Whoever is shown them takes the new key for the old one too, so that both ids are this host's.
Result<Identity> create_successor(const Identity &old);
// The id: SHA-256 of the DER SubjectPublicKeyInfo, 64 lower-case hex digits.
Result<std::string> identity_fingerprint(const Identity &identity);

// A self-signed certificate of the key, in PEM, for others that speak TLS with it; it counts from an hour ago.
Result<std::string> identity_certificate(const Identity &identity, uint64_t valid_seconds);

// Whom a handshake has proven a peer to be.
struct PeerIds {
  std::string own;     // of the key it holds
  std::string former;  // whose place that key has taken, by an endorsement; empty: none
};

enum class CloseReason : uint8_t {
  kLocal,            // close() was called
  kPeer,             // the peer closed; text is its reason
  kTimeout,          // nothing heard for the idle timeout, or no answer to the first packets
  kPeerNotAllowed,   // we refuse the peer's key: text names its fingerprint
  kRefusedByPeer,    // the peer refuses our key
  kProtocol,         // TLS, ALPN or QUIC error; text says which
};

class Session;

// Bytes to send on the record stream, as they lie in memory. Called on the link thread only. Stream offsets count
// from 0 at attach_records().
class RecordSource {
 public:
  virtual ~RecordSource() = default;
  // Contiguous bytes that are ready at `offset`: sets *data, returns how many (0: none now). They must stay untouched
  // until acked() has passed them or the source is detached.
  virtual size_t peek(uint64_t offset, const uint8_t **data) = 0;
  // About how many there would be, all in all, without having them ready.
  virtual size_t ready(uint64_t offset) {
    const uint8_t *data = nullptr;
    return peek(offset, &data);
  }
  virtual void acked(uint64_t offset) = 0;  // the transport needs nothing below `offset` any more
};

// All calls come on the link thread, or on a guest's in its place (Endpoint::turn_now).
class SessionHandler {
 public:
  virtual ~SessionHandler() = default;
  // The handshake is complete and the peer's key judged good by us. (The peer may still refuse ours: nothing but a
  // control frame of its own proves that it did not.)
  virtual void established(Session &session) = 0;
  virtual void control_received(Session &session, std::span<const uint8_t> bytes) = 0;
  // Only on the accepting side. The handler must take all; session.records_consumed() opens the window again.
  virtual void records_received(Session &session, std::span<const uint8_t> bytes) = 0;
  virtual void moved(Session &) {}          // peer_address has changed (NAT); the session goes on
  virtual void turn(Session &session) = 0;  // once per loop turn, before sending: queue what has become ready
  // The last call for this session; a record source is detached already. Also comes for a session that was never
  // established.
  virtual void closed(Session &session, CloseReason reason, const std::string &text) = 0;
};

struct SessionStats {  // written by the link thread, read by anyone
  std::atomic<uint64_t> rtt_ns{0}, congestion_window_bytes{0}, in_flight_bytes{0}, packet_bytes{0};
  std::atomic<uint64_t> packets_sent{0}, packets_received{0}, packets_lost{0}, bytes_sent{0}, bytes_received{0};
  std::atomic<uint64_t> bytes_retransmitted{0};
  // One writer: no locked instruction for each packet.
  static void add(std::atomic<uint64_t> &figure, uint64_t count) {
    figure.store(figure.load(std::memory_order_relaxed) + count, std::memory_order_relaxed);
  }
};

// Link thread only, but for id, stats and the two strings, which are constant once established.
class Session {
 public:
  virtual ~Session() = default;
  SessionId id = 0;
  bool outgoing = false;         // we connected
  std::string peer_fingerprint;  // once established: the id by which we know it, the first or the second of
  PeerIds peer_ids;              // these
  std::string peer_address;      // HOST:PORT; follows the peer when its address changes
  SessionStats stats;
  std::shared_ptr<void> user;    // the handler's own state of this session

  // Queues a copy. False when 1 MiB is queued already: the caller tries again at a later turn or gives up.
  virtual bool send_control(std::span<const uint8_t> bytes) = 0;
  virtual void attach_records(RecordSource *source) = 0;  // opens the record stream; once per session
  virtual void records_consumed(size_t bytes) = 0;        // gives flow-control credit back to the peer
  virtual void turn_within(uint64_t ns) = 0;              // turn() is called again after so long, or earlier
  virtual void expect_more() = 0;  // the other side is likely to have more at once: looks for it before it sleeps
  // Tells the peer `text` (at most 1000 bytes) and ends with closed(kLocal, text) before it returns control to the loop.
  virtual void close(const std::string &text) = 0;
};

struct EndpointOptions {
  Identity identity;
  std::string listen_host;                 // numeric or a name; empty: an endpoint that only connects
  uint16_t listen_port = 0;                // 0: any free one
  size_t packet_bytes_max = 60000;         // UDP payload; the path's IP_MTU and the peer's limit lower it
  uint64_t idle_timeout_ns = 5'000'000'000;  // the peer timeout; keep-alives go out at a quarter of it
  uint64_t record_window_bytes = 8u << 20;   // flow control for the record stream
  // Of UDP payload, for each session that we opened: what exceeds it waits in the record source. Control frames and
  // what has to be repeated always go, and count. 0: no limit.
  uint64_t bytes_per_second_max = 0;
};

class Endpoint {
 public:
  // Starts the link thread. The handler must outlive the endpoint.
  static Result<std::unique_ptr<Endpoint>> open(const EndpointOptions &options, SessionHandler &handler);
  virtual ~Endpoint() = default;  // closes all sessions (closed() is called for each), joins the thread
  virtual uint16_t local_port() const = 0;

  // From any thread:
  virtual void allow(std::set<std::string> fingerprints) = 0;  // who may connect to us; sessions of others are closed
  virtual void set_identity(const Identity &identity) = 0;     // for new sessions
  // Resolves, connects and calls established() or closed(). expected_fingerprint is the pin.
  virtual SessionId connect(const std::string &host, uint16_t port, const std::string &expected_fingerprint) = 0;
  virtual void post(std::function<void()> task) = 0;           // run on the link thread, soon
  virtual void close(SessionId session, const std::string &text) = 0;
  virtual void wake() = 0;         // there may be something to send: cheap when the thread is busy anyway
  virtual void wake_lazily() = 0;  // the same, but it may take a fraction of a millisecond and is cheaper still
  // The same for what this session alone has to send and somebody waits for. While the link thread sleeps, and it is not
  // much, the caller sends it itself, as its guest: waking a thread takes longer than that. So the handler's turn() may
  // come on this thread, before this returns: hold nothing that it locks.
  virtual void turn_now(SessionId session) = 0;
  // Link thread only: null when it is gone.
  virtual Session *find(SessionId session) = 0;
};

}  // namespace understudy::quic
