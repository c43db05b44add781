#include "replay/image-clones.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "core/clock.h"

namespace understudy::replay {
bool ImageClones::is_refused(int error) {
  return error == EOPNOTSUPP || error == EXDEV || error == EINVAL || error == ENOTTY || error == EISDIR || error == EBADF;
}

Status ImageClones::go_on() {
  if (at_ == 0)
    if (Status status = open(); !status.ok()) return status;
  if (Status status = clone_slice(); !status.ok()) return status;
  return at_ == volumes_[volume_].size_bytes ? close() : Status::good();
}

Status ImageClones::open() {
  const std::string &from = volumes_[volume_].image_path, to = image_clones::path_of(directory_, number_, volume_);
  image_ = Fd(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
  if (!image_) return Status::failed(errno, "open " + from);
  clone_ = Fd(::open(to.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  return clone_ ? Status::good() : Status::failed(errno, "create " + to);
}

Status ImageClones::clone_slice() {
  const ReplicaVolume &volume = volumes_[volume_];
  const uint64_t bytes = std::min(slice_bytes_, volume.size_bytes - at_), since = monotonic_ns();
  file_clone_range range{image_.get(), at_, bytes, at_};
  if (ioctl(clone_.get(), FICLONERANGE, &range) != 0) return Status::failed(errno, "clone " + volume.image_path);
  at_ += bytes;
  const uint64_t took = monotonic_ns() - since;
  took_ns_ += took;
  if (took > kSliceNs * 2) slice_bytes_ = std::max(slice_bytes_ / 2, kSliceBytesMin);
  if (took < kSliceNs / 2) slice_bytes_ = std::min(slice_bytes_ * 2, kSliceBytesMax);
  return Status::good();
}

Status ImageClones::close() {
  const std::string path = image_clones::path_of(directory_, number_, volume_);
  if (fdatasync(clone_.get()) != 0) return Status::failed(errno, "sync " + path);
  struct stat info {};
  if (fstat(clone_.get(), &info) != 0) return Status::failed(errno, "look at " + path);
  bytes_ += static_cast<uint64_t>(info.st_blocks) * 512;
  volume_++;
  at_ = 0;
  return Status::good();
}

void ImageClones::remove() { image_clones::remove(directory_, number_, std::min(volume_ + 1, volumes_.size())); }

namespace image_clones {

std::string path_of(const std::string &directory, uint64_t number, size_t volume) {
  char name[64];
  snprintf(name, sizeof name, "/%016llx.%04zx.image", static_cast<unsigned long long>(number), volume);
  return directory + name;
}

Status look(const std::string &directory, uint64_t number, const std::vector<uint64_t> &volume_bytes, uint64_t *bytes) {
  *bytes = 0;
  for (size_t i = 0; i < volume_bytes.size(); i++) {
    const std::string path = path_of(directory, number, i);
    struct stat info {};
    if (stat(path.c_str(), &info) != 0) return Status::failed(errno, "look at " + path);
    if (static_cast<uint64_t>(info.st_size) != volume_bytes[i]) return Status::failed(EBADMSG, path + ": its size is wrong");
    *bytes += static_cast<uint64_t>(info.st_blocks) * 512;
  }
  return Status::good();
}

Result<std::vector<std::unique_ptr<Device>>> open(const std::string &directory, uint64_t number,
                                                  const std::vector<size_t> &volumes) {
  std::vector<std::unique_ptr<Device>> devices;
  for (size_t volume : volumes) {
    DeviceOptions options;
    options.read_only = true;
    auto device = open_device(path_of(directory, number, volume), options);
    if (!device.ok()) return device.status;
    devices.push_back(std::move(device.value));
  }
  return devices;
}

void remove(const std::string &directory, uint64_t number, size_t volume_count) {
  for (size_t i = 0; i < volume_count; i++) unlink(path_of(directory, number, i).c_str());
}

}  // namespace image_clones
}  // namespace understudy::replay
