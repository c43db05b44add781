// BatchSink: the record stream of a session that compresses, on the standby: batches are expanded straight into the
// replica's ring (wire/batch.h). Link thread only.
//
// A stranger's bytes: what a batch may become is limited and known before it is expanded. A batch for which the ring has
// no room waits as it came. The peer gets no credit for it, so that no more than its window waits here.
#pragma once
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "link/codec.h"
#include "replay/record-room.h"
#include "wire/batch.h"

namespace understudy::link {

class BatchSink {
 public:
  explicit BatchSink(std::unique_ptr<Codec> codec) : codec_(std::move(codec)) {}
  // Takes all of `bytes`; none: goes on with what waited for room. An error is the end of the session: nothing is taken after it.
  Status receive(std::span<const uint8_t> bytes, replay::RecordRoom &room);
  // Of the stream as it came, since the last call: credit for the peer.
  size_t take_consumed() { return std::exchange(consumed_, 0); }
  size_t waiting_bytes() const { return waiting_.size() - at_; }

 private:
  Status take(std::span<const uint8_t> bytes, replay::RecordRoom &room, size_t &taken);

  const std::unique_ptr<Codec> codec_;
  wire::BatchHeader header_{};
  size_t left_ = 0;               // of the batch whose header is header_; 0: a header is next
  std::vector<uint8_t> waiting_;  // from at_ on: a part of a batch, or batches without room
  size_t at_ = 0;
  size_t consumed_ = 0;
  Status broken_ = Status::good();
};

}  // namespace understudy::link
