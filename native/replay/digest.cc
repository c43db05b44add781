#include "replay/digest.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include <algorithm>
#include <vector>

#include "core/check.h"

namespace understudy::replay {
namespace {
constexpr uint64_t kPieceBytes = 256u << 10;

class Sha256 {
 public:
  Sha256() { CHECK(gnutls_hash_init(&handle_, GNUTLS_DIG_SHA256) == 0); }
  void add(const void *data, size_t bytes) { CHECK(gnutls_hash(handle_, data, bytes) == 0); }
  Digest finish() {
    Digest digest;
    gnutls_hash_deinit(handle_, digest.data());
    return digest;
  }

 private:
  gnutls_hash_hd_t handle_;
};
}  // namespace

int digest_range(Device &device, uint64_t offset, uint64_t bytes, bool stored, Digest *digest) {
  Sha256 hash;
  std::vector<uint8_t> piece(std::min(bytes, kPieceBytes));
  int error = 0;
  for (uint64_t at = 0; at < bytes && !error;) {
    const uint64_t now = std::min(kPieceBytes, bytes - at);
    error = stored ? device.read_stored(piece.data(), now, offset + at) : device.read(piece.data(), now, offset + at);
    if (!error) hash.add(piece.data(), now);
    at += now;
  }
  *digest = hash.finish();
  return error;
}

Digest digest_of_zeroes(uint64_t bytes) {
  Sha256 hash;
  const std::vector<uint8_t> piece(std::min(bytes, kPieceBytes));
  for (uint64_t at = 0; at < bytes; at += kPieceBytes) hash.add(piece.data(), std::min(kPieceBytes, bytes - at));
  return hash.finish();
}

}  // namespace understudy::replay
