// This host's key: made, read, and named by the SHA-256 of its public half. No thread needed; nothing is kept.
#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include <cerrno>

#include "quic/endpoint.h"
#include "quic/tls.h"

namespace understudy::quic {

Status tls_failure(int gnutls_error, const std::string &what) {
  Status status = Status::failed(EPROTO, what);
  status.message = what + ": " + gnutls_strerror(gnutls_error);
  return status;
}

Result<std::string> spki_fingerprint(gnutls_pubkey_t key) {
  gnutls_datum_t der{};
  if (int error = gnutls_pubkey_export2(key, GNUTLS_X509_FMT_DER, &der)) return tls_failure(error, "fingerprint");
  uint8_t hash[32];
  const int error = gnutls_hash_fast(GNUTLS_DIG_SHA256, der.data, der.size, hash);
  gnutls_free(der.data);
  if (error) return tls_failure(error, "fingerprint");
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (uint8_t byte : hash) {
    hex += kDigits[byte >> 4];
    hex += kDigits[byte & 15];
  }
  return hex;
}

Result<PrivateKey> load_key(const Identity &identity) {
  PrivateKey key;
  if (int error = gnutls_x509_privkey_init(&key.handle)) return tls_failure(error, "identity: key");
  const gnutls_datum_t pem{reinterpret_cast<unsigned char *>(const_cast<char *>(identity.key_pem.data())),
                           static_cast<unsigned>(identity.key_pem.size())};
  if (int error = gnutls_x509_privkey_import2(key.handle, &pem, GNUTLS_X509_FMT_PEM, nullptr, 0))
    return tls_failure(error, "identity: read the private key (PEM)");
  return key;
}

Result<Identity> create_identity() {
  PrivateKey key;
  if (int error = gnutls_x509_privkey_init(&key.handle)) return tls_failure(error, "identity: key");
  const unsigned bits = GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1);
  if (int error = gnutls_x509_privkey_generate(key.handle, GNUTLS_PK_ECDSA, bits, 0))
    return tls_failure(error, "identity: create an ECDSA P-256 key");
  gnutls_datum_t pem{};
  if (int error = gnutls_x509_privkey_export2_pkcs8(key.handle, GNUTLS_X509_FMT_PEM, nullptr, GNUTLS_PKCS_PLAIN, &pem))
    return tls_failure(error, "identity: write the private key");
  Identity identity;
  identity.key_pem.assign(reinterpret_cast<const char *>(pem.data), pem.size);
  gnutls_memset(pem.data, 0, pem.size);
  gnutls_free(pem.data);
  return identity;
}

Result<std::string> identity_fingerprint(const Identity &identity) {
  Result<PrivateKey> key = load_key(identity);
  if (!key.ok()) return key.status;
  gnutls_privkey_t abstract_key = nullptr;
  gnutls_pubkey_t public_key = nullptr;
  int error = gnutls_privkey_init(&abstract_key);
  if (!error) error = gnutls_privkey_import_x509(abstract_key, key.value.handle, GNUTLS_PRIVKEY_IMPORT_COPY);
  if (!error) error = gnutls_pubkey_init(&public_key);
  if (!error) error = gnutls_pubkey_import_privkey(public_key, abstract_key, 0, 0);
  Result<std::string> result = error ? tls_failure(error, "identity: public key") : spki_fingerprint(public_key);
  if (public_key) gnutls_pubkey_deinit(public_key);
  if (abstract_key) gnutls_privkey_deinit(abstract_key);
  return result;
}

}  // namespace understudy::quic
