// TLS 1.3 for QUIC: a self-signed certificate made in memory, both sides show theirs, AES-128-GCM, ALPN
// "understudy/1", no tickets and no early data (each session is judged anew).
//
// A certificate is only the envelope of a public key here: its dates and names are not looked at, its fingerprint is.
#pragma once
#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <ngtcp2/ngtcp2_crypto.h>

#include <memory>
#include <string>
#include <utility>

#include "core/status.h"
#include "quic/endpoint.h"

namespace understudy::quic {

struct PrivateKey {
  gnutls_x509_privkey_t handle = nullptr;
  PrivateKey() = default;
  PrivateKey(PrivateKey &&other) noexcept : handle(std::exchange(other.handle, nullptr)) {}
  PrivateKey &operator=(PrivateKey &&other) noexcept {
    std::swap(handle, other.handle);
    return *this;
  }
  ~PrivateKey() {
    if (handle) gnutls_x509_privkey_deinit(handle);
  }
};

Status tls_failure(int gnutls_error, const std::string &what);
Result<PrivateKey> load_key(const Identity &identity);
Result<std::string> spki_fingerprint(gnutls_pubkey_t key);

// Key and certificate of this host, shared by the sessions that began with it.
class Credentials {
 public:
  static Result<std::shared_ptr<Credentials>> create(const Identity &identity);
  ~Credentials();
  gnutls_certificate_credentials_t handle() const { return handle_; }

 private:
  gnutls_certificate_credentials_t handle_ = nullptr;
};

// Who decides about the peer's key during the handshake.
class PeerJudge {
 public:
  virtual ~PeerJudge() = default;
  virtual bool peer_key_is_good(const PeerIds &ids) = 0;
};

// The TLS half of one QUIC connection. The conn_ref's user_data belongs to the caller; the judge must outlive this.
class TlsSession {
 public:
  TlsSession() = default;
  ~TlsSession();
  TlsSession(const TlsSession &) = delete;
  TlsSession &operator=(const TlsSession &) = delete;
  Status open(bool server, std::shared_ptr<Credentials> credentials, ngtcp2_crypto_conn_ref *conn_ref,
              PeerJudge &judge);
  gnutls_session_t handle() const { return handle_; }
  bool speaks_our_protocol() const;  // once the handshake is complete

 private:
  gnutls_session_t handle_ = nullptr;
  std::shared_ptr<Credentials> credentials_;
};

}  // namespace understudy::quic
