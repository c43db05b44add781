// What all readings of file systems have in common: they are made again when they meet what contradicts itself, names are
// kept in one string, and what is certain of the claims becomes extents.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"
#include "filesystem/budget.h"
#include "filesystem/claims.h"
#include "filesystem/listing.h"
#include "filesystem/space.h"

namespace understudy::filesystem {

// What cannot be read or contradicts itself: the first in words, all of them as a number.
struct Problems {
  uint64_t count = 0;
  std::string first;
  void add(const std::string &what) {
    if (count++ == 0) first = what;
  }
};

// One reading: an error when it could not go on. A budget that is spent comes first.
using ReadOnce = std::function<Status(Budget &, Listing &)>;
// Up to limits.attempts readings, within the limits together: the first without problems, or the last.
Result<Listing> read_repeatedly(const Limits &limits, const ReadOnce &read_once);

struct Name {
  uint32_t start, end;  // in Listing::names
};
// A name that can be one part of a path.
bool is_name(std::string_view name);
// False: the budget is spent. `more_bytes` for what the caller keeps beside it.
bool add_name(Listing &listing, Budget &budget, std::string_view name, uint64_t more_bytes, Name &added);
// Sorts listing.links by file; each file gets its first link and their count.
void give_links_to_files(Listing &listing);

// Where the blocks that are claimed lie in the space.
struct Layout {
  uint64_t block_bytes;
  uint64_t first_block = 0, first_block_offset = 0;
};
// The block that the end of a file is in, and how many of its bytes are the file's.
struct Tail {
  uint64_t block = UINT64_MAX;
  uint64_t bytes = 0;
};
// Extents are what is certain of the claims; `held` of the others says why. tails: of each file, or none at all (a block
// is its file's up to its end). An error of the budget.
int settle(Claims &claims, const Space &space, const Layout &layout, const std::vector<Tail> &tails, Budget &budget, Listing &listing);

}  // namespace understudy::filesystem
