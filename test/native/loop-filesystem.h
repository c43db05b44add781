// A file system of a kind of one's own, on a loop device, for the length of a test: as root, where there are loop devices.
#pragma once
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>

namespace loop_filesystem {

class LoopFilesystem {
 public:
  // `kind`: xfs, btrfs, ext4. When it cannot be mounted why() is not empty, and begins as test/allowed-skips.txt has it.
  LoopFilesystem(const std::string &kind, const std::string &bytes) {
    if (geteuid() != 0) {
      why_ = "needs root";
      return;
    }
    const char *base = getenv("TMPDIR");
    directory_ = std::string(base ? base : "/tmp") + "/loop-filesystem-XXXXXX";
    if (!mkdtemp(directory_.data())) abort();
    const std::string quiet = kind == "ext4" ? " -F -q " : " -q ";
    const std::string make = "mkdir '" + path() + "' && truncate -s " + bytes + " '" + image() + "' && mkfs." + kind + quiet + "'" +
                             image() + "' >/dev/null";
    if (system(make.c_str()) != 0 || !mount()) why_ = "needs loop devices, and " + kind;
  }
  ~LoopFilesystem() {
    if (directory_.empty()) return;
    if (why_.empty()) unmount();
    unlink(image().c_str());
    rmdir(path().c_str());
    rmdir(directory_.c_str());
  }
  LoopFilesystem(const LoopFilesystem &) = delete;
  LoopFilesystem &operator=(const LoopFilesystem &) = delete;
  const std::string &why() const { return why_; }
  std::string path() const { return directory_ + "/mnt"; }
  // What was not synced is lost (XFS only). Nobody may have a file of it open.
  bool cut_power() {
    constexpr unsigned long kGoingDown = _IOR('X', 125, uint32_t);  // XFS_IOC_GOINGDOWN
    uint32_t no_log_flush = 2;
    const int fd = open(path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool down = ioctl(fd, kGoingDown, &no_log_flush) == 0;
    close(fd);
    return down && unmount() && mount();
  }

 private:
  std::string image() const { return directory_ + "/image"; }
  bool mount() const { return system(("mount -o loop '" + image() + "' '" + path() + "' 2>/dev/null").c_str()) == 0; }
  bool unmount() const { return system(("umount '" + path() + "'").c_str()) == 0; }
  std::string directory_, why_;
};

}  // namespace loop_filesystem
