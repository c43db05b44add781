// ImageFile: a file that holds what a volume was at one position, and behind it the bytes that a format wants there (a
// fixed VHD's footer). By reflink: nothing of the volume is copied, but what replay overwrites while it is being made.
//
//   1. the image is synced, so that 3 has little to write out   2. a FrozenBlocks is put before it, at the position
//   3. stretch by stretch it is cloned, while replay goes on    4. what the FrozenBlocks kept is put back over that
//
// A stretch that is cloned before a block of it changes has the old bytes, one that is cloned after that gets them back in 4.
// So nobody waits for all of an image that lies in many pieces (16 us each, XFS): replay waits for a stretch at most, when
// it writes to the image (the kernel's lock).
//
// Guarantees: the name is there only once all of it is on stable storage, and takes nobody else's place; until then the file
// has none, so that a process that is killed leaves nothing.
#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "core/fd.h"
#include "core/status.h"
#include "replay/frozen-blocks.h"

namespace understudy::replay {

class ImageFile {
 public:
  ImageFile() = default;
  // EEXIST: there is something at `path`. The image is synced when this returns.
  static Result<ImageFile> create(const std::string &path, const std::string &image_path);
  // EOPNOTSUPP, EXDEV, EINVAL: not in this place, or not of this image.
  Status clone(uint64_t volume_bytes);
  // Once nobody preserves for `frozen` any more.
  Status finish(FrozenBlocks &frozen, uint64_t volume_bytes, std::span<const uint8_t> tail);

 private:
  std::string path_, directory_, image_path_;
  Fd image_, file_;
};

}  // namespace understudy::replay
