#include "replay/past-records.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/check.h"
#include "core/crc32c.h"

namespace understudy::replay {
namespace {
constexpr uint64_t kWholeBytesMax = 64u << 10;  // so much is read as a whole each time
bool is_zeroes(const RecordEntry &entry) {
  const auto type = static_cast<wire::RecordType>(entry.type);
  return type == wire::RecordType::kZero || type == wire::RecordType::kTrim;
}
}  // namespace

Result<std::shared_ptr<PastRecords>> PastRecords::open(std::vector<RecordEntry> entries, const Find &find) {
  auto records = std::shared_ptr<PastRecords>(new PastRecords(std::move(entries)));
  std::shared_ptr<LogPiece> last;
  for (const RecordEntry &entry : records->entries_) {
    if (last && entry.log_offset >= last->base() && entry.log_offset < last->end()) continue;
    auto segment = find(entry.log_offset);
    if (!segment.ok()) return segment.status;
    last = segment.value;
    records->segments_.emplace(last->base(), std::move(segment.value));
  }
  return records;
}

int PastRecords::read(uint32_t entry, uint64_t offset, size_t bytes, uint8_t *data) const {
  const RecordEntry &record = entries_[entry];
  CHECK(offset >= record.offset && offset + bytes <= record.offset + record.length);
  if (is_zeroes(record)) return memset(data, 0, bytes), 0;
  const LogPiece &segment = *std::prev(segments_.upper_bound(record.log_offset))->second;
  const uint64_t payload = record.log_offset + sizeof(wire::RecordHeader);
  size_t done = 0;
  if (record.length <= kWholeBytesMax || !checked_[entry].load(std::memory_order_acquire)) {
    std::vector<uint8_t> whole(record.length);
    if (const int error = segment.read(whole.data(), whole.size(), payload, &done)) return error;
    if (done != whole.size() || crc32c(0, whole.data(), whole.size()) != record.payload_crc32c) return EBADMSG;
    checked_[entry].store(true, std::memory_order_release);
    memcpy(data, whole.data() + (offset - record.offset), bytes);
    return 0;
  }
  if (const int error = segment.read(data, bytes, payload + (offset - record.offset), &done)) return error;
  return done == bytes ? 0 : EBADMSG;
}

void NewestRecords::add(uint64_t offset, uint64_t bytes, uint32_t entry) {
  if (!bytes) return;
  const uint64_t end = offset + bytes;
  auto next = pieces_.lower_bound(offset);
  if (next != pieces_.begin()) {
    const auto before = std::prev(next);
    const Piece piece = before->second;
    if (piece.end > offset) before->second.end = offset;
    if (piece.end > end) next = pieces_.emplace(end, piece).first;
  }
  while (next != pieces_.end() && next->first < end) {
    const Piece piece = next->second;
    next = pieces_.erase(next);
    if (piece.end > end) next = pieces_.emplace(end, piece).first;
  }
  pieces_.emplace_hint(next, offset, Piece{end, entry});
}

std::map<uint64_t, NewestRecords::Piece>::const_iterator NewestRecords::at(uint64_t offset) const {
  auto found = pieces_.upper_bound(offset);
  if (found != pieces_.begin() && std::prev(found)->second.end > offset) --found;
  return found;
}

}  // namespace understudy::replay
