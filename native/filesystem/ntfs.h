// NTFS, from its master file table alone: every record in use, every attribute in it, and every run of every attribute.
// Names are those that the records have, as many as the record says; directories' indexes hold copies of them and are not
// read. The log ($LogFile) is not replayed: of a file system in use it is what had been written in place.
//
// Guarantees: reads only; ends within the limits whatever lies there; everything in the listing is as listing.h says: an
// extent ends with the file's last byte, what is behind it in its cluster is nobody's.
#pragma once
#include "filesystem/budget.h"
#include "filesystem/listing.h"
#include "filesystem/space.h"

namespace understudy::filesystem {
inline constexpr char kNtfs[] = "ntfs";
Result<Listing> list_ntfs(const Space &space, const Limits &limits);
}  // namespace understudy::filesystem
