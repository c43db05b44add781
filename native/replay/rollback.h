// Rollback: makes the images what they were at a moment of the history, for good (`promote --at`).
//
//   epoch 7               epoch 8               epoch 9 (open)
//   |----moment--xxxxxx-->|--xxxxxxxxxxxxxxxx-->|--xxxxxxxx--> images, now
//                `-- what these records wrote over is written once more, as a view of the moment shows it
//
// A view of the moment has each of those blocks from records, from what was saved, or from a clone, never from an image
// (history.h); but for one that an epoch found a hole and zeroed: that is zeroes now as well. So what is read does not
// depend on how far this has come, and it can be done again from the start as often as need be:
//
//   1. a half is written 2. power is lost: any mixture is in the images 3. the next start does all of it again
//
// Needs: the images hold all records of the history, synced, and nobody else writes to them (seal, drain); and that the history
// stays as it is until the caller has on disk that this is done (History::hold).
// Not thread-safe; any thread.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "core/status.h"
#include "engine/device.h"
#include "replay/block-map.h"
#include "replay/record-entry.h"
#include "replay/volume-image.h"

namespace understudy::replay {

class Rollback {
 public:
  explicit Rollback(std::vector<std::shared_ptr<VolumeImage>> images);
  // A record behind the moment.
  void add(const RecordEntry &entry);
  // Once all are added: the moment, by volume.
  void begin(std::vector<std::unique_ptr<Device>> moment);

  struct Progress {
    uint64_t done_bytes, total_bytes;
    bool is_done;  // all of it, and it is on stable storage
  };
  // About so many bytes more. After an error it is not to be gone on with: a flush that failed is not believed.
  Result<Progress> go_on(uint64_t bytes_max);

 private:
  Status write_piece(size_t volume, uint64_t offset, uint64_t bytes);
  Status write_run(size_t volume, const uint8_t *data, uint64_t bytes, uint64_t offset, bool is_zero);

  std::vector<std::shared_ptr<VolumeImage>> images_;
  std::vector<std::unique_ptr<Device>> moment_;
  std::vector<std::unique_ptr<BlockMap>> changed_;  // by volume
  size_t volume_ = 0;   // the next block is looked for from here on
  uint64_t block_ = 0;
  uint64_t done_bytes_ = 0, total_bytes_ = 0;
  std::vector<uint8_t> piece_;
};

}  // namespace understudy::replay
