// ext2, ext3 and ext4, read by libext2fs.
//
// Guarantees: reads only; ends within the limits whatever lies there; everything in the listing is as listing.h says.
// Reads what lies in place: the journal is not replayed. So of a file system that is mounted, or was not left cleanly,
// this is how far the kernel had written its metadata back (up to half a minute ago), not what it has committed; blocks
// that changed hands since are told as their former owner's. `journal_pending` says that it may be so.
#pragma once
#include "filesystem/budget.h"
#include "filesystem/listing.h"
#include "filesystem/space.h"

namespace understudy::filesystem {
Result<Listing> list_ext(const Space &space, const Limits &limits);
}
