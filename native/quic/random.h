// Unpredictable bytes, from the kernel.
#pragma once
#include <sys/random.h>

#include <cerrno>
#include <cstddef>

#include "core/check.h"

namespace understudy::quic {
inline void fill_random(void *data, size_t bytes) {
  ssize_t got;
  do got = getrandom(data, bytes, 0);  // at most 256 bytes: never partial (getrandom(2))
  while (got < 0 && errno == EINTR);
  CHECK(got == static_cast<ssize_t>(bytes));
}
}  // namespace understudy::quic
