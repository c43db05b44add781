// Certificates as envelopes of keys, and the endorsement by which a host's former key vouches for its new one.
#pragma once
#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include <string>
#include <utility>
#include <vector>

#include "core/status.h"
#include "quic/endpoint.h"
#include "quic/tls.h"

namespace understudy::quic {

struct Certificate {
  gnutls_x509_crt_t handle = nullptr;
  Certificate() = default;
  Certificate(Certificate &&other) noexcept : handle(std::exchange(other.handle, nullptr)) {}
  ~Certificate() {
    if (handle) gnutls_x509_crt_deinit(handle);
  }
};

// What a host shows of itself: a certificate of its key, and the endorser's behind it, if there is one.
struct Chain {
  std::vector<gnutls_x509_crt_t> certificates;
  Chain() = default;
  Chain(Chain &&) noexcept = default;
  Chain &operator=(Chain &&other) noexcept {
    certificates.swap(other.certificates);
    return *this;
  }
  ~Chain() {
    for (gnutls_x509_crt_t certificate : certificates) gnutls_x509_crt_deinit(certificate);
  }
};

Result<Chain> chain_of(const Identity &identity, const PrivateKey &key);

// As the other side sees it, DER. An endorsement that does not hold is as good as none.
Result<PeerIds> ids_of_chain(const gnutls_datum_t *chain, unsigned count);

}  // namespace understudy::quic
