// BatchSource: the replication log as QUIC reads it in a session that compresses: batches of what a LogSource shows
// (wire/batch.h). Link thread only, or a guest's in its place.
//
//   log      |--- raw batch ---|--- raw batch ---|------ not looked at yet ------|
//   stream   |h| compressed |h|--- as it lies ---|
//            ^ acked                             ^ made_
//
// A batch is made when the transport asks for bytes behind the last one, of what there is then: it waits for nothing.
// So there is at most one that the transport has not begun with, and what is kept is what is on the way: as much as the
// peer's window lets pass, and one batch.
#pragma once
#include <deque>
#include <memory>

#include "core/counters.h"
#include "link/codec.h"
#include "link/log-source.h"
#include "wire/batch.h"

namespace understudy::link {

class BatchSource final : public quic::RecordSource {
 public:
  BatchSource(LogSource &log, std::unique_ptr<Codec> codec, CounterPage page);
  size_t peek(uint64_t offset, const uint8_t **data) override;
  size_t ready(uint64_t offset) override;
  void acked(uint64_t offset) override;

 private:
  struct Batch {
    uint64_t start, end;          // in the stream
    uint64_t raw_start, raw_end;  // in the log, from where the session began
    std::unique_ptr<uint8_t[]> bytes;  // the header, and what follows unless that is
    const uint8_t *raw = nullptr;      // ... as it lies in the log
  };
  bool make();
  size_t compress(std::span<const uint8_t> raw);
  bool sample_shrinks(std::span<const uint8_t> raw);

  LogSource &log_;
  const std::unique_ptr<Codec> codec_;
  CounterPage page_;
  std::deque<Batch> batches_;      // what the transport has not got acknowledged
  uint64_t made_ = 0, raw_ = 0;    // where the next batch begins, in the stream and in the log
  uint64_t passing_ = 0;           // so many raw bytes are not tried;
  uint64_t passes_;                // after the next failure: times its own
  const std::unique_ptr<uint8_t[]> scratch_;
};

}  // namespace understudy::link
