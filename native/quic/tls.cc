#include "quic/tls.h"

#include <gnutls/crypto.h>
#include <ngtcp2/ngtcp2_crypto_gnutls.h>
#include <time.h>

#include <cerrno>
#include <cstring>

namespace understudy::quic {
namespace {

constexpr char kProtocol[] = "understudy/1";
// AES-128-GCM only: ChaCha20 was measured at a quarter of its speed, and hosts without AES instructions are not ours.
constexpr char kPriority[] =
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM:-GROUP-ALL:+GROUP-X25519:+GROUP-SECP256R1:"
    "%DISABLE_TLS13_COMPAT_MODE";

struct Certificate {
  gnutls_x509_crt_t handle = nullptr;
  ~Certificate() {
    if (handle) gnutls_x509_crt_deinit(handle);
  }
};

struct PublicKey {
  gnutls_pubkey_t handle = nullptr;
  ~PublicKey() {
    if (handle) gnutls_pubkey_deinit(handle);
  }
};

gnutls_digest_algorithm_t signing_hash(gnutls_x509_crt_t certificate) {
  PublicKey key;
  gnutls_digest_algorithm_t hash = GNUTLS_DIG_SHA256;
  if (gnutls_pubkey_init(&key.handle) == 0 && gnutls_pubkey_import_x509(key.handle, certificate, 0) == 0)
    gnutls_pubkey_get_preferred_hash_algorithm(key.handle, &hash, nullptr);
  return hash;
}

int make_certificate(Certificate &certificate, gnutls_x509_privkey_t key, uint64_t valid_seconds) {
  static constexpr char kName[] = "CN=understudy";
  uint8_t serial[16];
  if (int error = gnutls_rnd(GNUTLS_RND_NONCE, serial, sizeof serial)) return error;
  serial[0] = (serial[0] & 0x7f) | 0x01;  // positive, and not 0
  const time_t now = time(nullptr);
  if (int error = gnutls_x509_crt_init(&certificate.handle)) return error;
  gnutls_x509_crt_t crt = certificate.handle;
  if (int error = gnutls_x509_crt_set_version(crt, 3)) return error;
  if (int error = gnutls_x509_crt_set_serial(crt, serial, sizeof serial)) return error;
  if (int error = gnutls_x509_crt_set_activation_time(crt, now - 3600)) return error;
  if (int error = gnutls_x509_crt_set_expiration_time(crt, now - 3600 + static_cast<time_t>(valid_seconds))) return error;
  if (int error = gnutls_x509_crt_set_dn(crt, kName, nullptr)) return error;
  if (int error = gnutls_x509_crt_set_key(crt, key)) return error;
  return gnutls_x509_crt_sign2(crt, crt, key, signing_hash(crt), 0);
}

constexpr uint64_t kEnvelopeSeconds = 86400ull * 3650;

Result<std::string> peer_fingerprint(gnutls_session_t session) {
  unsigned count = 0;
  const gnutls_datum_t *chain = gnutls_certificate_get_peers(session, &count);
  if (!chain || count == 0) return tls_failure(GNUTLS_E_NO_CERTIFICATE_FOUND, "peer's certificate");
  Certificate certificate;
  PublicKey key;
  int error = gnutls_x509_crt_init(&certificate.handle);
  if (!error) error = gnutls_x509_crt_import(certificate.handle, &chain[0], GNUTLS_X509_FMT_DER);
  if (!error) error = gnutls_pubkey_init(&key.handle);
  if (!error) error = gnutls_pubkey_import_x509(key.handle, certificate.handle, 0);
  if (error) return tls_failure(error, "peer's certificate");
  return spki_fingerprint(key.handle);
}

// Called by gnutls_handshake() with the peer's certificate, on the link thread. That the peer also holds the private
// key is proven by its CertificateVerify, which GnuTLS checks by itself.
int verify_peer(gnutls_session_t session) {
  auto *judge = static_cast<PeerJudge *>(gnutls_db_get_ptr(session));
  Result<std::string> fingerprint = peer_fingerprint(session);
  if (!judge || !fingerprint.ok() || !judge->peer_key_is_good(fingerprint.value)) return GNUTLS_E_CERTIFICATE_ERROR;
  return 0;
}

}  // namespace

Result<std::shared_ptr<Credentials>> Credentials::create(const Identity &identity) {
  Result<PrivateKey> key = load_key(identity);
  if (!key.ok()) return key.status;
  Certificate certificate;
  if (int error = make_certificate(certificate, key.value.handle, kEnvelopeSeconds)) return tls_failure(error, "identity: certificate");
  auto credentials = std::make_shared<Credentials>();
  if (int error = gnutls_certificate_allocate_credentials(&credentials->handle_))
    return tls_failure(error, "identity: credentials");
  if (int error = gnutls_certificate_set_x509_key(credentials->handle_, &certificate.handle, 1, key.value.handle))
    return tls_failure(error, "identity: credentials");
  gnutls_certificate_set_verify_function(credentials->handle_, verify_peer);
  return credentials;
}

Result<std::string> identity_certificate(const Identity &identity, uint64_t valid_seconds) {
  Result<PrivateKey> key = load_key(identity);
  if (!key.ok()) return key.status;
  Certificate certificate;
  gnutls_datum_t pem{};
  int error = make_certificate(certificate, key.value.handle, valid_seconds);
  if (!error) error = gnutls_x509_crt_export2(certificate.handle, GNUTLS_X509_FMT_PEM, &pem);
  if (error) return tls_failure(error, "identity: certificate");
  std::string text(reinterpret_cast<char *>(pem.data), pem.size);
  gnutls_free(pem.data);
  return text;
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
