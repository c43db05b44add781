// The watch of a swap area: nothing but its first page says what the rest is, so that a write that changes the page
// (mkswap, mkfs, a hibernated system) ends it.
#pragma once
#include "filesystem/watch.h"

namespace understudy::filesystem {
Result<std::unique_ptr<Watch>> watch_swap(const Space &space, const std::vector<uint8_t> &left_out);
}
