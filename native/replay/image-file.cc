#include "replay/image-file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "replay/file-io.h"

namespace understudy::replay {
namespace {

// A multiple of every file system's block; at worst, in pieces of 4 KiB, cloned in a second.
constexpr uint64_t kStretchBytes = 256u << 20;

std::string directory_of(const std::string &path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

}  // namespace

Result<ImageFile> ImageFile::create(const std::string &path, const std::string &image_path) {
  ImageFile made;
  made.path_ = path;
  made.directory_ = directory_of(path);
  made.image_path_ = image_path;
  struct stat info {};
  if (lstat(path.c_str(), &info) == 0) return Status::failed(EEXIST, "make " + path);
  made.file_ = Fd(::open(made.directory_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!made.file_) return Status::failed(errno, "make a file in " + made.directory_);
  made.image_ = Fd(::open(image_path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!made.image_) return Status::failed(errno, "open " + image_path);
  if (fdatasync(made.image_.get()) != 0) return Status::failed(errno, "sync " + image_path);
  return made;
}

Status ImageFile::clone(uint64_t volume_bytes) {
  if (ftruncate(file_.get(), static_cast<off_t>(volume_bytes)) != 0) return Status::failed(errno, "resize " + path_);
  for (uint64_t at = 0; at < volume_bytes; at += kStretchBytes) {
    file_clone_range range{};
    range.src_fd = image_.get();
    range.src_offset = range.dest_offset = at;
    range.src_length = std::min(kStretchBytes, volume_bytes - at);
    if (ioctl(file_.get(), FICLONERANGE, &range) != 0) return Status::failed(errno, "clone " + image_path_ + " to " + path_);
  }
  // What could not be written out since create() is not in the clone, and may be in nobody's memory any more.
  if (fdatasync(image_.get()) != 0) return Status::failed(errno, "sync " + image_path_);
  return Status::good();
}

Status ImageFile::finish(FrozenBlocks &frozen, uint64_t volume_bytes, std::span<const uint8_t> tail) {
  if (int error = frozen.put_back(file_.get(), volume_bytes))
    return Status::failed(error, "put back in " + path_ + " what was overwritten meanwhile");
  if (int error = write_at(file_.get(), tail.data(), tail.size(), volume_bytes)) return Status::failed(error, "write " + path_);
  if (fsync(file_.get()) != 0) return Status::failed(errno, "sync " + path_);
  const std::string self = "/proc/self/fd/" + std::to_string(file_.get());
  if (linkat(AT_FDCWD, self.c_str(), AT_FDCWD, path_.c_str(), AT_SYMLINK_FOLLOW) != 0)
    return Status::failed(errno, "make " + path_);
  if (int error = sync_directory(directory_)) return Status::failed(error, "sync " + directory_);
  return Status::good();
}

}  // namespace understudy::replay
