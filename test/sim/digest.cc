// In place of SHA-256 (GnuTLS): a hash that is fast. Nobody attacks a simulation.
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include <cstdint>
#include <cstring>

#include "core/crc32c.h"

struct hash_hd_st {
  uint32_t crc, bytes;
};

static void put(const hash_hd_st &state, void *digest) {
  memset(digest, 0, 32);
  memcpy(digest, &state, sizeof state);
}

extern "C" {

int gnutls_hash_init(gnutls_hash_hd_t *handle, gnutls_digest_algorithm_t) {
  *handle = new hash_hd_st{};
  return 0;
}

int gnutls_hash(gnutls_hash_hd_t handle, const void *data, size_t bytes) {
  handle->crc = understudy::crc32c(handle->crc, data, bytes);
  handle->bytes += static_cast<uint32_t>(bytes);
  return 0;
}

void gnutls_hash_deinit(gnutls_hash_hd_t handle, void *digest) {
  put(*handle, digest);
  delete handle;
}

int gnutls_hash_fast(gnutls_digest_algorithm_t, const void *data, size_t bytes, void *digest) {
  put({understudy::crc32c(0, data, bytes), static_cast<uint32_t>(bytes)}, digest);
  return 0;
}

}  // extern "C"
