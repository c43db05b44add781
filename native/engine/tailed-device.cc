#include "engine/tailed-device.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace understudy {
namespace {

class TailedDevice final : public Device {
 public:
  TailedDevice(std::unique_ptr<Device> base, std::vector<uint8_t> tail)
      : base_(std::move(base)), tail_(std::move(tail)), base_bytes_(base_->traits().size_bytes) {
    traits_ = base_->traits();
    traits_.size_bytes += tail_.size();
    traits_.read_only = true;
    traits_.can_zero = false;
  }

  int read(void *data, size_t bytes, uint64_t offset) override {
    const size_t below = in_base(bytes, offset);
    if (int error = below ? base_->read(data, below, offset) : 0) return error;
    return copy_tail(data, bytes, offset, below);
  }
  int read_now(void *data, size_t bytes, uint64_t offset) override {
    const size_t below = in_base(bytes, offset);
    if (int error = below ? base_->read_now(data, below, offset) : 0) return error;
    return copy_tail(data, bytes, offset, below);
  }
  int write(const void *, size_t, uint64_t) override { return EROFS; }
  int zero(uint64_t, uint64_t, ZeroHow, bool) override { return EROFS; }
  int flush() override { return 0; }
  void prefetch(uint64_t offset, uint64_t bytes) override {
    if (const size_t below = in_base(bytes, offset)) base_->prefetch(offset, below);
  }
  Extent extent(uint64_t offset, uint64_t bytes) override {
    const size_t below = in_base(bytes, offset);
    return below ? base_->extent(offset, below) : Extent{bytes, false};
  }

 private:
  size_t in_base(uint64_t bytes, uint64_t offset) const {
    return offset >= base_bytes_ ? 0 : std::min<uint64_t>(bytes, base_bytes_ - offset);
  }
  int copy_tail(void *data, size_t bytes, uint64_t offset, size_t below) const {
    if (below < bytes)
      std::memcpy(static_cast<uint8_t *>(data) + below, tail_.data() + (offset + below - base_bytes_), bytes - below);
    return 0;
  }

  std::unique_ptr<Device> base_;
  const std::vector<uint8_t> tail_;
  const uint64_t base_bytes_;
};

}  // namespace

std::unique_ptr<Device> with_tail(std::unique_ptr<Device> base, std::vector<uint8_t> tail) {
  return std::make_unique<TailedDevice>(std::move(base), std::move(tail));
}

}  // namespace understudy
