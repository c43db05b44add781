// A swap area that fills a partition or a logical volume, as a file system with one file, `/swap`: all but its first
// page, in which the signature, the label and the UUID are.
#pragma once
#include "core/status.h"
#include "filesystem/listing.h"
#include "filesystem/space.h"

namespace understudy::filesystem {
Result<Listing> list_swap(const Space &space);
}
