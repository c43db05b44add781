#include "filesystem/watch.h"

#include <cerrno>

#include "core/check.h"
#include "filesystem/ext-watch.h"
#include "filesystem/ext.h"
#include "filesystem/swap-watch.h"

namespace understudy::filesystem {

bool can_be_followed(const FileSystem &one) { return one.kind == "swap" || is_ext(one.kind); }

Result<std::unique_ptr<Watch>> make_watch(const FileSystem &one, const Listing &listing, const std::vector<uint8_t> &left_out,
                                          const Limits &limits, const std::vector<uint8_t> &whole) {
  CHECK(left_out.size() == listing.files.size() && (whole.empty() || whole.size() == listing.directories.size()));
  if (!one.unread.empty()) return Status{ENOTSUP, "watch the file system: " + one.unread};
  if (one.kind == "swap") return watch_swap(one.space, left_out);
  if (is_ext(one.kind)) return watch_ext(one.space, listing, left_out, whole, limits);
  return Status{ENOTSUP, "watch the file system: " + one.kind + " cannot be followed while it is in use"};
}

}  // namespace understudy::filesystem
