// Who we are to NBD clients, and which of them are let in: X.509, pre-shared keys, or both (the client chooses).
#pragma once
#include <gnutls/gnutls.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"

namespace understudy::tls {

struct CredentialsSpec {
  std::string certificate_pem, key_pem;  // both empty: no X.509
  std::string ca_pem, crl_pem;           // for verify_peer
  bool verify_peer = false;              // clients need a certificate that ca_pem vouches for
  std::vector<std::pair<std::string, std::vector<uint8_t>>> psk;  // user, key
};

class Credentials {
 public:
  // EPROTO with GnuTLS's words when a PEM is unusable.
  static Result<std::shared_ptr<Credentials>> create(CredentialsSpec spec);
  ~Credentials();
  // Prepares a server's session; the credentials must outlive it.
  Status apply(gnutls_session_t session) const;

 private:
  Status load();
  Status load_x509();
  static int psk_key(gnutls_session_t session, const char *user, gnutls_datum_t *key);

  CredentialsSpec spec_;
  std::map<std::string, std::vector<uint8_t>> keys_;
  gnutls_certificate_credentials_t x509_ = nullptr;
  gnutls_psk_server_credentials_t psk_ = nullptr;
};

}  // namespace understudy::tls
