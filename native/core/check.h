// CHECK(condition): an invariant, on in release builds. A broken one ends the process at once: a replicator that goes
// on after its books stop balancing can only make things worse.
#pragma once

namespace understudy {
[[noreturn]] void check_failed(const char *condition, const char *file, int line);
}
#define CHECK(condition) \
  (__builtin_expect(!!(condition), 1) ? (void)0 : ::understudy::check_failed(#condition, __FILE__, __LINE__))
