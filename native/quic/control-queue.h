// Bytes of the control stream that are queued or not yet acknowledged, at most 1 MiB (G7: the sender is refused
// beyond). Memory does not move once written, as QUIC needs it in place until it is acknowledged.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <span>

#include "core/check.h"

namespace understudy::quic {

class ControlQueue {
 public:
  static constexpr uint64_t kBytesMax = 1u << 20;

  bool push(std::span<const uint8_t> bytes) {
    if (end_ - acked_ + bytes.size() > kBytesMax) return false;
    while (!bytes.empty()) {
      if (end_ % kChunkBytes == 0) chunks_.push_back(std::make_unique<Chunk>());
      const size_t at = end_ % kChunkBytes;
      const size_t count = std::min(bytes.size(), kChunkBytes - at);
      memcpy(chunks_.back()->bytes + at, bytes.data(), count);
      end_ += count;
      bytes = bytes.subspan(count);
    }
    return true;
  }
  bool has_unsent() const { return sent_ < end_; }
  // The next contiguous unsent bytes.
  std::span<const uint8_t> unsent() const {
    if (sent_ == end_) return {};
    const size_t at = sent_ % kChunkBytes;
    const uint64_t count = std::min<uint64_t>(end_ - sent_, kChunkBytes - at);
    return {chunks_[sent_ / kChunkBytes - first_chunk_]->bytes + at, static_cast<size_t>(count)};
  }
  void sent(size_t bytes) {
    sent_ += bytes;
    CHECK(sent_ <= end_);
  }
  void acked(uint64_t offset) {
    CHECK(offset >= acked_ && offset <= sent_);
    acked_ = offset;
    while (!chunks_.empty() && (first_chunk_ + 1) * kChunkBytes <= acked_) {
      chunks_.pop_front();
      first_chunk_++;
    }
  }

 private:
  static constexpr size_t kChunkBytes = 16u << 10;
  struct Chunk {
    uint8_t bytes[kChunkBytes];
  };
  std::deque<std::unique_ptr<Chunk>> chunks_;
  uint64_t first_chunk_ = 0;                 // index of chunks_.front() in the stream
  uint64_t acked_ = 0, sent_ = 0, end_ = 0;  // stream offsets
};

}  // namespace understudy::quic
