#include "quic/tls.h"

#include <ngtcp2/ngtcp2_crypto_gnutls.h>

#include <cstring>

#include "quic/certificates.h"

namespace understudy::quic {
namespace {

constexpr char kProtocol[] = "understudy/1";
// AES-128-GCM only: ChaCha20 was measured at a quarter of its speed, and hosts without AES instructions are not ours.
constexpr char kPriority[] =
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM:-GROUP-ALL:+GROUP-X25519:+GROUP-SECP256R1:"
    "%DISABLE_TLS13_COMPAT_MODE";

// What the peer proves itself to be with this handshake: its key, and a former one whose place that key has taken.
Result<PeerIds> peer_ids(gnutls_session_t session) {
  unsigned count = 0;
  const gnutls_datum_t *chain = gnutls_certificate_get_peers(session, &count);
  if (!chain || count == 0) return tls_failure(GNUTLS_E_NO_CERTIFICATE_FOUND, "peer's certificate");
  return ids_of_chain(chain, count);
}

// Called by gnutls_handshake() with the peer's certificate, on the link thread. That the peer also holds the private
// key is proven by its CertificateVerify, which GnuTLS checks by itself.
int verify_peer(gnutls_session_t session) {
  auto *judge = static_cast<PeerJudge *>(gnutls_db_get_ptr(session));
  Result<PeerIds> ids = peer_ids(session);
  if (!judge || !ids.ok() || !judge->peer_key_is_good(ids.value)) return GNUTLS_E_CERTIFICATE_ERROR;
  return 0;
}

}  // namespace

Result<std::shared_ptr<Credentials>> Credentials::create(const Identity &identity) {
  Result<PrivateKey> key = load_key(identity);
  if (!key.ok()) return key.status;
  Result<Chain> chain = chain_of(identity, key.value);
  if (!chain.ok()) return chain.status;
  auto credentials = std::make_shared<Credentials>();
  if (int error = gnutls_certificate_allocate_credentials(&credentials->handle_))
    return tls_failure(error, "identity: credentials");
  if (int error = gnutls_certificate_set_x509_key(credentials->handle_, chain.value.certificates.data(),
                                                  static_cast<int>(chain.value.certificates.size()), key.value.handle))
    return tls_failure(error, "identity: credentials");
  gnutls_certificate_set_verify_function(credentials->handle_, verify_peer);
  return credentials;
}

Credentials::~Credentials() {
  if (handle_) gnutls_certificate_free_credentials(handle_);
}

TlsSession::~TlsSession() {
  if (handle_) gnutls_deinit(handle_);
}

Status TlsSession::open(bool server, std::shared_ptr<Credentials> credentials, ngtcp2_crypto_conn_ref *conn_ref,
                        PeerJudge &judge) {
  credentials_ = std::move(credentials);
  const unsigned flags = (server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NO_TICKETS | GNUTLS_NO_AUTO_SEND_TICKET;
  if (int error = gnutls_init(&handle_, flags)) return tls_failure(error, "TLS session");
  if (int error = gnutls_priority_set_direct(handle_, kPriority, nullptr)) return tls_failure(error, "TLS priorities");
  if (server ? ngtcp2_crypto_gnutls_configure_server_session(handle_)
             : ngtcp2_crypto_gnutls_configure_client_session(handle_))
    return tls_failure(GNUTLS_E_INTERNAL_ERROR, "TLS session for QUIC");
  gnutls_session_set_ptr(handle_, conn_ref);  // ngtcp2's
  gnutls_db_set_ptr(handle_, &judge);         // ours: there is no session cache, so the pointer is free
  if (int error = gnutls_credentials_set(handle_, GNUTLS_CRD_CERTIFICATE, credentials_->handle()))
    return tls_failure(error, "TLS credentials");
  if (server) gnutls_certificate_server_set_request(handle_, GNUTLS_CERT_REQUIRE);
  const gnutls_datum_t protocol{reinterpret_cast<unsigned char *>(const_cast<char *>(kProtocol)), sizeof kProtocol - 1};
  if (int error = gnutls_alpn_set_protocols(handle_, &protocol, 1, GNUTLS_ALPN_MANDATORY))
    return tls_failure(error, "TLS ALPN");
  return Status::good();
}

bool TlsSession::speaks_our_protocol() const {
  gnutls_datum_t protocol{};
  return gnutls_alpn_get_selected_protocol(handle_, &protocol) == 0 && protocol.size == sizeof kProtocol - 1 &&
         memcmp(protocol.data, kProtocol, protocol.size) == 0;
}

}  // namespace understudy::quic
