#include "tls/credentials.h"

#include <gnutls/crypto.h>
#include <gnutls/x509.h>

#include <cerrno>
#include <cstring>

namespace understudy::tls {
namespace {

constexpr char kPriority[] =
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305:"
    "%SERVER_PRECEDENCE";
// Only with an ephemeral exchange: a key that leaks later opens no old recording.
constexpr char kPriorityPsk[] = ":+ECDHE-PSK:+DHE-PSK";
constexpr char kPriorityPskOnly[] = ":-KX-ALL:+ECDHE-PSK:+DHE-PSK";
constexpr size_t kUnknownKeyBytes = 32;

Status failed(int gnutls_error, const char *what) {
  Status status = Status::failed(EPROTO, what);
  status.message = std::string(what) + ": " + gnutls_strerror(gnutls_error);
  return status;
}

gnutls_datum_t datum(const std::string &text) {
  return {reinterpret_cast<unsigned char *>(const_cast<char *>(text.data())), static_cast<unsigned>(text.size())};
}

}  // namespace

Result<std::shared_ptr<Credentials>> Credentials::create(CredentialsSpec spec) {
  auto credentials = std::make_shared<Credentials>();
  credentials->spec_ = std::move(spec);
  Status status = credentials->load();
  if (!status.ok()) return status;
  return credentials;
}

Credentials::~Credentials() {
  if (x509_) gnutls_certificate_free_credentials(x509_);
  if (psk_) gnutls_psk_free_server_credentials(psk_);
  for (auto &[user, key] : keys_) gnutls_memset(key.data(), 0, key.size());
}

Status Credentials::load() {
  if (!spec_.key_pem.empty()) {
    Status status = load_x509();
    gnutls_memset(spec_.key_pem.data(), 0, spec_.key_pem.size());
    if (!status.ok()) return status;
  }
  for (auto &[user, key] : spec_.psk) keys_[user] = std::move(key);
  spec_.psk.clear();
  if (keys_.empty()) return Status::good();
  if (int error = gnutls_psk_allocate_server_credentials(&psk_)) return failed(error, "TLS: pre-shared keys");
  gnutls_psk_set_server_credentials_function(psk_, psk_key);
  return Status::good();
}

Status Credentials::load_x509() {
  if (int error = gnutls_certificate_allocate_credentials(&x509_)) return failed(error, "TLS: certificates");
  const gnutls_datum_t certificate = datum(spec_.certificate_pem), key = datum(spec_.key_pem);
  if (int error = gnutls_certificate_set_x509_key_mem(x509_, &certificate, &key, GNUTLS_X509_FMT_PEM); error < 0)
    return failed(error, "TLS: server-cert.pem with server-key.pem");
  if (!spec_.verify_peer) return Status::good();
  const gnutls_datum_t authorities = datum(spec_.ca_pem), revoked = datum(spec_.crl_pem);
  const int count = gnutls_certificate_set_x509_trust_mem(x509_, &authorities, GNUTLS_X509_FMT_PEM);
  if (count <= 0) return failed(count < 0 ? count : GNUTLS_E_NO_CERTIFICATE_FOUND, "TLS: ca-cert.pem");
  if (spec_.crl_pem.empty()) return Status::good();
  const int lists = gnutls_certificate_set_x509_crl_mem(x509_, &revoked, GNUTLS_X509_FMT_PEM);
  return lists < 0 ? failed(lists, "TLS: ca-crl.pem") : Status::good();
}

Status Credentials::apply(gnutls_session_t session) const {
  std::string priority = kPriority;
  if (psk_) priority += x509_ ? kPriorityPsk : kPriorityPskOnly;
  if (int error = gnutls_priority_set_direct(session, priority.c_str(), nullptr)) return failed(error, "TLS: priorities");
  gnutls_session_set_ptr(session, const_cast<Credentials *>(this));
  if (psk_)
    if (int error = gnutls_credentials_set(session, GNUTLS_CRD_PSK, psk_)) return failed(error, "TLS: pre-shared keys");
  if (!x509_) return Status::good();
  if (int error = gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, x509_)) return failed(error, "TLS: certificates");
  if (!spec_.verify_peer) return Status::good();
  gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
  // Within the handshake: who fails it is told so by an alert. A certificate for servers is none for a client.
  static char client_purpose[] = GNUTLS_KP_TLS_WWW_CLIENT;
  static gnutls_typed_vdata_st purpose{GNUTLS_DT_KEY_PURPOSE_OID, reinterpret_cast<unsigned char *>(client_purpose),
                                       sizeof client_purpose - 1};
  gnutls_session_set_verify_cert2(session, &purpose, 1, 0);
  return Status::good();
}

// Called within gnutls_handshake(). A user that is not known gets a random key, and so fails like a wrong one.
int Credentials::psk_key(gnutls_session_t session, const char *user, gnutls_datum_t *key) {
  const auto *self = static_cast<const Credentials *>(gnutls_session_get_ptr(session));
  const auto found = self->keys_.find(user);
  const size_t bytes = found == self->keys_.end() ? kUnknownKeyBytes : found->second.size();
  key->data = static_cast<unsigned char *>(gnutls_malloc(bytes));
  key->size = static_cast<unsigned>(bytes);
  if (!key->data) return -1;
  if (found == self->keys_.end()) return gnutls_rnd(GNUTLS_RND_KEY, key->data, bytes);
  memcpy(key->data, found->second.data(), bytes);
  return 0;
}

}  // namespace understudy::tls
