// How a session ends: whose fault it was, in words for both sides.
#include <gnutls/gnutls.h>

#include <cstring>

#include "core/clock.h"
#include "quic/session-impl.h"

namespace understudy::quic {
namespace {

constexpr size_t kReasonBytesMax = 1000;

bool is_refusal_of_key(uint8_t alert) {
  switch (alert) {
    case GNUTLS_A_BAD_CERTIFICATE:
    case GNUTLS_A_UNSUPPORTED_CERTIFICATE:
    case GNUTLS_A_CERTIFICATE_REVOKED:
    case GNUTLS_A_CERTIFICATE_EXPIRED:
    case GNUTLS_A_CERTIFICATE_UNKNOWN:
    case GNUTLS_A_UNKNOWN_CA:
    case GNUTLS_A_ACCESS_DENIED:
    case GNUTLS_A_CERTIFICATE_REQUIRED: return true;
    default: return false;
  }
}

std::string alert_text(uint8_t alert) {
  const char *name = gnutls_alert_get_name(static_cast<gnutls_alert_description_t>(alert));
  return "TLS alert " + std::to_string(alert) + (name ? std::string(" (") + name + ")" : "");
}

// Text from the network, fit for a terminal and a log.
std::string printable(const uint8_t *text, size_t length) {
  std::string result(reinterpret_cast<const char *>(text), length);
  for (char &c : result)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  return result;
}

std::string seconds(uint64_t ns) {
  const std::string tenths = std::to_string(ns / 100'000'000);
  return ns < 1'000'000'000 ? "0." + tenths + " s" : tenths.substr(0, tenths.size() - 1) + "." + tenths.back() + " s";
}

}  // namespace

void SessionImpl::end(Ending ending) {
  if (ending_) return;  // the first cause counts
  ending_ = std::move(ending);
  dirty = true;
  deadline_ = 0;
}

void SessionImpl::close(const std::string &text) {
  const std::string cut = text.substr(0, kReasonBytesMax);
  end({CloseReason::kLocal, text, true, true, kAppClosed, cut});
}

void SessionImpl::refuse_key(const std::string &text) {
  end({CloseReason::kPeerNotAllowed, text, true, true, kAppNotAllowed, text});
}

void SessionImpl::fail(const std::string &text) { end({CloseReason::kTimeout, text}); }

// The peer has sent CONNECTION_CLOSE.
void SessionImpl::end_by_peer() {
  ngtcp2_connection_close_error error;
  ngtcp2_connection_close_error_default(&error);
  ngtcp2_conn_get_connection_close_error(conn_, &error);
  const std::string reason = printable(error.reason, error.reasonlen);
  const std::string suffix = reason.empty() ? "" : ": " + reason;
  if (error.type == NGTCP2_CONNECTION_CLOSE_ERROR_CODE_TYPE_APPLICATION) {
    const bool refused = error.error_code == kAppNotAllowed;
    end({refused ? CloseReason::kRefusedByPeer : CloseReason::kPeer,
         refused ? peer_address + " refuses our key" + suffix : reason});
    return;
  }
  const uint64_t code = error.error_code;
  if (code >= NGTCP2_CRYPTO_ERROR && code < NGTCP2_CRYPTO_ERROR + 256) {
    const auto alert = static_cast<uint8_t>(code - NGTCP2_CRYPTO_ERROR);
    const bool refused = is_refusal_of_key(alert);
    end({refused ? CloseReason::kRefusedByPeer : CloseReason::kProtocol,
         peer_address + (refused ? " refuses our key" : " ended the handshake") + suffix + ", " + alert_text(alert)});
  } else if (code == NGTCP2_NO_ERROR || code == NGTCP2_APPLICATION_ERROR || code == NGTCP2_CONNECTION_REFUSED) {
    end({CloseReason::kPeer, reason.empty() ? peer_address + " closed the session" : reason});
  } else {
    end({CloseReason::kProtocol, peer_address + " ended the session with QUIC error " + std::to_string(code) + suffix});
  }
}

// ngtcp2 has returned an error.
void SessionImpl::end_by_failure(int liberr, const std::string &during) {
  switch (liberr) {
    case NGTCP2_ERR_DRAINING: end_by_peer(); return;
    case NGTCP2_ERR_IDLE_CLOSE:
    case NGTCP2_ERR_HANDSHAKE_TIMEOUT: {
      const uint64_t waited = last_ts_ - last_heard_;
      const bool silent = outgoing && !established_;
      const std::string more = last_failure_.empty() ? "" : " (" + last_failure_ + ")";
      if (silent) end({CloseReason::kTimeout, "no answer from " + peer_address + " for " + seconds(waited) + more});
      else if (!established_) end({CloseReason::kTimeout, "the handshake with " + peer_address + " was not completed"});
      else
        end({CloseReason::kTimeout, "nothing heard from " + peer_address + " for " + seconds(waited) + more, true, true,
             kAppClosed, "nothing heard for " + seconds(waited)});
      return;
    }
    case NGTCP2_ERR_DROP_CONN:
    case NGTCP2_ERR_RETRY:
      dropped_ = true;
      end({CloseReason::kProtocol, during + ": " + peer_address + ": " + ngtcp2_strerror(liberr)});
      return;
    case NGTCP2_ERR_CRYPTO: {
      const uint8_t alert = ngtcp2_conn_get_tls_alert(conn_);
      const uint64_t code = NGTCP2_CRYPTO_ERROR | alert;
      if (!verdict_.empty()) end({CloseReason::kPeerNotAllowed, verdict_, true, false, code, verdict_});
      else if (is_refusal_of_key(alert))
        end({CloseReason::kPeerNotAllowed, peer_address + " showed no usable key, " + alert_text(alert), true, false,
             code, "a certificate with an allowed key is required"});
      else
        end({CloseReason::kProtocol, during + ": " + peer_address + ": " + alert_text(alert), true, false, code, ""});
      return;
    }
    default:
      end({CloseReason::kProtocol, during + ": " + peer_address + ": " + ngtcp2_strerror(liberr), true, false,
           ngtcp2_err_infer_quic_transport_error_code(liberr), ""});
  }
}

size_t SessionImpl::write_close_packet(uint8_t *packet, uint64_t now) {
  if (!conn_ || !ending_->tell_peer) return 0;
  const std::string &text = ending_->peer_text;
  // Without the reason if there is no room for it.
  for (size_t length : {std::min(text.size(), kReasonBytesMax), size_t{0}}) {
    ngtcp2_connection_close_error error;
    ngtcp2_connection_close_error_default(&error);
    const auto *reason = reinterpret_cast<const uint8_t *>(text.data());
    if (ending_->application)
      ngtcp2_connection_close_error_set_application_error(&error, ending_->code, reason, length);
    else ngtcp2_connection_close_error_set_transport_error(&error, ending_->code, reason, length);
    ngtcp2_pkt_info info{};
    const ngtcp2_ssize bytes =
        ngtcp2_conn_write_connection_close(conn_, nullptr, &info, packet, kHandshakePacketBytes, &error, clock(now));
    if (bytes > 0) return static_cast<size_t>(bytes);
  }
  return 0;
}

SessionImpl::Farewell SessionImpl::say_farewell(uint64_t now) {
  Farewell farewell{ending_->reason, ending_->text, {}, local_, remote_, {}, 0};
  if (conn_) {
    uint8_t packet[kHandshakePacketBytes];
    const size_t bytes = write_close_packet(packet, now);
    farewell.packet.assign(packet, packet + bytes);
    farewell.connection_ids = connection_ids_;
    farewell.keep_until = now + std::min<uint64_t>(3 * ngtcp2_conn_get_pto(conn_), 3'000'000'000);
    if (bytes) {
      SessionStats::add(stats.bytes_sent, bytes);
      SessionStats::add(stats.packets_sent, 1);
    }
  }
  records_ = nullptr;
  drop_connection();
  return farewell;
}

}  // namespace understudy::quic
