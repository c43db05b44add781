#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/check.h"
#include "core/status.h"

namespace understudy {

void check_failed(const char *condition, const char *file, int line) {
  fprintf(stderr, "understudy: invariant broken: %s (%s:%d)\n", condition, file, line);
  abort();
}

Status Status::failed(int error, const std::string &what) {
  const char *name = strerrorname_np(error);
  return {error, what + ": " + strerror(error) + " (" + (name ? name : std::to_string(error)) + ")"};
}

}  // namespace understudy
