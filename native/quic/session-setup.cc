// How a session begins: addresses, settings, the handshake and the judgement of the peer's key.
#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/clock.h"
#include "quic/random.h"
#include "quic/session-impl.h"

namespace understudy::quic {
namespace {

// Measured on loopback, 1350-byte packets, see README.md: with 1 % loss BBR keeps several times the rate of CUBIC, and
// without loss it is not slower.
constexpr ngtcp2_cc_algo kCongestionControl = NGTCP2_CC_ALGO_BBR;

// Before the first sample. 333 ms (RFC 9002) would make the first repetition of a lost packet wait for a second.
constexpr uint64_t kInitialRttNs = 50'000'000;
constexpr uint64_t kMaxAckDelayNs = 5'000'000;
// What the side that sends records receives are small frames, each of which would be acknowledged in a packet of its own:
// that waits for the records that follow, or a little (kAckRestNs).
constexpr size_t kFramesPerAck = 16;
// While there are more addresses to try.
constexpr uint64_t kAddressTimeoutNs = 1'000'000'000;

ngtcp2_conn *conn_of(ngtcp2_crypto_conn_ref *ref) { return *static_cast<ngtcp2_conn **>(ref->user_data); }

}  // namespace

SessionImpl::SessionImpl(SessionHost &host, SessionId session_id, bool is_outgoing)
    : host_(host), pace_(is_outgoing ? host.options().bytes_per_second_max : 0) {
  id = session_id;
  outgoing = is_outgoing;
  started_ = last_heard_ = last_ts_ = deadline_ = monotonic_ns();
}

SessionImpl::~SessionImpl() { drop_connection(); }

Status SessionImpl::accept(const AcceptedInitial &initial, UdpSocket &socket, const Address &local,
                           const Address &remote) {
  socket_ = &socket;
  return open_connection(&initial, local, remote);
}

void SessionImpl::expect(std::string host_text, std::string fingerprint, uint64_t now) {
  host_text_ = std::move(host_text);
  expected_fingerprint_ = std::move(fingerprint);
  peer_address = host_text_;
  started_ = last_heard_ = now;
  update_deadline();
}

void SessionImpl::dial(std::vector<Address> addresses, UdpSocket &socket) {
  socket_ = &socket;
  for (const Address &address : addresses)
    if (socket.reaches(address)) addresses_.push_back(socket.native(address));
  if (addresses_.empty()) {
    end({CloseReason::kProtocol, "connect: " + host_text_ + ": this host has no socket for such an address"});
    return;
  }
  address_index_ = 0;
  next_address();
}

// Opens a connection to addresses_[address_index_]; skips those to which there is no route.
void SessionImpl::next_address() {
  drop_connection();
  for (; address_index_ < addresses_.size(); address_index_++) {
    const Address &remote = addresses_[address_index_];
    if (route_payload_bytes(remote) == 0) {
      last_failure_ = "no route to " + remote.text();
      continue;
    }
    const uint64_t now = monotonic_ns();
    const bool last = address_index_ + 1 == addresses_.size();
    attempt_deadline_ = last ? UINT64_MAX : now + kAddressTimeoutNs;
    last_heard_ = now;  // each address has the whole idle timeout, bounded by attempt_deadline_
    Status status = open_connection(nullptr, socket_->local(), remote);
    if (!status.ok()) end({CloseReason::kProtocol, "connect: " + remote.text() + ": " + status.message});
    dirty = true;
    return;
  }
  end({CloseReason::kTimeout, "connect: " + host_text_ + ": " + last_failure_});
}

void SessionImpl::attempt_failed(const std::string &why) {
  last_failure_ = why;
  address_index_++;
  next_address();
}

void SessionImpl::address_refused(const Address &remote, int error) {
  // Anybody may forge ICMP: it shortens the wait for an answer, it never ends an established session.
  const bool refusal = error == ECONNREFUSED || error == EHOSTUNREACH || error == ENETUNREACH || error == EACCES;
  if (!outgoing || established_ || is_ending() || !conn_ || !refusal || !(remote_ == remote)) return;
  attempt_failed(error == ECONNREFUSED ? remote.text() + " refuses: nothing listens on that UDP port"
                                       : remote.text() + " cannot be reached: " + strerror(error));
}

void SessionImpl::fill_settings(ngtcp2_settings &settings, ngtcp2_transport_params &params,
                                const AcceptedInitial *initial) {
  const EndpointOptions &options = host_.options();
  ngtcp2_settings_default(&settings);
  settings.initial_ts = last_ts_;
  settings.cc_algo = kCongestionControl;
  settings.initial_rtt = kInitialRttNs;
  settings.max_tx_udp_payload_size = route_bytes_;
  settings.no_tx_udp_payload_size_shaping = 1;  // or nothing above 1452 bytes is ever sent
  settings.no_pmtud = 1;                        // packet-size.h does it
  settings.ack_thresh = outgoing ? kFramesPerAck : 2;
  settings.max_window = settings.max_stream_window = 0;  // windows grow by records_consumed() only
  settings.handshake_timeout = std::min(kHandshakeTimeoutNs, options.idle_timeout_ns);

  ngtcp2_transport_params_default(&params);
  params.initial_max_streams_bidi = 1;
  params.initial_max_streams_uni = 1;  // records: from whoever is the master, whichever side connected
  params.initial_max_stream_data_bidi_remote = kControlWindowBytes;
  params.initial_max_stream_data_bidi_local = 0;
  params.initial_max_stream_data_uni = options.record_window_bytes;
  params.initial_max_data = options.record_window_bytes + kControlWindowBytes;
  params.max_idle_timeout = options.idle_timeout_ns;
  params.max_udp_payload_size = route_bytes_;  // what comes back takes the same way: larger would be lost
  params.max_ack_delay = kMaxAckDelayNs;
  params.active_connection_id_limit = 4;
  if (!initial) return;
  params.original_dcid = initial->original_dcid;
  if (initial->validated) {
    params.retry_scid = initial->header.dcid;
    params.retry_scid_present = 1;
    settings.token = initial->header.token;
  }
}

Status SessionImpl::open_connection(const AcceptedInitial *initial, const Address &local, const Address &remote) {
  local_ = local;
  remote_ = remote;
  peer_address = remote.text();
  const size_t route = route_payload_bytes(remote);
  route_bytes_ = std::clamp(std::min(route ? route : kSmallPacketBytes, host_.options().packet_bytes_max),
                            kHandshakePacketBytes, kBatchBytesMax);
  clock(monotonic_ns());
  ngtcp2_settings settings;
  ngtcp2_transport_params params;
  fill_settings(settings, params, initial);
  ngtcp2_cid scid{};
  scid.datalen = kConnectionIdBytes;
  fill_random(scid.data, scid.datalen);
  ngtcp2_path path{{&local_.base, local_.length}, {&remote_.base, remote_.length}, nullptr};
  int error;
  if (initial) {
    params.stateless_reset_token_present = 1;
    host_.reset_token(scid, params.stateless_reset_token);
    error = ngtcp2_conn_server_new(&conn_, &initial->header.scid, &scid, &path, initial->header.version,
                                   &session_callbacks(), &settings, &params, nullptr, this);
  } else {
    ngtcp2_cid dcid{};
    dcid.datalen = 18;
    fill_random(dcid.data, dcid.datalen);
    error = ngtcp2_conn_client_new(&conn_, &dcid, &scid, &path, NGTCP2_PROTO_VER_V1, &session_callbacks(), &settings,
                                   &params, nullptr, this);
  }
  if (error) return Status::failed(EPROTO, std::string("QUIC connection: ") + ngtcp2_strerror(error));
  conn_ref_.get_conn = conn_of;
  conn_ref_.user_data = &conn_;
  tls_ = std::make_unique<TlsSession>();
  if (Status status = tls_->open(!outgoing, host_.credentials(), &conn_ref_, *this); !status.ok()) return status;
  ngtcp2_conn_set_tls_native_handle(conn_, tls_->handle());
  add_connection_id(scid);
  if (initial) add_connection_id(initial->header.dcid);  // until it hears from us the client uses one it made up
  update_deadline();
  return Status::good();
}

void SessionImpl::add_connection_id(const ngtcp2_cid &cid) {
  connection_ids_.push_back(cid);
  host_.add_connection_id(cid, *this);
}

void SessionImpl::remove_connection_id(const ngtcp2_cid &cid) {
  std::erase_if(connection_ids_, [&](const ngtcp2_cid &ours) { return ngtcp2_cid_eq(&ours, &cid) != 0; });
  host_.remove_connection_id(cid);
}

void SessionImpl::drop_connection() {
  for (const ngtcp2_cid &cid : connection_ids_) host_.remove_connection_id(cid);
  connection_ids_.clear();
  if (conn_) ngtcp2_conn_del(conn_);
  conn_ = nullptr;
  tls_.reset();
  unsent_ = {};
  blocked_ = false;
}

bool SessionImpl::peer_key_is_good(const PeerIds &ids) {
  const auto is_good = [&](const std::string &id) {
    return !id.empty() && (outgoing ? id == expected_fingerprint_ : host_.is_allowed(id));
  };
  peer_ids = ids;
  peer_fingerprint = !is_good(ids.own) && is_good(ids.former) ? ids.former : ids.own;
  if (is_good(peer_fingerprint)) return true;
  verdict_ = outgoing ? "the key of " + peer_address + " is " + ids.own + ", expected is " + expected_fingerprint_
                      : "the key " + ids.own + " is not allowed here";
  return false;
}

void SessionImpl::handshake_completed() {
  if (!tls_->speaks_our_protocol()) {
    end({CloseReason::kProtocol, "the peer does not speak understudy/1", true, false, NGTCP2_CRYPTO_ERROR | 120,
         "ALPN understudy/1 wanted"});
    return;
  }
  established_ = true;
  attempt_deadline_ = UINT64_MAX;
  addresses_.clear();
  last_failure_.clear();
  ngtcp2_conn_set_keep_alive_timeout(conn_, host_.options().idle_timeout_ns / 4);
  const ngtcp2_transport_params *peer = ngtcp2_conn_get_remote_transport_params(conn_);
  packet_size_.established(std::min<size_t>(route_bytes_, peer ? peer->max_udp_payload_size : kHandshakePacketBytes));
  stats.packet_bytes.store(packet_size_.current(), std::memory_order_relaxed);
  host_.handler().established(*this);
}

}  // namespace understudy::quic
