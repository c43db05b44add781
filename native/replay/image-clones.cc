#include "replay/image-clones.h"

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "core/fd.h"

namespace understudy::replay::image_clones {
namespace {

// Into how many pieces the image is split, as far as kExtentsMax. 0 also if the file system does not say (then it does not
// clone either).
uint64_t count_extents(int fd, uint64_t bytes) {
  constexpr uint64_t kStretchBytes = 1u << 30;  // the count stops early
  uint64_t count = 0;
  for (uint64_t at = 0; at < bytes && count <= kExtentsMax; at += kStretchBytes) {
    fiemap map{};
    map.fm_start = at;
    map.fm_length = kStretchBytes;
    if (ioctl(fd, FS_IOC_FIEMAP, &map) != 0) return 0;
    count += map.fm_mapped_extents;
  }
  return count;
}

Status clone(const ReplicaVolume &volume, const std::string &to, uint64_t *extents, uint64_t *bytes) {
  const std::string &from = volume.image_path;
  const Fd image(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
  if (!image) return Status::failed(errno, "open " + from);
  *extents += count_extents(image.get(), volume.size_bytes);
  if (*extents > kExtentsMax) return Status::failed(E2BIG, "clone " + from + ": it lies in too many pieces");
  const Fd made(::open(to.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!made) return Status::failed(errno, "create " + to);
  if (ioctl(made.get(), FICLONE, image.get()) != 0) return Status::failed(errno, "clone " + from);
  if (fdatasync(made.get()) != 0) return Status::failed(errno, "sync " + to);
  struct stat info {};
  if (fstat(made.get(), &info) != 0) return Status::failed(errno, "look at " + to);
  *bytes += static_cast<uint64_t>(info.st_blocks) * 512;
  return Status::good();
}

}  // namespace

std::string path_of(const std::string &directory, uint64_t number, size_t volume) {
  char name[64];
  snprintf(name, sizeof name, "/%016llx.%04zx.image", static_cast<unsigned long long>(number), volume);
  return directory + name;
}

Status make(const std::string &directory, uint64_t number, const std::vector<ReplicaVolume> &volumes, uint64_t *bytes) {
  uint64_t extents = 0;
  *bytes = 0;
  for (size_t i = 0; i < volumes.size(); i++) {
    const Status status = clone(volumes[i], path_of(directory, number, i), &extents, bytes);
    if (!status.ok()) return remove(directory, number, i + 1), status;
  }
  return Status::good();
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

}  // namespace understudy::replay::image_clones
