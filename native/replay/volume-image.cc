#include "replay/volume-image.h"

namespace understudy::replay {
namespace {
constexpr size_t kPassingMax = 4096;  // what is beyond stays in the page cache
}  // namespace

void VolumeImage::preserve(uint64_t offset, uint64_t bytes, bool skip_holes) {
  for (FrozenBlocks *view : views_)
    if (view->preserve(*device_, offset, bytes, skip_holes) != 0) lost_views_ = true;
}

int VolumeImage::write(const void *data, size_t bytes, uint64_t offset) {
  preserve(offset, bytes, false);
  is_dirty_ = true;
  return device_->write(data, bytes, offset);
}

int VolumeImage::write_passing(const void *data, size_t bytes, uint64_t offset) {
  if (int error = write(data, bytes, offset)) return error;
  if (!passing_.empty() && passing_.back().end == offset)
    passing_.back().end += bytes;
  else if (passing_.size() < kPassingMax)
    passing_.push_back({offset, offset + bytes});
  return 0;
}

int VolumeImage::zero(uint64_t offset, uint64_t bytes, ZeroHow how) {
  preserve(offset, bytes, true);
  is_dirty_ = true;
  return device_->zero(offset, bytes, how, false);
}

int VolumeImage::flush() {
  if (!is_dirty_) return 0;
  if (int error = device_->flush()) return error;
  is_dirty_ = false;
  let_pass();
  return 0;
}

void VolumeImage::let_pass() {
  for (const auto &[start, end] : passing_) device_->forget_cached(start, end - start);
  passing_.clear();
}

}  // namespace understudy::replay
