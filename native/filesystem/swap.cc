#include "filesystem/swap.h"

#include <cerrno>
#include <cstring>

namespace understudy::filesystem {
namespace {
constexpr char kSignature[] = "SWAPSPACE2";  // the last ten bytes of the first page (include/linux/swap.h)
constexpr uint64_t kInfoOffset = 1024;       // behind a boot sector: version, last page
}  // namespace

Result<SwapArea> find_swap(const Space &space) {
  for (const uint64_t page : {4096u, 8192u, 16384u, 65536u}) {
    if (space.size_bytes() < 2 * page) break;
    char signature[10];
    uint32_t info[2];  // version, last_page: little-endian on the machines that this runs on
    if (auto status = space.read(page - sizeof signature, signature, sizeof signature); !status.ok()) return status;
    if (memcmp(signature, kSignature, sizeof signature) != 0) continue;
    if (auto status = space.read(kInfoOffset, info, sizeof info); !status.ok()) return status;
    if (info[0] != 1 || info[1] == 0) break;
    return SwapArea{page, std::min((uint64_t{info[1]} + 1) * page, space.size_bytes())};
  }
  return Status::failed(EINVAL, "read the swap area: its header");
}

Result<Listing> list_swap(const Space &space) {
  const auto area = find_swap(space);
  if (!area.ok()) return area.status;
  const uint64_t start = area.value.page_bytes, bytes = area.value.end - start;
  Listing listing;
  listing.names = "swap";
  listing.directories.push_back({0, 0, 0});
  listing.links.push_back({0, 0, 0, 4});
  listing.files.push_back({.size_bytes = bytes, .data_bytes = bytes, .link_count = 1});
  space.map(start, bytes, [&](uint64_t offset, uint64_t run) { listing.extents.push_back({offset, run, 0}); });
  std::sort(listing.extents.begin(), listing.extents.end(), [](const Extent &a, const Extent &b) { return a.offset < b.offset; });
  return listing;
}

}  // namespace understudy::filesystem
