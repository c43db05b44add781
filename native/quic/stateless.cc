#include "quic/stateless.h"

#include <gnutls/crypto.h>
#include <ngtcp2/ngtcp2_crypto.h>

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "quic/random.h"
#include "quic/session-impl.h"

namespace understudy::quic {
namespace {
constexpr uint64_t kTokenLifeNs = 10'000'000'000;
// RFC 9000, 10.3: a reset looks like a packet of a session, and is smaller than what it answers, so that two sides
// that both know nothing stop.
constexpr size_t kResetBytesMax = 43;
constexpr size_t kResetBytesMin = NGTCP2_MIN_STATELESS_RESET_RANDLEN + NGTCP2_STATELESS_RESET_TOKENLEN;
}  // namespace

StatelessReplies::StatelessReplies(const std::string &reset_seed) {
  const std::string seed = "understudy stateless reset\n" + reset_seed;
  CHECK(gnutls_hash_fast(GNUTLS_DIG_SHA256, seed.data(), seed.size(), reset_secret_) == 0);
  fill_random(token_secret_, sizeof token_secret_);
}

bool StatelessReplies::take_permit(uint64_t now) {
  if (now - second_began_ >= 1'000'000'000) {
    second_began_ = now;
    replies_ = 0;
  }
  return replies_++ < kRepliesPerSecond;
}

void StatelessReplies::reset_token(const ngtcp2_cid &id, uint8_t *token) const {
  CHECK(ngtcp2_crypto_generate_stateless_reset_token(token, reset_secret_, sizeof reset_secret_, &id) == 0);
}

size_t StatelessReplies::version_negotiation(std::span<uint8_t> reply, const ngtcp2_version_cid &id, uint64_t now) {
  if (!take_permit(now)) return 0;
  const uint32_t versions[] = {NGTCP2_PROTO_VER_V1};
  uint8_t unused;
  fill_random(&unused, 1);
  const ngtcp2_ssize bytes = ngtcp2_pkt_write_version_negotiation(reply.data(), reply.size(), unused, id.scid,
                                                                  id.scidlen, id.dcid, id.dcidlen, versions, 1);
  return bytes > 0 ? static_cast<size_t>(bytes) : 0;
}

size_t StatelessReplies::retry(std::span<uint8_t> reply, const ngtcp2_pkt_hd &initial, const Address &remote,
                               uint64_t now) {
  if (!take_permit(now)) return 0;
  ngtcp2_cid scid{};
  scid.datalen = kConnectionIdBytes;
  fill_random(scid.data, scid.datalen);
  uint8_t token[NGTCP2_CRYPTO_MAX_RETRY_TOKENLEN];
  const ngtcp2_ssize token_bytes =
      ngtcp2_crypto_generate_retry_token(token, token_secret_, sizeof token_secret_, initial.version, &remote.base,
                                         remote.length, &scid, &initial.dcid, now);
  if (token_bytes < 0) return 0;
  const ngtcp2_ssize bytes = ngtcp2_crypto_write_retry(reply.data(), reply.size(), initial.version, &initial.scid,
                                                       &scid, &initial.dcid, token, static_cast<size_t>(token_bytes));
  return bytes > 0 ? static_cast<size_t>(bytes) : 0;
}

size_t StatelessReplies::refuse(std::span<uint8_t> reply, const ngtcp2_pkt_hd &initial, uint64_t error_code,
                                const char *why, uint64_t now) {
  if (!take_permit(now)) return 0;
  const ngtcp2_ssize bytes =
      ngtcp2_crypto_write_connection_close(reply.data(), reply.size(), initial.version, &initial.scid, &initial.dcid,
                                           error_code, reinterpret_cast<const uint8_t *>(why), strlen(why));
  return bytes > 0 ? static_cast<size_t>(bytes) : 0;
}

size_t StatelessReplies::stateless_reset(std::span<uint8_t> reply, const ngtcp2_version_cid &id, size_t packet_bytes,
                                         uint64_t now) {
  if (packet_bytes <= kResetBytesMin || id.dcidlen != kConnectionIdBytes || !take_permit(now)) return 0;
  ngtcp2_cid cid;
  ngtcp2_cid_init(&cid, id.dcid, id.dcidlen);
  uint8_t token[NGTCP2_STATELESS_RESET_TOKENLEN];
  reset_token(cid, token);
  uint8_t noise[kResetBytesMax - NGTCP2_STATELESS_RESET_TOKENLEN];
  const size_t noise_bytes = std::min(kResetBytesMax, packet_bytes - 1) - NGTCP2_STATELESS_RESET_TOKENLEN;
  fill_random(noise, noise_bytes);
  const ngtcp2_ssize bytes = ngtcp2_pkt_write_stateless_reset(reply.data(), reply.size(), token, noise, noise_bytes);
  return bytes > 0 ? static_cast<size_t>(bytes) : 0;
}

bool StatelessReplies::has_retry_token(const ngtcp2_pkt_hd &initial) {
  return initial.token.len > 0 && initial.token.base[0] == NGTCP2_CRYPTO_TOKEN_MAGIC_RETRY;
}

bool StatelessReplies::token_is_good(const ngtcp2_pkt_hd &initial, const Address &remote, uint64_t now,
                                     ngtcp2_cid *original_dcid) {
  return has_retry_token(initial) &&
         ngtcp2_crypto_verify_retry_token(original_dcid, initial.token.base, initial.token.len, token_secret_,
                                          sizeof token_secret_, initial.version, &remote.base, remote.length,
                                          &initial.dcid, kTokenLifeNs, now) == 0;
}

}  // namespace understudy::quic
