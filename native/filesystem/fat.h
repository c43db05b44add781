// FAT12, FAT16 and FAT32, after Microsoft's FAT specification 1.03, and where drivers differ (entries behind the end of a
// directory, copies of the table that are not mirrored, a cluster count that says another kind) what is safe with each.
//
// Guarantees: reads only; ends within the limits whatever lies there; everything in the listing is as listing.h says: an
// extent ends with the file's last byte, what is behind it in its cluster is nobody's.
#pragma once
#include "filesystem/budget.h"
#include "filesystem/listing.h"
#include "filesystem/space.h"

namespace understudy::filesystem {
inline constexpr char kFat[] = "vfat";  // as libblkid calls it
Result<Listing> list_fat(const Space &space, const Limits &limits);
}  // namespace understudy::filesystem
