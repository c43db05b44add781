// FrozenBlocks: what one view keeps of a volume that goes on changing. Before the applier overwrites a block for the
// first time since the view was made, the block's old bytes go to the view's scratch file and its bit is set.
//
// Why a reader can never mix old and new, without a lock:
//   applier: 1. old block -> scratch   2. set bit   3. overwrite image
//   reader:  1. read image             2. test bits 3. blocks whose bit is set: read scratch instead
// If the reader's image bytes are of after the applier's 3, the bit was set before the reader's 2.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "core/fd.h"
#include "core/status.h"
#include "engine/device.h"
#include "replay/block-map.h"
#include "replay/block-walk.h"

namespace understudy::replay {

class FrozenBlocks {
 public:
  static Result<std::unique_ptr<FrozenBlocks>> create(const std::string &directory, uint64_t volume_bytes);

  // Applier thread: [offset, offset + bytes) is about to change. skip_holes: it becomes zeroes, so a block that is a
  // hole looks the same after. On an error the view is lost from now on (EIO), and the errno returned once.
  int preserve(Device &image, uint64_t offset, uint64_t bytes, bool skip_holes);

  // Any thread. The bytes as they were when this was made.
  int read(Device &image, void *data, size_t bytes, uint64_t offset);
  int read_now(Device &image, void *data, size_t bytes, uint64_t offset);  // EAGAIN: use read()
  Device::Extent extent(Device &image, uint64_t offset, uint64_t bytes);
  // All that was kept, to its places in a file. Not while preserve() may be called.
  int put_back(int file, uint64_t volume_bytes);

 private:
  FrozenBlocks(Fd scratch, uint64_t volume_bytes)
      : scratch_(std::move(scratch)), kept_(volume_bytes / kViewBlockBytes + 1) {}
  int keep(Device &image, uint64_t first, uint64_t count, bool skip_holes);
  int copy(Device &image, uint64_t offset, uint64_t bytes);
  int patch(uint8_t *data, size_t bytes, uint64_t offset);

  Fd scratch_;
  BlockMap kept_;                    // blocks whose old content is in the scratch file (or was a hole, as it is there)
  std::atomic<bool> is_lost_{false}; // the scratch file could not take a block
};

// Overwrites the parts of `data` (the bytes at offset) whose blocks are in `map` with what the scratch file has.
int patch_from_scratch(int scratch, const BlockMap &map, uint8_t *data, size_t bytes, uint64_t offset);

}  // namespace understudy::replay
