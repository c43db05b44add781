// Connects to an NBD server and negotiates an export with simple replies (proto.md: fixed newstyle, NBD_OPT_GO).
#pragma once
#include <cstdint>
#include <string>

#include "options.h"

namespace understudy::bench {

struct Export {
  int fd = -1;  // blocking, in transmission
  uint64_t bytes = 0;
  std::string error;  // empty: all is well
};
Export open_export(const Options &options, const std::string &name);

}  // namespace understudy::bench
