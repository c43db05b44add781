#include "filesystem/reading.h"

#include <algorithm>
#include <cerrno>
#include <thread>

namespace understudy::filesystem {
namespace {

constexpr auto kPause = std::chrono::milliseconds(100);

Status spent(int error) {
  if (error == EOVERFLOW) return Status::failed(EOVERFLOW, "read the file system: it has more files than is kept in memory");
  return Status::failed(error, "read the file system");
}

}  // namespace

Result<Listing> read_repeatedly(const Limits &limits, const ReadOnce &read_once) {
  const auto until = std::chrono::steady_clock::now() + limits.time_max;
  for (int attempt = 1;; attempt++) {
    Limits left = limits;
    left.time_max = std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    Budget budget(left);
    Listing listing;
    const Status status = read_once(budget, listing);
    if (status.ok() && listing.problems == 0) return listing;
    if (budget.error()) return spent(budget.error());
    if (attempt < limits.attempts) {
      std::this_thread::sleep_for(kPause);
      continue;
    }
    if (status.ok()) return listing;
    return status;
  }
}

bool is_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == name.npos && name.find('\0') == name.npos;
}

bool add_name(Listing &listing, Budget &budget, std::string_view name, uint64_t more_bytes, Name &added) {
  if (listing.names.size() + name.size() > UINT32_MAX) return budget.take(UINT64_MAX / 2), false;
  if (!budget.take(name.size() + more_bytes)) return false;
  added.start = static_cast<uint32_t>(listing.names.size());
  listing.names.append(name);
  added.end = static_cast<uint32_t>(listing.names.size());
  return true;
}

void give_links_to_files(Listing &listing) {
  std::sort(listing.links.begin(), listing.links.end(), [](const Link &a, const Link &b) {
    return a.file != b.file ? a.file < b.file : a.name_start < b.name_start;
  });
  for (uint32_t i = 0; i < listing.links.size(); i++) {
    File &file = listing.files[listing.links[i].file];
    if (file.link_count++ == 0) file.first_link = i;
  }
}

int settle(Claims &claims, const Space &space, const Layout &layout, const std::vector<Tail> &tails, Budget &budget, Listing &listing) {
  const auto count = static_cast<uint32_t>(listing.files.size());
  claims.settle([&](uint32_t owner) {
    if (owner < count) listing.files[owner].held |= kShared;
  });
  const auto add = [&](uint32_t file, uint64_t block, uint64_t bytes) {
    space.map(layout.first_block_offset + (block - layout.first_block) * layout.block_bytes, bytes, [&](uint64_t offset, uint64_t run) {
      Extent *last = listing.extents.empty() ? nullptr : &listing.extents.back();
      if (last && last->file == file && last->offset + last->bytes == offset) last->bytes += run;
      else if (budget.take(sizeof(Extent))) listing.extents.push_back({offset, run, file});
    });
  };
  for (const Claim &claim : claims.all()) {
    if (claim.owner >= count || listing.files[claim.owner].held) continue;
    const uint64_t end = claim.start + claim.blocks;
    const Tail tail = tails.empty() ? Tail{} : tails[claim.owner];
    if (tail.block >= claim.start && tail.block < end) {
      add(claim.owner, claim.start, (tail.block - claim.start) * layout.block_bytes + tail.bytes);
      add(claim.owner, tail.block + 1, (end - tail.block - 1) * layout.block_bytes);
    } else {
      add(claim.owner, claim.start, claim.blocks * layout.block_bytes);
    }
    if (budget.error()) return budget.error();  // of a file on stripes, one claim may be very many extents
  }
  const auto by_offset = [](const Extent &a, const Extent &b) { return a.offset < b.offset; };
  if (!std::is_sorted(listing.extents.begin(), listing.extents.end(), by_offset))
    std::sort(listing.extents.begin(), listing.extents.end(), by_offset);
  return 0;
}

}  // namespace understudy::filesystem
