// ImageClones: the images of all volumes as they were when an epoch began, by reflink: EPOCH.VOLUME.image (VOLUME: its
// place in the group, 4 hexadecimal digits). Nothing is copied then or later: where an image changes, the file system
// puts the new bytes elsewhere.
//
// A clone costs some 16 us for each piece an image lies in, and who writes to the image waits for it. So it is made in slices of
// some ms; how long one is, is found by how long the last one took.
//
//   image    | cloned          | slice | not yet       |      what replay overwrites meanwhile is saved, wherever it is
//
// Guarantees: when they are whole, what was not overwritten since the beginning is in them as it was then, for as long as they are
// there, after a power cut too. All volumes or none.
// Does not: make names durable (who says that the clones are there syncs the directory first).
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/fd.h"
#include "core/status.h"
#include "engine/device.h"
#include "replay/replica.h"

namespace understudy::replay {

class ImageClones {
 public:
  ImageClones(std::string directory, uint64_t number, const std::vector<ReplicaVolume> &volumes)
      : directory_(std::move(directory)), number_(number), volumes_(volumes) {}
  // A slice: some ms. An error: there will be none, and remove() takes what there is. Until is_whole().
  Status go_on();
  bool is_whole() const { return volume_ == volumes_.size(); }
  uint64_t bytes() const { return bytes_; }  // what they hold
  uint64_t took_ns() const { return took_ns_; }  // up to now
  void remove();
  // The file system has no such thing, or not for these images: it will say so again.
  static bool is_refused(int error);

 private:
  static constexpr uint64_t kSliceBytesMin = 256u << 10, kSliceBytesMax = 1u << 30;
  static constexpr uint64_t kSliceNs = 4'000'000;  // what is aimed at
  Status open();
  Status clone_slice();
  Status close();

  const std::string directory_;
  const uint64_t number_;
  const std::vector<ReplicaVolume> &volumes_;
  size_t volume_ = 0;  // that is being cloned
  uint64_t at_ = 0;    // what is before it is cloned
  uint64_t slice_bytes_ = kSliceBytesMin;
  uint64_t bytes_ = 0, took_ns_ = 0;
  Fd image_, clone_;
};

namespace image_clones {
std::string path_of(const std::string &directory, uint64_t number, size_t volume);
// ENOENT, EBADMSG: they are not all there.
Status look(const std::string &directory, uint64_t number, const std::vector<uint64_t> &volume_bytes, uint64_t *bytes);
// Those of `volumes`; they stay readable when their names have gone.
Result<std::vector<std::unique_ptr<Device>>> open(const std::string &directory, uint64_t number,
                                                  const std::vector<size_t> &volumes);
void remove(const std::string &directory, uint64_t number, size_t volume_count);
}  // namespace image_clones

}  // namespace understudy::replay
