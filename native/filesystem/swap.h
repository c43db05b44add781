// A swap area that fills a partition or a logical volume, as a file system with one file, `/swap`: all but its first
// page, in which the signature, the label and the UUID are.
#pragma once
#include "core/status.h"
#include "filesystem/listing.h"
#include "filesystem/space.h"

namespace understudy::filesystem {
// Data lie in [page_bytes, end) of the space.
struct SwapArea {
  uint64_t page_bytes = 0, end = 0;
};
Result<SwapArea> find_swap(const Space &space);
Result<Listing> list_swap(const Space &space);
}  // namespace understudy::filesystem
