#include "replay/volume-image.h"

namespace understudy::replay {

void VolumeImage::preserve(uint64_t offset, uint64_t bytes, bool skip_holes) {
  for (FrozenBlocks *view : views_)
    if (view->preserve(*device_, offset, bytes, skip_holes) != 0) lost_views_ = true;
}

int VolumeImage::write(const void *data, size_t bytes, uint64_t offset) {
  preserve(offset, bytes, false);
  is_dirty_ = true;
  return device_->write(data, bytes, offset);
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
  return 0;
}

}  // namespace understudy::replay
