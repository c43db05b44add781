// Unapplied: what a sealed log has and the images have not yet. A device over an image shows both as one, so that nobody
// who reads waits for the applier: it may be many records behind, or in the middle of a sync.
//
//   image.raw, which the applier goes on writing to     what a record here covers is read from the log, the newest one;
//   log: from ------ records ------ end                 all else from the image, which no record changes there
//
// So it is the volume as it is at `end`, however far the applier has come. It only reads until all is applied.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/device.h"
#include "replay/past-records.h"
#include "replay/segment-log.h"

namespace understudy::replay {

class Unapplied : public std::enable_shared_from_this<Unapplied> {
 public:
  // Of the last records of the log, all of which will be applied, and no more come. Null: they cannot be shown so (a step or
  // a void among them, an error); then they are to be waited for.
  static std::shared_ptr<Unapplied> of(const std::vector<RecordEntry> &pending, const SegmentLog &log, size_t volumes);

  // The image, by who takes the volume over: any number of times, any thread.
  std::unique_ptr<Device> over(std::unique_ptr<Device> image, size_t volume);
  // All of it is in the images. Any thread.
  void applied();

  struct Records {
    std::shared_ptr<const PastRecords> bytes;
    std::vector<NewestRecords> newest;  // by volume
  };
  // Any thread. Null: all of it is in the images. Asked before the image is read.
  std::shared_ptr<const Records> records() const;

 private:
  std::atomic<bool> is_applied_{false};
  mutable std::mutex mutex_;
  std::shared_ptr<const Records> records_;  // with their segments, which stay on the disk as long
};

}  // namespace understudy::replay
