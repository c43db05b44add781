#include "link/batch-source.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"

namespace understudy::link {
namespace {
constexpr size_t kTriedBytesMin = 256;            // less is a header or two, and a packet anyway
constexpr size_t kPieceBytes = 4096, kPieces = 4;  // of a sample
constexpr size_t kSampleBytes = kPieceBytes * kPieces;
constexpr uint64_t kPassesMin = 4, kPassesMax = 32;  // so many times the bytes that did not shrink are not tried after them

// What is to be gained at least: a tenth.
constexpr size_t worth(size_t raw_bytes) { return raw_bytes - raw_bytes / 10 - 1; }
}  // namespace

BatchSource::BatchSource(LogSource &log, std::unique_ptr<Codec> codec, CounterPage page)
    : log_(log), codec_(std::move(codec)), page_(page), passes_(kPassesMin), scratch_(new uint8_t[wire::kBatchBytesMax]) {}

size_t BatchSource::peek(uint64_t offset, const uint8_t **data) {
  if (offset == made_ && !make()) return 0;
  const Batch &batch = batches_.back();
  CHECK(offset >= batch.start);
  const uint64_t in = offset - batch.start;
  if (batch.raw && in >= sizeof(wire::BatchHeader)) {
    *data = batch.raw + in - sizeof(wire::BatchHeader);
    return batch.end - offset;
  }
  *data = batch.bytes.get() + in;
  return batch.raw ? sizeof(wire::BatchHeader) - in : batch.end - offset;
}

// Without making a batch: of what is in none yet, the raw bytes.
size_t BatchSource::ready(uint64_t offset) { return offset < made_ ? made_ - offset : log_.ready(raw_); }

// A batch that has arrived in part counts in proportion, so that it shows that bytes do arrive. Of one that is compressed the
// transport needs nothing in the log anyway.
void BatchSource::acked(uint64_t offset) {
  uint64_t raw = 0;
  while (!batches_.empty() && batches_.front().end <= offset) {
    raw = batches_.front().raw_end;
    batches_.pop_front();
  }
  if (!batches_.empty() && offset > batches_.front().start) {
    const Batch &batch = batches_.front();
    const uint64_t in = offset - batch.start, header = sizeof(wire::BatchHeader);
    if (batch.raw) raw = batch.raw_start + (in > header ? in - header : 0);
    else raw = batch.raw_start + (batch.raw_end - batch.raw_start) * in / (batch.end - batch.start);
  }
  if (raw) log_.acked(raw);
}

bool BatchSource::make() {
  const uint8_t *data = nullptr;
  const size_t raw_bytes = std::min<size_t>(log_.peek(raw_, &data), wire::kBatchBytesMax);
  if (!raw_bytes) return false;
  const size_t bytes = compress({data, raw_bytes});
  const wire::BatchHeader header{static_cast<uint32_t>(raw_bytes), static_cast<uint32_t>(bytes ? bytes : raw_bytes)};
  Batch batch{made_, made_ + sizeof header + header.bytes, raw_, raw_ + raw_bytes, {}, bytes ? nullptr : data};
  batch.bytes.reset(new uint8_t[sizeof header + bytes]);
  memcpy(batch.bytes.get(), &header, sizeof header);
  if (bytes) memcpy(batch.bytes.get() + sizeof header, scratch_.get(), bytes);
  made_ = batch.end;
  raw_ = batch.raw_end;
  batches_.push_back(std::move(batch));
  page_.add(kGroup_compress_raw_bytes, raw_bytes);
  page_.add(kGroup_compress_sent_bytes, sizeof header + header.bytes);
  return true;
}

// To scratch_. 0: it goes as it is.
size_t BatchSource::compress(std::span<const uint8_t> raw) {
  if (raw.size() < kTriedBytesMin) return 0;
  if (passing_ > 0) {
    passing_ -= std::min<uint64_t>(passing_, raw.size());
    return 0;
  }
  const size_t bytes = sample_shrinks(raw) ? codec_->compress(raw, scratch_.get(), worth(raw.size())) : 0;
  if (bytes) {
    passes_ = kPassesMin;
  } else {
    passing_ = passes_ * raw.size();
    passes_ = std::min(2 * passes_, kPassesMax);
  }
  return bytes;
}

bool BatchSource::sample_shrinks(std::span<const uint8_t> raw) {
  if (raw.size() < 2 * kSampleBytes) return true;  // it is tried as a whole
  uint8_t sample[kSampleBytes];
  for (size_t piece = 0; piece < kPieces; piece++)
    memcpy(sample + piece * kPieceBytes, raw.data() + piece * (raw.size() - kPieceBytes) / (kPieces - 1), kPieceBytes);
  return codec_->compress(sample, scratch_.get(), worth(kSampleBytes)) > 0;
}

}  // namespace understudy::link
