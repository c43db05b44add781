#include "quic/certificates.h"

#include <gnutls/crypto.h>
#include <time.h>

namespace understudy::quic {
namespace {

constexpr uint64_t kEnvelopeSeconds = 86400ull * 3650;
constexpr char kName[] = "CN=understudy";
constexpr char kFormerName[] = "CN=understudy former key";
constexpr char kCertificateHead[] = "-----BEGIN CERTIFICATE";

struct PublicKey {
  gnutls_pubkey_t handle = nullptr;
  ~PublicKey() {
    if (handle) gnutls_pubkey_deinit(handle);
  }
};

struct Issuer {
  gnutls_x509_crt_t certificate;
  gnutls_x509_privkey_t key;
};

gnutls_digest_algorithm_t signing_hash(gnutls_x509_crt_t certificate) {
  PublicKey key;
  gnutls_digest_algorithm_t hash = GNUTLS_DIG_SHA256;
  if (gnutls_pubkey_init(&key.handle) == 0 && gnutls_pubkey_import_x509(key.handle, certificate, 0) == 0)
    gnutls_pubkey_get_preferred_hash_algorithm(key.handle, &hash, nullptr);
  return hash;
}

// Signed by `issuer`, or by itself.
int make_certificate(Certificate &certificate, gnutls_x509_privkey_t key, uint64_t valid_seconds, const char *name,
                     const Issuer *issuer = nullptr) {
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
  if (int error = gnutls_x509_crt_set_dn(crt, name, nullptr)) return error;
  if (int error = gnutls_x509_crt_set_key(crt, key)) return error;
  const Issuer own{crt, key};
  const Issuer &by = issuer ? *issuer : own;
  return gnutls_x509_crt_sign2(crt, by.certificate, by.key, signing_hash(by.certificate), 0);
}

Result<std::string> to_pem(gnutls_x509_crt_t certificate) {
  gnutls_datum_t pem{};
  if (int error = gnutls_x509_crt_export2(certificate, GNUTLS_X509_FMT_PEM, &pem))
    return tls_failure(error, "identity: certificate");
  std::string text(reinterpret_cast<char *>(pem.data), pem.size);
  gnutls_free(pem.data);
  return text;
}

Result<std::string> id_of(gnutls_x509_crt_t certificate) {
  PublicKey key;
  int error = gnutls_pubkey_init(&key.handle);
  if (!error) error = gnutls_pubkey_import_x509(key.handle, certificate, 0);
  if (error) return tls_failure(error, "peer's certificate");
  return spki_fingerprint(key.handle);
}

bool vouches_for(gnutls_x509_crt_t former, gnutls_x509_crt_t certificate) {
  constexpr unsigned kSignatureOnly =
      GNUTLS_VERIFY_DISABLE_CA_SIGN | GNUTLS_VERIFY_DISABLE_TIME_CHECKS | GNUTLS_VERIFY_DISABLE_TRUSTED_TIME_CHECKS;
  unsigned verdict = ~0u;
  return gnutls_x509_crt_verify(certificate, &former, 1, kSignatureOnly, &verdict) == 0 && verdict == 0;
}

int import(Certificate &certificate, const gnutls_datum_t &der) {
  const int error = gnutls_x509_crt_init(&certificate.handle);
  return error ? error : gnutls_x509_crt_import(certificate.handle, &der, GNUTLS_X509_FMT_DER);
}

}  // namespace

Result<Identity> create_successor(const Identity &old) {
  Result<PrivateKey> old_key = load_key(old);
  if (!old_key.ok()) return old_key.status;
  Result<Identity> successor = create_identity();
  if (!successor.ok()) return successor;
  Result<PrivateKey> key = load_key(successor.value);
  if (!key.ok()) return key.status;
  Certificate former, endorsed;
  int error = make_certificate(former, old_key.value.handle, kEnvelopeSeconds, kFormerName);
  const Issuer issuer{former.handle, old_key.value.handle};
  if (!error) error = make_certificate(endorsed, key.value.handle, kEnvelopeSeconds, kName, &issuer);
  if (error) return tls_failure(error, "identity: endorsement");
  for (gnutls_x509_crt_t certificate : {endorsed.handle, former.handle}) {
    Result<std::string> pem = to_pem(certificate);
    if (!pem.ok()) return pem.status;
    successor.value.key_pem += pem.value;
  }
  return successor;
}

Result<std::string> identity_certificate(const Identity &identity, uint64_t valid_seconds) {
  Result<PrivateKey> key = load_key(identity);
  if (!key.ok()) return key.status;
  Certificate certificate;
  if (int error = make_certificate(certificate, key.value.handle, valid_seconds, kName))
    return tls_failure(error, "identity: certificate");
  return to_pem(certificate.handle);
}

Result<Chain> chain_of(const Identity &identity, const PrivateKey &key) {
  Chain chain;
  const size_t at = identity.key_pem.find(kCertificateHead);
  if (at == std::string::npos) {
    Certificate certificate;
    if (int error = make_certificate(certificate, key.handle, kEnvelopeSeconds, kName))
      return tls_failure(error, "identity: certificate");
    chain.certificates.push_back(std::exchange(certificate.handle, nullptr));
    return chain;
  }
  const gnutls_datum_t pem{reinterpret_cast<unsigned char *>(const_cast<char *>(identity.key_pem.data() + at)),
                           static_cast<unsigned>(identity.key_pem.size() - at)};
  gnutls_x509_crt_t *list = nullptr;
  unsigned count = 0;
  if (int error = gnutls_x509_crt_list_import2(&list, &count, &pem, GNUTLS_X509_FMT_PEM, 0))
    return tls_failure(error, "identity: endorsement");
  chain.certificates.assign(list, list + count);
  gnutls_free(list);
  return chain;
}

Result<PeerIds> ids_of_chain(const gnutls_datum_t *chain, unsigned count) {
  Certificate certificate, former;
  if (int error = import(certificate, chain[0])) return tls_failure(error, "peer's certificate");
  Result<std::string> own = id_of(certificate.handle);
  if (!own.ok()) return own.status;
  PeerIds ids{own.value, ""};
  if (count < 2 || import(former, chain[1]) != 0 || !vouches_for(former.handle, certificate.handle)) return ids;
  if (Result<std::string> id = id_of(former.handle); id.ok()) ids.former = id.value;
  return ids;
}

}  // namespace understudy::quic
