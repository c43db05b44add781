// Unapplied: what a sealed log has and the images have not yet. A device over an image shows both as one, so that nobody
// who reads waits for the applier: it may be many records behind, or in the middle of a sync.
//
//   image.raw, which the applier goes on writing to     what a record here covers is read from the log, the newest one;
//   log: from ------ records ------ end                 all else from the image, which no record changes there
//
// So it is the volume as it is at `end`, however far the applier has come. It only reads until all is applied.
#pragma once
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/device.h"
#include "replay/past-records.h"
#include "replay/segment-log.h"

namespace understudy::replay {

class Unapplied : public std::enable_shared_from_this<Unapplied> {
 public:
  // Of the last records of the log, all of which will be applied, and no more come. Null: they cannot be shown so (a step or
  // a void among them, an error); then they are to be waited for.
  static std::shared_ptr<Unapplied> of(std::vector<RecordEntry> pending, const SegmentLog &log, size_t volumes);

  // The image, by who takes the volume over: any number of times, any thread.
  std::unique_ptr<Device> over(std::unique_ptr<Device> image, size_t volume);
  // All of it is in the images. Any thread.
  void applied();

  struct Records {
    std::shared_ptr<const PastRecords> bytes;
    std::vector<NewestRecords> newest;  // by volume
  };
  // Any thread. Null: all of it is in the images. Asked before the image is read. The first waits until they are sorted.
  std::shared_ptr<const Records> records() const;

  ~Unapplied();

 private:
  void sort(std::shared_ptr<Records> records);

  std::atomic<bool> is_applied_{false};
  mutable std::mutex mutex_;
  mutable std::condition_variable sorted_;
  std::shared_ptr<const Records> records_;  // null: not sorted yet, or applied. With their segments, which stay on the disk as long
  std::thread sorter_;                      // meanwhile whoever sealed goes on
};

}  // namespace understudy::replay
