// Device: what an export or an image stands on: a file, a block device, or a frozen view of one. All calls are
// synchronous, complete (short transfers go on inside) and thread-safe against each other, but see `unit_bytes`; the
// result is 0 or an errno.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/status.h"

namespace understudy {

struct DeviceTraits {
  uint64_t size_bytes = 0;
  uint32_t block_bytes_min = 1;  // smallest unit a client may address: a block device's logical sector; 1 for files
  uint32_t block_bytes_preferred = 4096;
  bool read_only = false;
  bool can_zero = false;   // zero(kPunch) works: TRIM may be advertised
  bool is_block = false;   // a block device
  bool direct = false;     // past the page cache: every read and write waits for the disk, and belongs on a worker
  uint32_t unit_bytes = 1; // of two operations at the same time on one such unit none may write, whatever their bytes
};

enum class ZeroHow : uint8_t {
  kPunch,  // give the space back if possible (TRIM, WRITE_ZEROES)
  kKeep,   // the space stays allocated (NO_HOLE)
};

struct DeviceOptions {
  bool read_only = false;
  bool create = false;          // make the file, sparse, `create_bytes` long, if it is not there (images)
  uint64_t create_bytes = 0;    //
  bool direct = false;          // past the page cache (O_DIRECT)
};

class Device {
 public:
  virtual ~Device() = default;
  const DeviceTraits &traits() const { return traits_; }

  virtual int read(void *data, size_t bytes, uint64_t offset) = 0;
  // Only what can be had without waiting for a disk: 0, an errno, or EAGAIN (ask a worker to read()).
  virtual int read_now(void *data, size_t bytes, uint64_t offset) { return read(data, bytes, offset); }
  // As read(), past the page cache: what is on the disk (or what the disk says it is). Waits for writes under way.
  virtual int read_stored(void *data, size_t bytes, uint64_t offset) { return read(data, bytes, offset); }
  // What the page cache holds of the range and the disk should have too goes: the next read() asks the disk.
  virtual void forget_cached(uint64_t offset, uint64_t bytes) { (void)offset, (void)bytes; }
  virtual int write(const void *data, size_t bytes, uint64_t offset) = 0;
  // fast_only: ENOTSUP instead of anything as slow as writing zeroes. Without it never ENOTSUP.
  virtual int zero(uint64_t offset, uint64_t bytes, ZeroHow how, bool fast_only) = 0;
  // What one daemon at a time may open can be opened once more (a file; a block device cannot).
  virtual void unlock() {}
  virtual int flush() = 0;  // fdatasync: all writes that returned before are on stable storage
  virtual void prefetch(uint64_t offset, uint64_t bytes) { (void)offset, (void)bytes; }
  // The extent at offset, at most `bytes` long: how long, and whether it is a hole (reads as zeroes, takes no space).
  struct Extent {
    uint64_t bytes;
    bool hole;
  };
  virtual Extent extent(uint64_t offset, uint64_t bytes) {
    (void)offset;
    return {bytes, false};
  }
  // How many bytes from offset on, at most `bytes`, are a hole; 0: data lies at offset. Where an extent of data would
  // have to be walked to its end (tmpfs: page by page) this does not.
  virtual uint64_t hole_bytes(uint64_t offset, uint64_t bytes) {
    const Extent found = extent(offset, bytes);
    return found.hole ? found.bytes : 0;
  }

 protected:
  DeviceTraits traits_;
};

// A regular file or block device, through the page cache or, if asked, past it: EOPNOTSUPP where that cannot be. Opened
// exclusively (O_EXCL on block devices, an OFD lock on files): EBUSY when somebody else has it.
Result<std::unique_ptr<Device>> open_device(const std::string &path, const DeviceOptions &options);

}  // namespace understudy
