// Answers to packets that belong to no session: written from the packet alone, so that strangers cost no memory.
//
// None is longer than what it answers, and all together are limited to kRepliesPerSecond: garbage stays cheap.
#pragma once
#include <ngtcp2/ngtcp2.h>

#include <cstdint>
#include <span>
#include <string>

#include "quic/address.h"

namespace understudy::quic {

class StatelessReplies {
 public:
  // reset_seed: the same for every start of one host's key and port, so that a restarted daemon can tell its peers
  // at once that their sessions are gone. Must be a secret.
  explicit StatelessReplies(const std::string &reset_seed);

  void reset_token(const ngtcp2_cid &id, uint8_t *token) const;

  // Each writes a packet to `reply` and returns its size; 0: no reply.
  size_t version_negotiation(std::span<uint8_t> reply, const ngtcp2_version_cid &id, uint64_t now);
  size_t retry(std::span<uint8_t> reply, const ngtcp2_pkt_hd &initial, const Address &remote, uint64_t now);
  size_t refuse(std::span<uint8_t> reply, const ngtcp2_pkt_hd &initial, uint64_t error_code, const char *why,
                uint64_t now);
  size_t stateless_reset(std::span<uint8_t> reply, const ngtcp2_version_cid &id, size_t packet_bytes, uint64_t now);

  // Whether the token of `initial` is one of our Retry's, recent, and for this address.
  bool token_is_good(const ngtcp2_pkt_hd &initial, const Address &remote, uint64_t now, ngtcp2_cid *original_dcid);
  static bool has_retry_token(const ngtcp2_pkt_hd &initial);

 private:
  static constexpr unsigned kRepliesPerSecond = 2000;
  bool take_permit(uint64_t now);

  uint8_t reset_secret_[32];
  uint8_t token_secret_[32];  // new at every start
  uint64_t second_began_ = 0;
  unsigned replies_ = 0;
};

}  // namespace understudy::quic
