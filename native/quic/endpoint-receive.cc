// Packets in: to their session, to a new one, or away.
#include <cstring>

#include "core/clock.h"
#include "quic/endpoint-impl.h"

namespace understudy::quic {

// Returns whether there may be more.
bool EndpointImpl::receive() {
  bool more = false;
  for (size_t i = 0; i < sockets_.size(); i++) {
    UdpSocket &socket = *sockets_[i];
    for (int round = 0; round < kReadRounds; round++) {
      IncomingBatch batches[UdpSocket::Buffers::kMessages];
      const size_t count = socket.receive(receive_buffers_, batches);
      const uint64_t now = count ? monotonic_ns() : 0;
      for (size_t b = 0; b < count; b++) receive_batch(socket, batches[b], now);
      if (count < UdpSocket::Buffers::kMessages) break;
      more |= round + 1 == kReadRounds;
    }
  }
  return more;
}

// Packets that came together are nearly always of one session: whose they are is looked up once for each run of them.
void EndpointImpl::receive_batch(UdpSocket &socket, const IncomingBatch &batch, uint64_t now) {
  constexpr uint8_t kLongHeader = 0x80;
  const uint8_t *before = nullptr;
  SessionImpl *session = nullptr;
  for (size_t at = 0; at < batch.length; at += batch.segment) {
    const uint8_t *packet = batch.data + at;
    const size_t bytes = std::min(batch.segment, batch.length - at);
    const bool is_short = bytes > kConnectionIdBytes && !(packet[0] & kLongHeader);
    if (session && is_short && memcmp(before + 1, packet + 1, kConnectionIdBytes) == 0) {
      session->read(packet, bytes, batch.local, batch.remote, now);
      continue;
    }
    SessionImpl *found = receive_packet(socket, batch, packet, bytes, now);
    session = is_short ? found : nullptr;
    before = packet;
  }
}

// Returns the session that took it, if any.
SessionImpl *EndpointImpl::receive_packet(UdpSocket &socket, const IncomingBatch &batch, const uint8_t *packet,
                                          size_t bytes, uint64_t now) {
  ngtcp2_version_cid id;
  const int error = ngtcp2_pkt_decode_version_cid(&id, packet, bytes, kConnectionIdBytes);
  if (error == NGTCP2_ERR_VERSION_NEGOTIATION) {
    if (!is_dialer(socket) && bytes >= kHandshakePacketBytes)
      reply(socket, batch, stateless_->version_negotiation({batch_buffer_.get(), kHandshakePacketBytes}, id, now));
    return nullptr;
  }
  if (error || id.dcidlen > NGTCP2_MAX_CIDLEN) return nullptr;
  ngtcp2_cid cid;
  ngtcp2_cid_init(&cid, id.dcid, id.dcidlen);
  auto found = routes_.find(cid);
  if (found == routes_.end()) {
    receive_stray(socket, batch, id, packet, bytes, now);
  } else if (found->second.session) {
    SessionImpl *const session = found->second.session;  // reading may change the routes
    session->read(packet, bytes, batch.local, batch.remote, now);
    return session;
  } else {
    const std::shared_ptr<Grave> grave = found->second.grave;
    visit_grave(*grave);
  }
  return nullptr;
}

void EndpointImpl::receive_stray(UdpSocket &socket, const IncomingBatch &batch, const ngtcp2_version_cid &id,
                                 const uint8_t *packet, size_t bytes, uint64_t now) {
  const bool long_header = packet[0] & 0x80;
  if (is_dialer(socket)) {
    // A stateless reset is made to look like a packet with any id: only its last bytes tell whom it means.
    for (auto &[session_id, session] : sessions_)
      if (!long_header && session->socket() == &socket) session->read_reset(packet, bytes, batch.remote);
  } else if (long_header) accept(socket, batch, packet, bytes, now);
  else reply(socket, batch, stateless_->stateless_reset({batch_buffer_.get(), kHandshakePacketBytes}, id, bytes, now));
}

void EndpointImpl::accept(UdpSocket &socket, const IncomingBatch &batch, const uint8_t *packet, size_t bytes,
                          uint64_t now) {
  AcceptedInitial initial{};
  if (ngtcp2_accept(&initial.header, packet, bytes) != 0) return;
  const std::span<uint8_t> buffer{batch_buffer_.get(), kHandshakePacketBytes};
  size_t half_open = 0;
  for (const auto &[id, session] : sessions_) half_open += !session->outgoing && !session->established();
  initial.original_dcid = initial.header.dcid;
  if (StatelessReplies::has_retry_token(initial.header)) {
    initial.validated = stateless_->token_is_good(initial.header, batch.remote, now, &initial.original_dcid);
    if (!initial.validated) {
      reply(socket, batch, stateless_->refuse(buffer, initial.header, NGTCP2_INVALID_TOKEN, "token expired", now));
      return;
    }
  }
  if (incoming_ >= kIncomingMax) {
    reply(socket, batch,
          stateless_->refuse(buffer, initial.header, NGTCP2_CONNECTION_REFUSED, "too many sessions here", now));
    return;
  }
  if (half_open >= kHalfOpenMax) return;  // the client repeats its packet
  if (now - bad_initials_since_ >= 1'000'000'000) {
    bad_initials_since_ = now;
    bad_initials_ = 0;
  }
  if ((half_open >= kRetryAbove || bad_initials_ >= kBadInitialsMax) && !initial.validated) {
    reply(socket, batch, stateless_->retry(buffer, initial.header, batch.remote, now));
    return;
  }
  static_assert(kRetryAbove < kHalfOpenMax);
  const SessionId session_id = next_session_id();
  auto session = std::make_unique<SessionImpl>(*this, session_id, false);
  SessionImpl &added = *session;
  if (!added.accept(initial, socket, batch.local, batch.remote).ok()) return;  // no memory: as if it was lost
  if (!added.read_first(packet, bytes, batch.local, batch.remote, now)) {
    bad_initials_++;  // not even encrypted as an Initial is: nobody needs to hear of it
    return;
  }
  sessions_.emplace(session_id, std::move(session));
  incoming_++;
}

void EndpointImpl::visit_grave(Grave &grave) {
  // At the 1st, 2nd, 4th, 8th ... packet (RFC 9000, 10.2.1).
  const unsigned visit = ++grave.visits;
  if (grave.packet.empty() || (visit & (visit - 1)) != 0) return;
  (void)grave.socket->send({grave.packet.data(), grave.packet.size(), grave.packet.size(), grave.local, grave.remote});
}

void EndpointImpl::reply(UdpSocket &socket, const IncomingBatch &batch, size_t bytes) {
  if (bytes == 0) return;
  (void)socket.send({batch_buffer_.get(), bytes, bytes, batch.local, batch.remote});  // may be lost like any packet
}

}  // namespace understudy::quic
