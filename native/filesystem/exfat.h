// exFAT, after Microsoft's exFAT specification. With one allocation table: not TexFAT.
//
// Guarantees: reads only; ends within the limits whatever lies there; everything in the listing is as listing.h says: an
// extent ends with the file's last byte, what is behind it in its cluster is nobody's.
#pragma once
#include "filesystem/budget.h"
#include "filesystem/listing.h"
#include "filesystem/space.h"

namespace understudy::filesystem {
inline constexpr char kExfat[] = "exfat";
Result<Listing> list_exfat(const Space &space, const Limits &limits);
}  // namespace understudy::filesystem
