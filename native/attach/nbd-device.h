// A volume as /dev/nbdN: what is asked of the kernel's nbd driver (linux/nbd-netlink.h; drivers/block/nbd.c of Linux 5.13
// and later). Blocking: on a worker.
//
// When the other end of the kernel's socket is gone, requests wait for a new one for `dead_seconds`, then fail with EIO:
//
//   1. the daemon is killed   2. the kernel finds its socket dead: what comes waits   3. the daemon starts again and
//   reconnects with another   4. what waited is sent, and what was sent without an answer, once its timer has run out
#pragma once
#include <cstdint>
#include <string>

#include "core/fd.h"
#include "core/status.h"

namespace understudy::attach {

struct NbdDevice {
  uint32_t index = 0;
  uint64_t size_bytes = 0;
  uint64_t block_bytes = 512;
  uint64_t server_flags = 0;   // transmission flags of the export
  uint64_t dead_seconds = 0;
  std::string identifier;      // /sys/block/nbdN/backend says it, and only who knows it can reconnect
};

// Gives the kernel one end of a new socketpair; the result is the other. Errors: ENOENT the module is not loaded, EPERM,
// EBUSY the device is in use.
Result<Fd> connect_device(const NbdDevice &device);
// Of a device that is connected and whose socket is dead. EINVAL: it is not connected, or with another identifier;
// ENOSPC: its socket is alive.
Result<Fd> reconnect_device(const NbdDevice &device);
Status disconnect_device(uint32_t index);

}  // namespace understudy::attach
