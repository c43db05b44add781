// Which UDP payload a session sends: as large as both ends' routes promise, and small when large packets do not
// arrive (ngtcp2 0.12's own discovery ends at 1452 bytes).
//
//   large, unproven --3 PTOs in a row--> small for 5 s -> large, unproven --3 PTOs--> small for the session
//   large, unproven --a large packet acknowledged--> large, proven --3 PTOs--> small for 5 s -> large, unproven
//   any --the kernel says EMSGSIZE--> small for the session
//
// A peer that merely stalls looks like a black hole too: that is why a first failure is given a second chance.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace understudy::quic {

inline constexpr size_t kHandshakePacketBytes = 1200;  // RFC 9000, 14.1: what every path must carry
inline constexpr size_t kSmallPacketBytes = 1350;

class PacketSize {
 public:
  // Before this, kHandshakePacketBytes is used.
  void established(size_t large_bytes) {
    large_ = large_bytes;
    current_ = large_bytes;
  }
  size_t current() const { return current_; }

  // A packet of `bytes` carried the record stream up to `records_end`.
  void records_sent(size_t bytes, uint64_t records_end) {
    if (bytes > kSmallPacketBytes && !proven_ && proof_at_ == UINT64_MAX) proof_at_ = records_end;
  }
  void records_acked(uint64_t offset) {
    if (offset < proof_at_) return;
    proven_ = true;
    failures_ = 0;
    proof_at_ = UINT64_MAX;
  }
  void probe_timeouts(size_t in_a_row, uint64_t now_ns) {
    if (in_a_row < kTimeoutsMax || current_ <= kSmallPacketBytes) return;
    if (!proven_) failures_++;
    proven_ = false;
    shrink(failures_ >= kFailuresMax ? UINT64_MAX : now_ns + kRetryAfterNs);
  }
  void too_large() {
    if (current_ > kSmallPacketBytes) {
      shrink(UINT64_MAX);
    } else {
      current_ = kHandshakePacketBytes;
    }
  }
  // Called now and then while data is flowing.
  void maybe_grow(uint64_t now_ns) {
    if (now_ns < retry_at_) return;
    retry_at_ = UINT64_MAX;
    current_ = large_;
  }

 private:
  static constexpr size_t kTimeoutsMax = 3;
  static constexpr unsigned kFailuresMax = 2;
  static constexpr uint64_t kRetryAfterNs = 5'000'000'000;

  void shrink(uint64_t retry_at) {
    current_ = std::min(large_, kSmallPacketBytes);
    proof_at_ = UINT64_MAX;
    retry_at_ = retry_at;
  }

  size_t large_ = kHandshakePacketBytes;
  size_t current_ = kHandshakePacketBytes;
  bool proven_ = false;
  unsigned failures_ = 0;
  uint64_t proof_at_ = UINT64_MAX;  // record offset whose acknowledgement proves large packets
  uint64_t retry_at_ = UINT64_MAX;
};

}  // namespace understudy::quic
