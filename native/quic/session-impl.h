// One QUIC connection and its two streams, on the link thread only.
//
//   control   a bidirectional stream opened by each side, of which only the opener's direction is used
//   records   a unidirectional stream opened by the side that connected
//
//   resolving -> handshake -> established -> ending -> (the endpoint says closed() and forgets it)
//   outgoing only: handshake with one address of the host after the other, until one answers
//
// No call of ngtcp2 is made from within its callbacks except those that it allows; what ends a session there is noted
// in `ending` and carried out by the endpoint in the same turn of its loop.
#pragma once
#include <ngtcp2/ngtcp2.h>
#include <ngtcp2/ngtcp2_crypto.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/pace.h"
#include "quic/control-queue.h"
#include "quic/endpoint.h"
#include "quic/packet-size.h"
#include "quic/tls.h"
#include "quic/udp-socket.h"

namespace understudy::quic {

class SessionImpl;

// What a guest of the link thread sends once it has given up its turn: whom that wakes may want the turn at once, and must
// not have to wait for a thread that was put aside in the middle of a system call.
struct Parting {
  std::vector<uint8_t> bytes;
  OutgoingBatch batch;  // its data is `bytes`
  UdpSocket *socket = nullptr;
};

// What a session needs of its endpoint.
class SessionHost {
 public:
  virtual ~SessionHost() = default;
  virtual const EndpointOptions &options() const = 0;
  virtual SessionHandler &handler() = 0;
  virtual std::shared_ptr<Credentials> credentials() = 0;
  virtual bool is_allowed(const std::string &fingerprint) = 0;
  virtual void add_connection_id(const ngtcp2_cid &id, SessionImpl &session) = 0;
  virtual void remove_connection_id(const ngtcp2_cid &id) = 0;
  virtual void reset_token(const ngtcp2_cid &id, uint8_t *token) = 0;  // NGTCP2_STATELESS_RESET_TOKENLEN bytes
  virtual void expect_more() = 0;                                      // for this thread: Session::expect_more()
  virtual uint8_t *batch_buffer() = 0;                                 // kBatchBytesMax + kDatagramBytesMax bytes
};

inline constexpr size_t kConnectionIdBytes = 8;  // of those that we give out
// Of records: waking a thread takes longer than to send them.
inline constexpr size_t kLittleBytes = 32u << 10;
inline constexpr uint64_t kControlWindowBytes = 1u << 20;
inline constexpr uint64_t kHandshakeTimeoutNs = 5'000'000'000;

enum AppError : uint64_t { kAppClosed = 0, kAppNotAllowed = 1 };  // of CONNECTION_CLOSE (0x1d)

// An Initial packet that the endpoint has decided to accept.
struct AcceptedInitial {
  ngtcp2_pkt_hd header;
  ngtcp2_cid original_dcid;  // differs from header.dcid after a Retry
  bool validated = false;    // came with a token of our Retry
};

class SessionImpl final : public Session, private PeerJudge {
 public:
  SessionImpl(SessionHost &host, SessionId id, bool outgoing);
  ~SessionImpl() override;

  // Session
  bool send_control(std::span<const uint8_t> bytes) override;
  void attach_records(RecordSource *source) override;
  void records_consumed(size_t bytes) override;
  void close(const std::string &text) override;

  // The endpoint's side.
  Status accept(const AcceptedInitial &initial, UdpSocket &socket, const Address &local, const Address &remote);
  void expect(std::string host_text, std::string fingerprint, uint64_t now);  // outgoing, before its address is known
  void dial(std::vector<Address> addresses, UdpSocket &socket);
  void address_refused(const Address &remote, int error);
  void read(const uint8_t *packet, size_t bytes, const Address &local, const Address &remote, uint64_t now);
  // The first packet of an accepted session. False: it was no packet of QUIC but looked like one.
  bool read_first(const uint8_t *packet, size_t bytes, const Address &local, const Address &remote, uint64_t now);
  // A packet with an id of nobody, which may be the peer's word that it does not know us (RFC 9000, 10.3).
  void read_reset(const uint8_t *packet, size_t bytes, const Address &remote);
  void on_timer(uint64_t now);
  uint64_t deadline() const { return deadline_; }
  void update_deadline();  // after whatever happened to the session

  enum class Written : uint8_t { kAll, kMore, kBlocked };
  Written write(uint64_t now);
  void socket_writable() { blocked_ = false; }
  bool blocked() const { return blocked_; }

  bool established() const { return established_; }
  size_t records_ready() const;
  void leave_sending_to(Parting *guest) { parting_ = guest; }  // null: it sends itself
  bool is_ending() const { return ending_.has_value(); }
  void refuse_key(const std::string &text);  // no longer allowed
  void fail(const std::string &text);        // it could not even begin
  UdpSocket *socket() const { return socket_; }

  // The end: writes CONNECTION_CLOSE if there is somebody to tell, and lets go of ngtcp2 and the record source.
  struct Farewell {
    CloseReason reason;
    std::string text;
    std::vector<uint8_t> packet;  // to be repeated when the peer goes on sending; may be empty
    Address local, remote;
    std::vector<ngtcp2_cid> connection_ids;
    uint64_t keep_until = 0;
  };
  Farewell say_farewell(uint64_t now);

