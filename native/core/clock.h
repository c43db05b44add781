// Time in nanoseconds. Monotonic for limits and latencies, wall clock for what people read.
#pragma once
#include <time.h>

#include <cstdint>

namespace understudy {
inline uint64_t clock_ns(clockid_t id) {
  timespec t;
  clock_gettime(id, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000ull + static_cast<uint64_t>(t.tv_nsec);
}
inline uint64_t monotonic_ns() { return clock_ns(CLOCK_MONOTONIC); }
// Goes on while the machine is suspended: for promises that other hosts rely on.
inline uint64_t boot_ns() { return clock_ns(CLOCK_BOOTTIME); }
inline uint64_t wall_ns() { return clock_ns(CLOCK_REALTIME); }
}  // namespace understudy
