#include "replay/frozen-blocks.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "core/zeroes.h"
#include "replay/file-io.h"

namespace understudy::replay {
namespace {
constexpr uint64_t kCopyBytesMax = 1u << 20;
}

Result<std::unique_ptr<FrozenBlocks>> FrozenBlocks::create(const std::string &directory, uint64_t volume_bytes) {
  const int fd = open_scratch(directory);
  if (fd < 0) return Status::failed(-fd, "make a view's scratch file in " + directory);
  return std::unique_ptr<FrozenBlocks>(new FrozenBlocks(Fd(fd), volume_bytes));
}

int FrozenBlocks::preserve(Device &image, uint64_t offset, uint64_t bytes, bool skip_holes) {
  if (is_lost_.load(std::memory_order_relaxed)) return 0;
  const BlockRange range = blocks_touched(offset, bytes, kViewBlockBytes);
  for (uint64_t block = range.first; block < range.first + range.count;) {
    const BlockMap::Run run = kept_.run(block, range.first + range.count - block);
    if (!run.value) {
      if (int error = keep(image, block, run.count, skip_holes)) {
        is_lost_.store(true);
        return error;
      }
    }
    block += run.count;
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);  // the bits, before the caller changes the image
  return 0;
}

int FrozenBlocks::keep(Device &image, uint64_t first, uint64_t count, bool skip_holes) {
  return walk_blocks(image, first, count, kCopyBytesMax, [&](uint64_t at, uint64_t bytes, bool hole) {
    if (!hole)
      if (int error = copy(image, at, bytes)) return error;
    if (!hole || !skip_holes) {
      const BlockRange range = blocks_touched(at, bytes, kViewBlockBytes);
      kept_.set(range.first, range.count);
    }
    return 0;
  });
}

int FrozenBlocks::copy(Device &image, uint64_t offset, uint64_t bytes) {
  std::vector<uint8_t> buffer(bytes);
  if (int error = image.read(buffer.data(), bytes, offset)) return error;
  if (all_zero(buffer.data(), bytes)) return 0;  // as a hole of the scratch file
  return write_at(scratch_.get(), buffer.data(), bytes, offset);
}

int FrozenBlocks::put_back(int file, uint64_t volume_bytes) {
  if (is_lost_.load()) return EIO;
  const uint64_t count = blocks_touched(0, volume_bytes, kViewBlockBytes).count;
  std::vector<uint8_t> buffer(kCopyBytesMax);
  for (uint64_t block = 0; block < count;) {
    const BlockMap::Run run = kept_.run(block, count - block);
    const uint64_t end = std::min((block + run.count) * kViewBlockBytes, volume_bytes);
    for (uint64_t at = block * kViewBlockBytes; run.value && at < end; at += kCopyBytesMax) {
      const size_t bytes = std::min(kCopyBytesMax, end - at);
      if (int error = patch_from_scratch(scratch_.get(), kept_, buffer.data(), bytes, at)) return error;
      if (int error = write_at(file, buffer.data(), bytes, at)) return error;
    }
    block += run.count;
  }
  return 0;
}

int FrozenBlocks::read(Device &image, void *data, size_t bytes, uint64_t offset) {
  const BlockRange range = blocks_touched(offset, bytes, kViewBlockBytes);
  if (!kept_.all(range.first, range.count))
    if (int error = image.read(data, bytes, offset)) return error;
  std::atomic_thread_fence(std::memory_order_seq_cst);  // the image, before the bits
  if (int error = patch_from_scratch(scratch_.get(), kept_, static_cast<uint8_t *>(data), bytes, offset)) return error;
  return is_lost_.load() ? EIO : 0;
}

int FrozenBlocks::read_now(Device &image, void *data, size_t bytes, uint64_t offset) {
  const BlockRange range = blocks_touched(offset, bytes, kViewBlockBytes);
  if (kept_.any(range.first, range.count)) return EAGAIN;
  if (int error = image.read_now(data, bytes, offset)) return error;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (kept_.any(range.first, range.count)) return EAGAIN;
  return is_lost_.load() ? EIO : 0;
}

Device::Extent FrozenBlocks::extent(Device &image, uint64_t offset, uint64_t bytes) {
  const BlockRange range = blocks_touched(offset, bytes, kViewBlockBytes);
  if (range.count == 0) return {bytes, false};
  const auto until = [&](uint64_t blocks) {
    return std::min(bytes, (range.first + blocks) * kViewBlockBytes - offset);
  };
  const BlockMap::Run run = kept_.run(range.first, range.count);
  if (run.value) return {until(run.count), false};
  Device::Extent found = image.extent(offset, until(run.count));
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const BlockRange told = blocks_touched(offset, found.bytes, kViewBlockBytes);
  // The image changed meanwhile: what it said may be of after. "Data" is never wrong.
  if (kept_.any(told.first, told.count)) return {found.bytes, false};
  return found;
}

int patch_from_scratch(int scratch, const BlockMap &map, uint8_t *data, size_t bytes, uint64_t offset) {
  const BlockRange range = blocks_touched(offset, bytes, kViewBlockBytes);
  const uint64_t end = offset + bytes;
  for (uint64_t block = range.first; block < range.first + range.count;) {
    const BlockMap::Run run = map.run(block, range.first + range.count - block);
    if (run.value) {
      const uint64_t from = std::max(offset, block * kViewBlockBytes);
      const uint64_t to = std::min(end, (block + run.count) * kViewBlockBytes);
      size_t done = 0;
      if (int error = read_at(scratch, data + (from - offset), to - from, from, &done)) return error;
      memset(data + (from - offset) + done, 0, to - from - done);  // past the scratch file's end: a hole
    }
    block += run.count;
  }
  return 0;
}

}  // namespace understudy::replay
