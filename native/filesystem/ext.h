// ext2, ext3 and ext4, read by libext2fs.
//
// Guarantees: reads only; ends within the limits whatever lies there; everything in the listing is as listing.h says.
// Of a file system that is mounted, or was not left cleanly, it is the state of the last transaction that its journal
// holds whole. A journal that cannot be read is not replayed: then it is how far the kernel had written its metadata
// back (up to half a minute ago), and blocks that changed hands since are told as their former owner's.
#pragma once
#include <string>

#include "filesystem/budget.h"
#include "filesystem/listing.h"
#include "filesystem/space.h"

namespace understudy::filesystem {
inline bool is_ext(const std::string &kind) { return kind == "ext2" || kind == "ext3" || kind == "ext4"; }
Result<Listing> list_ext(const Space &space, const Limits &limits);
}
