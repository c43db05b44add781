// What a session hears: packets, timers, and ngtcp2's callbacks.
#include "quic/session-impl.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/clock.h"
#include "quic/random.h"

namespace understudy::quic {

SessionImpl *session_of(void *user_data) { return static_cast<SessionImpl *>(user_data); }

// ngtcp2 calls these on the link thread, from within read_pkt, writev_stream and handle_expiry.
struct Callbacks {
  static int stream_data(ngtcp2_conn *, uint32_t flags, int64_t stream, uint64_t, const uint8_t *data, size_t bytes,
                         void *user_data, void *) {
    return session_of(user_data)->stream_data(stream, {data, bytes}, flags & NGTCP2_STREAM_DATA_FLAG_FIN);
  }
  static int stream_acked(ngtcp2_conn *, int64_t stream, uint64_t offset, uint64_t bytes, void *user_data, void *) {
    session_of(user_data)->stream_acked(stream, offset + bytes);
    return 0;
  }
  static int handshake_completed(ngtcp2_conn *, void *user_data) {
    session_of(user_data)->handshake_completed();
    return 0;
  }
  static int new_connection_id(ngtcp2_conn *, ngtcp2_cid *cid, uint8_t *token, size_t bytes, void *user_data) {
    SessionImpl *session = session_of(user_data);
    cid->datalen = bytes;
    fill_random(cid->data, bytes);
    session->host_.reset_token(*cid, token);
    session->add_connection_id(*cid);
    return 0;
  }
  static int connection_id_gone(ngtcp2_conn *, const ngtcp2_cid *cid, void *user_data) {
    session_of(user_data)->remove_connection_id(*cid);
    return 0;
  }
  static int stream_reset(ngtcp2_conn *, int64_t, uint64_t, uint64_t, void *user_data, void *) {
    return broken_stream(user_data);
  }
  static int stop_sending(ngtcp2_conn *, int64_t, uint64_t, void *user_data, void *) {
    return broken_stream(user_data);
  }
  static int broken_stream(void *user_data) {
    SessionImpl *session = session_of(user_data);
    session->end({CloseReason::kProtocol, session->peer_address + " broke off a stream", true, false,
                  NGTCP2_PROTOCOL_VIOLATION, "streams last as long as the session"});
    return 0;
  }
  static void random(uint8_t *data, size_t bytes, const ngtcp2_rand_ctx *) { fill_random(data, bytes); }
};

const ngtcp2_callbacks &session_callbacks() {
  static const ngtcp2_callbacks callbacks = [] {
    ngtcp2_callbacks c{};
    c.client_initial = ngtcp2_crypto_client_initial_cb;
    c.recv_client_initial = ngtcp2_crypto_recv_client_initial_cb;
    c.recv_crypto_data = ngtcp2_crypto_recv_crypto_data_cb;
    c.encrypt = ngtcp2_crypto_encrypt_cb;
    c.decrypt = ngtcp2_crypto_decrypt_cb;
    c.hp_mask = ngtcp2_crypto_hp_mask_cb;
    c.recv_retry = ngtcp2_crypto_recv_retry_cb;
    c.update_key = ngtcp2_crypto_update_key_cb;
    c.delete_crypto_aead_ctx = ngtcp2_crypto_delete_crypto_aead_ctx_cb;
    c.delete_crypto_cipher_ctx = ngtcp2_crypto_delete_crypto_cipher_ctx_cb;
    c.get_path_challenge_data = ngtcp2_crypto_get_path_challenge_data_cb;
    c.version_negotiation = ngtcp2_crypto_version_negotiation_cb;
    c.rand = Callbacks::random;
    c.get_new_connection_id = Callbacks::new_connection_id;
    c.remove_connection_id = Callbacks::connection_id_gone;
    c.handshake_completed = Callbacks::handshake_completed;
    c.recv_stream_data = Callbacks::stream_data;
    c.acked_stream_data_offset = Callbacks::stream_acked;
    c.stream_reset = Callbacks::stream_reset;
    c.stream_stop_sending = Callbacks::stop_sending;
    return c;
  }();
  return callbacks;
}

bool SessionImpl::send_control(std::span<const uint8_t> bytes) {
  if (is_ending()) return true;  // closed() is about to say it
  dirty = true;
  return control_.push(bytes);
}

void SessionImpl::attach_records(RecordSource *source) {
  CHECK(source && !records_ && records_stream_ == -1);
  if (is_ending()) return;
  records_ = source;
  dirty = true;
}

void SessionImpl::records_consumed(size_t bytes) {
  records_consumed_ += bytes;
  CHECK(records_consumed_ <= records_received_);
  if (is_ending() || !conn_ || bytes == 0) return;
  // Cannot fail but for a stream that is gone, which ends the session anyway.
  (void)ngtcp2_conn_extend_max_stream_offset(conn_, peer_records_stream_, bytes);
  ngtcp2_conn_extend_max_offset(conn_, bytes);
  dirty = true;
}

int SessionImpl::stream_data(int64_t stream, std::span<const uint8_t> bytes, bool fin) {
  if (is_ending()) return 0;
  const bool ours = ngtcp2_conn_is_local_stream(conn_, stream);
  if (ours || fin) {
    end({CloseReason::kProtocol, peer_address + " uses a stream in a way we do not know", true, false,
         NGTCP2_PROTOCOL_VIOLATION, "unknown use of a stream"});
    return 0;
  }
  if (bytes.empty()) return 0;
  if ((stream & 2) == 0) {  // bidirectional (RFC 9000, 2.1)
    (void)ngtcp2_conn_extend_max_stream_offset(conn_, stream, bytes.size());
    ngtcp2_conn_extend_max_offset(conn_, bytes.size());
    host_.handler().control_received(*this, bytes);
    return 0;
  }
  peer_records_stream_ = stream;
  records_received_ += bytes.size();
  host_.handler().records_received(*this, bytes);
  return 0;
}

void SessionImpl::stream_acked(int64_t stream, uint64_t offset) {
  if (stream == control_stream_) {
    control_.acked(offset);
  } else if (stream == records_stream_) {
    records_acked_ = offset;
    packet_size_.records_acked(offset);
    if (records_ && !is_ending()) records_->acked(offset);
  }
}

void SessionImpl::read(const uint8_t *packet, size_t bytes, const Address &local, const Address &remote, uint64_t now) {
  if (is_ending() || !conn_) return;
  Address from = remote, to = local;
  const ngtcp2_path path{{&to.base, to.length}, {&from.base, from.length}, nullptr};
  const ngtcp2_pkt_info info{};
  const int error = ngtcp2_conn_read_pkt(conn_, &path, &info, packet, bytes, clock(now));
  SessionStats::add(stats.packets_received, 1);
  SessionStats::add(stats.bytes_received, bytes);
  dirty = true;
  if (error) {
    if (!is_ending()) end_by_failure(error, established_ ? "receive" : "handshake");
    return;
  }
  last_heard_ = last_ts_;
  rest();
  if (!(from == remote_)) follow_peer();
}

bool SessionImpl::read_first(const uint8_t *packet, size_t bytes, const Address &local, const Address &remote,
                             uint64_t now) {
  read(packet, bytes, local, remote, now);
  return !dropped_;
}

void SessionImpl::read_reset(const uint8_t *packet, size_t bytes, const Address &remote) {
  if (is_ending() || !established_ || bytes < NGTCP2_STATELESS_RESET_TOKENLEN || !(remote == remote_)) return;
  const uint8_t *token = packet + bytes - NGTCP2_STATELESS_RESET_TOKENLEN;
  std::vector<ngtcp2_cid_token> known(ngtcp2_conn_get_num_active_dcid(conn_));
  ngtcp2_conn_get_active_dcid(conn_, known.data());
  for (const ngtcp2_cid_token &peer : known) {
    if (!peer.token_present || gnutls_memcmp(peer.token, token, NGTCP2_STATELESS_RESET_TOKENLEN) != 0) continue;
    end({CloseReason::kPeer, peer_address + " does not know this session any more (it was restarted)"});
  }
}

// The peer's address has changed (NAT) and ngtcp2 has accepted, or is still checking, the new one.
void SessionImpl::follow_peer() {
  const ngtcp2_path *path = ngtcp2_conn_get_path(conn_);
  const Address now_at = Address::from(path->remote.addr, path->remote.addrlen);
  if (now_at == remote_) return;
  remote_ = now_at;
  local_ = Address::from(path->local.addr, path->local.addrlen);
  peer_address = remote_.text();
  if (established_) host_.handler().moved(*this);
}

void SessionImpl::on_timer(uint64_t now) {
  if (is_ending()) return;
  now = clock(now);
  dirty = true;
  const uint64_t idle = host_.options().idle_timeout_ns;
  if (!conn_) {  // the resolver is still at it
    if (now >= started_ + idle)
      end({CloseReason::kTimeout, "connect: " + host_text_ + ": no answer from the resolver"});
    return;
  }
  if (now >= attempt_deadline_) {
    attempt_failed(last_failure_.empty() ? "no answer from " + remote_.text() : last_failure_);
    return;
  }
  // ngtcp2 restarts its idle timer when it sends a keep-alive; ours counts from what was heard.
  int error = now >= last_heard_ + idle ? NGTCP2_ERR_IDLE_CLOSE : ngtcp2_conn_handle_expiry(conn_, now);
  if (error) {
    if (!is_ending()) end_by_failure(error, "timer");
    return;
  }
  if (!established_) return;
  ngtcp2_conn_stat state;
  ngtcp2_conn_get_conn_stat(conn_, &state);
  packet_size_.probe_timeouts(state.pto_count, now);
}

void SessionImpl::update_deadline() {
  if (is_ending()) return;
  const uint64_t heard = (conn_ ? last_heard_ : started_) + host_.options().idle_timeout_ns;
  deadline_ = std::min(heard, attempt_deadline_);
  if (conn_) deadline_ = std::min(deadline_, std::max(rests_until_, ngtcp2_conn_get_expiry(conn_)));
}

void SessionImpl::update_stats() {
  ngtcp2_conn_stat state;
  ngtcp2_conn_get_conn_stat(conn_, &state);
  stats.rtt_ns.store(state.smoothed_rtt, std::memory_order_relaxed);
  stats.congestion_window_bytes.store(state.cwnd, std::memory_order_relaxed);
  stats.in_flight_bytes.store(state.bytes_in_flight, std::memory_order_relaxed);
  stats.packet_bytes.store(packet_size_.current(), std::memory_order_relaxed);
  if (records_stream_ == -1) return;
  // ngtcp2 0.12 counts lost packets per stream, not bytes: each counts as a full one.
  const uint64_t lost = ngtcp2_conn_get_stream_loss_count(conn_, records_stream_);
  const uint64_t before = stats.packets_lost.load(std::memory_order_relaxed);
  stats.packets_lost.store(lost, std::memory_order_relaxed);
  SessionStats::add(stats.bytes_retransmitted, (lost - before) * packet_size_.current());
}

}  // namespace understudy::quic