  void turn_within(uint64_t ns) override { turn_due = std::min(turn_due, monotonic_ns() + ns); }
  // Not while much is on its way: both processors have enough to do then.
  void expect_more() override {
    if (records_sent_ - records_acked_ + records_ready() <= kLittleBytes) host_.expect_more();
  }

  bool dirty = true;               // something happened: give it a turn
  uint64_t turn_due = UINT64_MAX;  // monotonic: give it a turn then

 private:
  struct Ending {
    CloseReason reason;
    std::string text;          // for our handler
    bool tell_peer = false;    //
    bool application = false;  // the error space of `code`
    uint64_t code = 0;
    std::string peer_text = {};
  };
  struct Unsent {  // what the socket did not take
    std::vector<uint8_t> bytes;
    size_t segment = 0;
    Address local, remote;
  };
  struct Batch {  // being built in the host's buffer
    uint8_t *data;
    size_t length = 0, segment = 0, packets = 0;
    Address local, remote;
  };
  struct Chunk {  // of a stream, to be offered to ngtcp2
    int64_t stream = -1;
    ngtcp2_vec vector{};
  };

  // session-setup.cc
  Status open_connection(const AcceptedInitial *initial, const Address &local, const Address &remote);
  void drop_connection();
  void add_connection_id(const ngtcp2_cid &cid);
  void remove_connection_id(const ngtcp2_cid &cid);
  void next_address();
  void attempt_failed(const std::string &why);
  bool peer_key_is_good(const PeerIds &ids) override;
  void handshake_completed();
  void fill_settings(ngtcp2_settings &settings, ngtcp2_transport_params &params, const AcceptedInitial *initial);
  friend struct Callbacks;
  // session-end.cc
  void end(Ending ending);
  void end_by_peer();
  void end_by_failure(int liberr, const std::string &during);
  size_t write_close_packet(uint8_t *packet, uint64_t now);
  // session-impl.cc
  int stream_data(int64_t stream, std::span<const uint8_t> bytes, bool fin);
  void stream_acked(int64_t stream, uint64_t offset);
  void follow_peer();
  void update_stats();
  uint64_t clock(uint64_t now) { return last_ts_ = std::max(last_ts_, now); }
  // session-write.cc
  Written write_batches(uint64_t now);
  enum class Filled : uint8_t { kFull, kNothingMore, kFailed };
  Filled fill_batch(Batch &batch, size_t bytes_max, uint64_t now);
  ngtcp2_ssize write_packet(uint8_t *packet, size_t bytes, ngtcp2_path *path, uint64_t now);
  Chunk next_chunk(size_t bytes, uint64_t now);
  void chunk_sent(const Chunk &chunk, size_t bytes, size_t packet_bytes);
  bool open_streams();
  void rest();
  bool flush(const OutgoingBatch &batch);
  bool flush_unsent();

  SessionHost &host_;
  UdpSocket *socket_ = nullptr;
  ngtcp2_conn *conn_ = nullptr;
  ngtcp2_crypto_conn_ref conn_ref_{};
  std::unique_ptr<TlsSession> tls_;
  Address local_, remote_;
  std::vector<ngtcp2_cid> connection_ids_;  // by which packets find us

  // outgoing
  std::string host_text_;  // what connect() was given
  std::string expected_fingerprint_;
  std::vector<Address> addresses_;
  size_t address_index_ = 0;
  uint64_t attempt_deadline_ = UINT64_MAX;
  std::string last_failure_;  // why the last attempt failed, for the text of the timeout

  bool established_ = false;
  std::string verdict_;  // why the peer's key was refused; empty: it was not
  std::optional<Ending> ending_;
  bool dropped_ = false;  // ngtcp2 found nothing worth an answer

  ControlQueue control_;
  int64_t control_stream_ = -1, records_stream_ = -1;  // ours, for sending
  int64_t peer_records_stream_ = -1;                   // the peer's
  bool may_rest_ = false;       // it has sent all there was
  uint64_t rests_until_ = 0;    // what it has received is answered then, unless there is more to say; 0: at once
  Parting *parting_ = nullptr;  // of the guest that is at it
  RecordSource *records_ = nullptr;
  uint64_t records_sent_ = 0, records_acked_ = 0;  // stream offsets
  uint64_t records_received_ = 0, records_consumed_ = 0;
  bool control_blocked_ = false, records_blocked_ = false;  // by flow control, in this pass of write()

  Pace pace_;
  PacketSize packet_size_;
  size_t route_bytes_ = kHandshakePacketBytes;  // what our own route carries
  Unsent unsent_;
  bool blocked_ = false;  // unsent_ waits for the socket

  uint64_t started_ = 0, last_heard_ = 0, last_ts_ = 0, deadline_ = 0;
};

const ngtcp2_callbacks &session_callbacks();

}  // namespace understudy::quic
