#include "replay/unapplied.h"

#include <algorithm>
#include <cerrno>

#include "core/check.h"
#include "replay/commit-tracker.h"

namespace understudy::replay {
namespace {

using wire::RecordHeader;
using wire::RecordType;

constexpr size_t kRecordsMax = 256u << 10;  // some 40 MiB

// False: it cannot be shown; or there is no whole record.
bool read_header(const Segment &segment, uint64_t at, RecordHeader *header) {
  size_t done = 0;
  if (segment.read(header, sizeof *header, at, &done) != 0 || done != sizeof *header) return false;
  if (check_header(*header) != wire::RecordFault::kNone) return false;
  return header->type != RecordType::kBegin && header->type != RecordType::kStep && header->type != RecordType::kVoid;
}

RecordEntry entry_of(const RecordHeader &header, uint64_t at) {
  return {at, header.offset, header.length, header.sequence, header.time_ns, header.payload_crc32c, header.volume_index,
          static_cast<uint8_t>(header.type), 0};
}

class UnappliedDevice final : public Device {
 public:
  UnappliedDevice(std::unique_ptr<Device> image, std::shared_ptr<Unapplied> unapplied, size_t volume)
      : image_(std::move(image)), unapplied_(std::move(unapplied)), volume_(volume) {
    traits_ = image_->traits();
  }

  int read(void *data, size_t bytes, uint64_t offset) override {
    const auto records = unapplied_->records();
    const int error = image_->read(data, bytes, offset);
    return error || !records ? error : add(*records, static_cast<uint8_t *>(data), bytes, offset);
  }
  int read_now(void *data, size_t bytes, uint64_t offset) override {
    const auto records = unapplied_->records();
    return records && touches(*records, offset, bytes) ? EAGAIN : image_->read_now(data, bytes, offset);
  }
  int read_stored(void *data, size_t bytes, uint64_t offset) override {
    const auto records = unapplied_->records();
    const int error = image_->read_stored(data, bytes, offset);
    return error || !records ? error : add(*records, static_cast<uint8_t *>(data), bytes, offset);
  }
  int write(const void *data, size_t bytes, uint64_t offset) override {
    CHECK(!unapplied_->records());
    return image_->write(data, bytes, offset);
  }
  int zero(uint64_t offset, uint64_t bytes, ZeroHow how, bool fast_only) override {
    CHECK(!unapplied_->records());
    return image_->zero(offset, bytes, how, fast_only);
  }
  Extent extent(uint64_t offset, uint64_t bytes) override {
    const auto records = unapplied_->records();
    return records ? extent_with(*records, offset, bytes) : image_->extent(offset, bytes);
  }
  uint64_t hole_bytes(uint64_t offset, uint64_t bytes) override {
    return unapplied_->records() ? Device::hole_bytes(offset, bytes) : image_->hole_bytes(offset, bytes);
  }
  int flush() override { return image_->flush(); }
  void unlock() override { image_->unlock(); }
  void forget_cached(uint64_t offset, uint64_t bytes) override { image_->forget_cached(offset, bytes); }
  void prefetch(uint64_t offset, uint64_t bytes) override { image_->prefetch(offset, bytes); }

 private:
  bool touches(const Unapplied::Records &records, uint64_t offset, uint64_t bytes) const {
    const NewestRecords &newest = records.newest[volume_];
    const auto piece = newest.at(offset);
    return piece != newest.pieces().end() && piece->first < offset + bytes;
  }
  int add(const Unapplied::Records &records, uint8_t *data, size_t bytes, uint64_t offset) const {
    const NewestRecords &newest = records.newest[volume_];
    const uint64_t end = offset + bytes;
    for (auto piece = newest.at(offset); piece != newest.pieces().end() && piece->first < end; ++piece) {
      const uint64_t from = std::max(offset, piece->first), until = std::min(end, piece->second.end);
      if (const int error = records.bytes->read(piece->second.entry, from, until - from, data + (from - offset))) return error;
    }
    return 0;
  }
  Extent extent_with(const Unapplied::Records &records, uint64_t offset, uint64_t bytes) {
    const NewestRecords &newest = records.newest[volume_];
    const auto piece = newest.at(offset);
    if (piece == newest.pieces().end()) return image_->extent(offset, bytes);
    if (piece->first <= offset) return {std::min(bytes, piece->second.end - offset), false};
    return image_->extent(offset, std::min(bytes, piece->first - offset));
  }

  std::unique_ptr<Device> image_;
  std::shared_ptr<Unapplied> unapplied_;
  const size_t volume_;
};

}  // namespace

std::shared_ptr<Unapplied> Unapplied::find(const SegmentLog &log, size_t volumes, uint64_t from, uint64_t end) {
  std::vector<RecordEntry> entries;
  auto records = std::make_shared<Records>();
  records->newest.resize(volumes);
  std::shared_ptr<Segment> segment;
  for (uint64_t at = from; at < end;) {
    if (!segment || at < segment->base() || at >= segment->end()) segment = log.find(at);
    RecordHeader header;
    if (!segment || entries.size() == kRecordsMax || !read_header(*segment, at, &header)) return nullptr;
    const RecordEntry entry = entry_of(header, at);
    at += record_bytes(header);
    if (!wire::is_sequenced(header.type) || !changes_image(entry)) continue;
    if (header.volume_index >= volumes) return nullptr;
    records->newest[header.volume_index].add(header.offset, header.length, static_cast<uint32_t>(entries.size()));
    entries.push_back(entry);
  }
  auto bytes = PastRecords::open(std::move(entries), [&](uint64_t at) -> Result<std::shared_ptr<LogPiece>> {
    if (auto found = log.find(at)) return std::shared_ptr<LogPiece>(std::move(found));
    return Status::failed(EBADMSG, "no segment");
  });
  if (!bytes.ok()) return nullptr;
  records->bytes = std::move(bytes.value);
  auto unapplied = std::make_shared<Unapplied>();
  unapplied->records_ = std::move(records);
  return unapplied;
}

std::unique_ptr<Device> Unapplied::over(std::unique_ptr<Device> image, size_t volume) {
  return std::make_unique<UnappliedDevice>(std::move(image), shared_from_this(), volume);
}

void Unapplied::applied() {
  std::lock_guard lock(mutex_);
  records_.reset();
  is_applied_.store(true, std::memory_order_release);
}

std::shared_ptr<const Unapplied::Records> Unapplied::records() const {
  if (is_applied_.load(std::memory_order_acquire)) return nullptr;
  std::lock_guard lock(mutex_);
  return records_;
}

}  // namespace understudy::replay
