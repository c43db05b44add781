#include "replay/view.h"

#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <mutex>
#include <vector>

#include "core/check.h"
#include "replay/file-io.h"

namespace understudy::replay {
namespace {

class FrozenDevice final : public Device {
 public:
  FrozenDevice(std::shared_ptr<VolumeImage> image, std::unique_ptr<FrozenBlocks> blocks)
      : image_(std::move(image)), blocks_(std::move(blocks)) {
    const DeviceTraits &of_image = image_->device().traits();
    traits_.size_bytes = of_image.size_bytes;
    traits_.block_bytes_min = of_image.block_bytes_min;
    traits_.block_bytes_preferred = of_image.block_bytes_preferred;
    traits_.read_only = true;
  }
  ~FrozenDevice() override {
    auto gate = image_->gate().visit();
    image_->remove_view(blocks_.get());
  }

  int read(void *data, size_t bytes, uint64_t offset) override {
    return blocks_->read(image_->device(), data, bytes, offset);
  }
  int read_now(void *data, size_t bytes, uint64_t offset) override {
    return blocks_->read_now(image_->device(), data, bytes, offset);
  }
  int write(const void *, size_t, uint64_t) override { return EROFS; }
  int zero(uint64_t, uint64_t, ZeroHow, bool) override { return EROFS; }
  int flush() override { return 0; }
  void prefetch(uint64_t offset, uint64_t bytes) override { image_->device().prefetch(offset, bytes); }
  Extent extent(uint64_t offset, uint64_t bytes) override { return blocks_->extent(image_->device(), offset, bytes); }

 private:
  std::shared_ptr<VolumeImage> image_;
  std::unique_ptr<FrozenBlocks> blocks_;
};

class OverlayDevice final : public Device {
 public:
  OverlayDevice(std::unique_ptr<Device> base, Fd scratch)
      : base_(std::move(base)), scratch_(std::move(scratch)),
        written_(base_->traits().size_bytes / kViewBlockBytes + 1) {
    traits_ = base_->traits();
    traits_.read_only = false;
    traits_.can_zero = true;
  }

  int read(void *data, size_t bytes, uint64_t offset) override {
    const BlockRange range = blocks_touched(offset, bytes, kViewBlockBytes);
    if (!written_.all(range.first, range.count))
      if (int error = base_->read(data, bytes, offset)) return error;
    return patch_from_scratch(scratch_.get(), written_, static_cast<uint8_t *>(data), bytes, offset);
  }
  int read_now(void *data, size_t bytes, uint64_t offset) override {
    const BlockRange range = blocks_touched(offset, bytes, kViewBlockBytes);
    return written_.any(range.first, range.count) ? EAGAIN : base_->read_now(data, bytes, offset);
  }
  int write(const void *data, size_t bytes, uint64_t offset) override;
  int zero(uint64_t offset, uint64_t bytes, ZeroHow how, bool fast_only) override;
  int flush() override { return 0; }  // thrown away at close: nothing to keep
  Extent extent(uint64_t offset, uint64_t bytes) override {
    const BlockRange range = blocks_touched(offset, bytes, kViewBlockBytes);
    if (!range.count) return {bytes, false};
    const BlockMap::Run run = written_.run(range.first, range.count);
    const uint64_t until = std::min(bytes, (range.first + run.count) * kViewBlockBytes - offset);
    return run.value ? Extent{until, false} : base_->extent(offset, until);
  }

 private:
  int fill_edge(uint64_t block);
  int write_locked(const void *data, size_t bytes, uint64_t offset);

  std::unique_ptr<Device> base_;
  Fd scratch_;
  std::mutex mutex_;  // of writers: two may share a block
  BlockMap written_;  // blocks that are whole in the scratch file
};

// A block that is only partly overwritten gets its other bytes from below first.
int OverlayDevice::fill_edge(uint64_t block) {
  if (written_.test(block)) return 0;
  std::vector<uint8_t> old(std::min(kViewBlockBytes, traits_.size_bytes - block * kViewBlockBytes));
  if (int error = base_->read(old.data(), old.size(), block * kViewBlockBytes)) return error;
  return write_at(scratch_.get(), old.data(), old.size(), block * kViewBlockBytes);
}

int OverlayDevice::write_locked(const void *data, size_t bytes, uint64_t offset) {
  if (!bytes) return 0;
  const BlockRange range = blocks_touched(offset, bytes, kViewBlockBytes);
  const uint64_t last = range.first + range.count - 1;
  if (offset % kViewBlockBytes != 0)
    if (int error = fill_edge(range.first)) return error;
  if ((offset + bytes) % kViewBlockBytes != 0 && (last != range.first || offset % kViewBlockBytes == 0))
    if (int error = fill_edge(last)) return error;
  if (int error = write_at(scratch_.get(), data, bytes, offset)) return error;
  written_.set(range.first, range.count);
  return 0;
}

int OverlayDevice::write(const void *data, size_t bytes, uint64_t offset) {
  std::lock_guard lock(mutex_);
  return write_locked(data, bytes, offset);
}

int OverlayDevice::zero(uint64_t offset, uint64_t bytes, ZeroHow how, bool fast_only) {
  (void)how, (void)fast_only;
  static constexpr std::array<uint8_t, 64u << 10> zeroes{};
  std::lock_guard lock(mutex_);
  const uint64_t end = offset + bytes;
  while (offset < end) {
    const uint64_t whole = (end - offset) / kViewBlockBytes * kViewBlockBytes;
    uint64_t piece;
    if (offset % kViewBlockBytes == 0 && whole &&
        fallocate(scratch_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                  static_cast<off_t>(whole)) == 0) {
      written_.set(offset / kViewBlockBytes, whole / kViewBlockBytes);
      piece = whole;
    } else {
      const uint64_t to_block = kViewBlockBytes - offset % kViewBlockBytes;
      piece = std::min<uint64_t>(end - offset, to_block == kViewBlockBytes ? zeroes.size() : to_block);
      if (int error = write_locked(zeroes.data(), piece, offset)) return error;
    }
    offset += piece;
  }
  return 0;
}

}  // namespace

Result<std::vector<std::unique_ptr<Device>>> freeze(const std::vector<std::shared_ptr<VolumeImage>> &images,
                                                    const std::string &scratch_directory,
                                                    const std::function<Status()> &check) {
  std::vector<std::unique_ptr<FrozenBlocks>> kept;
  for (const auto &image : images) {
    auto blocks = FrozenBlocks::create(scratch_directory, image->device().traits().size_bytes);
    if (!blocks.ok()) return blocks.status;
    kept.push_back(std::move(blocks.value));
  }
  std::vector<std::unique_ptr<Device>> devices;
  auto gate = images.front()->gate().visit();  // one for all images of a replica
  if (Status status = check(); !status.ok()) return status;
  for (size_t i = 0; i < images.size(); i++) {
    images[i]->add_view(kept[i].get());
    devices.push_back(std::make_unique<FrozenDevice>(images[i], std::move(kept[i])));
  }
  return devices;
}

Result<std::unique_ptr<Device>> overlay(std::unique_ptr<Device> base, const std::string &scratch_directory) {
  const int fd = open_scratch(scratch_directory);
  if (fd < 0) return Status::failed(-fd, "make an overlay's scratch file in " + scratch_directory);
  return std::unique_ptr<Device>(std::make_unique<OverlayDevice>(std::move(base), Fd(fd)));
}

}  // namespace understudy::replay
