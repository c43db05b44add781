#include "replay/rollback.h"

#include <algorithm>

#include "core/breakage.h"
#include "core/check.h"
#include "core/zeroes.h"
#include "replay/block-walk.h"

namespace understudy::replay {
namespace {

constexpr uint64_t kPieceBlocks = 256;

uint64_t blocks_of(const Device &device) {
  return (device.traits().size_bytes + kViewBlockBytes - 1) / kViewBlockBytes;
}

}  // namespace

Rollback::Rollback(std::vector<std::shared_ptr<VolumeImage>> images) : images_(std::move(images)) {
  for (const auto &image : images_) changed_.push_back(std::make_unique<BlockMap>(blocks_of(image->device())));
}

void Rollback::add(const RecordEntry &entry) {
  if (!changes_image(entry)) return;
  CHECK(entry.volume < changed_.size());
  const BlockRange range = blocks_touched(entry.offset, entry.length, kViewBlockBytes);
  changed_[entry.volume]->set(range.first, range.count);
}

void Rollback::begin(std::vector<std::unique_ptr<Device>> moment) {
  CHECK(moment.size() == images_.size());
  moment_ = std::move(moment);
  for (size_t volume = 0; volume < images_.size(); volume++) {
    const Device &image = images_[volume]->device();
    const uint64_t count = blocks_of(image);
    for (uint64_t block = 0; block < count;) {
      const BlockMap::Run run = changed_[volume]->run(block, count - block);
      const uint64_t end = std::min((block + run.count) * kViewBlockBytes, image.traits().size_bytes);
      if (run.value) total_bytes_ += end - block * kViewBlockBytes;
      block += run.count;
    }
  }
}

Result<Rollback::Progress> Rollback::go_on(uint64_t bytes_max) {
  const uint64_t stop = done_bytes_ + bytes_max;
  while (volume_ < images_.size() && done_bytes_ < stop) {
    const Device &image = images_[volume_]->device();
    const uint64_t count = blocks_of(image);
    if (block_ >= count) {
      volume_++;
      block_ = 0;
      continue;
    }
    const BlockMap::Run run = changed_[volume_]->run(block_, count - block_);
    if (run.value) {
      const uint64_t offset = block_ * kViewBlockBytes, blocks = std::min(run.count, kPieceBlocks);
      const uint64_t bytes = std::min(blocks * kViewBlockBytes, image.traits().size_bytes - offset);
      if (Status status = write_piece(volume_, offset, bytes); !status.ok()) return status;
      done_bytes_ += bytes;
      block_ += blocks;
    } else {
      block_ += run.count;
    }
  }
  const bool is_done = volume_ == images_.size();
  for (size_t volume = 0; is_done && !BROKEN(kUndoneUnsynced) && volume < images_.size(); volume++)
    if (const int error = images_[volume]->device().flush())
      return Status::failed(error, "roll back: flush the image of volume " + images_[volume]->name());
  return Progress{done_bytes_, total_bytes_, is_done};
}

// In runs of blocks that are all zeroes, or not.
Status Rollback::write_piece(size_t volume, uint64_t offset, uint64_t bytes) {
  piece_.resize(bytes);
  if (const int error = moment_[volume]->read(piece_.data(), bytes, offset))
    return Status::failed(error, "roll back: read what volume " + images_[volume]->name() + " was");
  for (uint64_t at = 0; at < bytes;) {
    const auto is_zero_at = [&](uint64_t where) {
      return all_zero(piece_.data() + where, std::min(kViewBlockBytes, bytes - where));
    };
    const bool is_zero = is_zero_at(at);
    uint64_t end = at + kViewBlockBytes;
    while (end < bytes && is_zero_at(end) == is_zero) end += kViewBlockBytes;
    end = std::min(end, bytes);
    if (Status status = write_run(volume, piece_.data() + at, end - at, offset + at, is_zero); !status.ok()) return status;
    at = end;
  }
  return Status::good();
}

// Not by way of VolumeImage: no view is to keep what is written over, and that of the moment does not look there.
Status Rollback::write_run(size_t volume, const uint8_t *data, uint64_t bytes, uint64_t offset, bool is_zero) {
  Device &image = images_[volume]->device();
  const int error = is_zero ? image.zero(offset, bytes, ZeroHow::kPunch, false) : image.write(data, bytes, offset);
  return error ? Status::failed(error, "roll back: write the image of volume " + images_[volume]->name()) : Status::good();
}

}  // namespace understudy::replay
