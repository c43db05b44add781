#include "replay/unapplied.h"

#include <algorithm>
#include <cerrno>

#include "core/check.h"
#include "core/thread.h"

namespace understudy::replay {
namespace {

bool can_be_shown(const RecordEntry &entry, size_t volumes) {
  const auto type = static_cast<wire::RecordType>(entry.type);
  if (type == wire::RecordType::kBegin || type == wire::RecordType::kStep || type == wire::RecordType::kVoid) return false;
  return !changes_image(entry) || entry.volume < volumes;
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

std::shared_ptr<Unapplied> Unapplied::of(std::vector<RecordEntry> pending, const SegmentLog &log, size_t volumes) {
  for (const RecordEntry &entry : pending)
    if (!can_be_shown(entry, volumes)) return nullptr;
  std::erase_if(pending, [](const RecordEntry &entry) { return !changes_image(entry); });
  auto bytes = PastRecords::open(std::move(pending), [&](uint64_t at) -> Result<std::shared_ptr<LogPiece>> {
    if (auto found = log.find(at)) return std::shared_ptr<LogPiece>(std::move(found));
    return Status::failed(EBADMSG, "no segment");
  });
  if (!bytes.ok()) return nullptr;
  auto records = std::make_shared<Records>();
  records->bytes = std::move(bytes.value);
  records->newest.resize(volumes);
  auto unapplied = std::make_shared<Unapplied>();
  unapplied->sorter_ = start_thread("us-sorter", [found = unapplied.get(), records] { found->sort(records); });
  return unapplied;
}

Unapplied::~Unapplied() { sorter_.join(); }

void Unapplied::sort(std::shared_ptr<Records> records) {
  const std::vector<RecordEntry> &entries = records->bytes->entries();
  for (uint32_t i = 0; i < entries.size(); i++)
    records->newest[entries[i].volume].add(entries[i].offset, entries[i].length, i);
  std::lock_guard lock(mutex_);
  if (!is_applied_.load(std::memory_order_relaxed)) records_ = std::move(records);
  sorted_.notify_all();
}

std::unique_ptr<Device> Unapplied::over(std::unique_ptr<Device> image, size_t volume) {
  return std::make_unique<UnappliedDevice>(std::move(image), shared_from_this(), volume);
}

void Unapplied::applied() {
  std::lock_guard lock(mutex_);
  records_.reset();
  is_applied_.store(true, std::memory_order_release);
  sorted_.notify_all();
}

std::shared_ptr<const Unapplied::Records> Unapplied::records() const {
  if (is_applied_.load(std::memory_order_acquire)) return nullptr;
  std::unique_lock lock(mutex_);
  sorted_.wait(lock, [this] { return records_ || is_applied_.load(std::memory_order_relaxed); });
  return records_;
}

}  // namespace understudy::replay
