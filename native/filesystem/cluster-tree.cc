#include "filesystem/cluster-tree.h"

namespace understudy::filesystem {

ClusterTree::ClusterTree(const Space &space, Budget &budget, Clusters &clusters, Problems &problems, Listing &listing)
    : space_(space), budget_(budget), clusters_(clusters), problems_(problems), listing_(listing) {}

Chain ClusterTree::follow(const ClusterPlace &place, uint64_t data_clusters, uint32_t owner, std::vector<ClusterRun> *runs) {
  return place.in_a_row ? clusters_.run(place.first, data_clusters, owner, runs) : clusters_.follow(place.first, data_clusters, owner, runs);
}

bool ClusterTree::add_directory(std::string_view name, const ClusterPlace &place) {
  if (!is_name(name)) return problems_.add(here()), true;
  Name added;
  if (!add_name(listing_, budget_, name, sizeof(Directory) + sizeof(ClusterPlace), added)) return false;
  listing_.directories.push_back({current_, added.start, added.end});
  places_.push_back(place);
  return true;
}

bool ClusterTree::add_file(std::string_view name, const ClusterPlace &place, uint64_t size_bytes, uint64_t unwritten_bytes) {
  const uint64_t cluster_bytes = clusters_.geometry().cluster_bytes;
  const uint64_t needed = size_bytes == 0 ? 0 : (size_bytes - 1) / cluster_bytes + 1;
  const auto index = static_cast<uint32_t>(listing_.files.size());
  File file;
  Tail tail;
  file.size_bytes = size_bytes;
  if (place.first != 0) {
    const Chain chain = follow(place, needed, index);
    if (chain.last_of_data != 0) tail = {chain.last_of_data, size_bytes - (needed - 1) * cluster_bytes};
    file.data_bytes = std::min(size_bytes, chain.clusters * cluster_bytes);
    if (chain.damage || chain.clusters < needed) file.held |= chain.met ? kShared : kDamaged;
    if (file.held & kDamaged) problems_.add(here() + " (" + (chain.damage ? chain.damage : "a file is longer than its clusters") + ")");
  } else if (needed != 0) {
    file.held |= kDamaged;
    problems_.add(here() + " (a file has no clusters)");
  }
  file.unwritten_bytes = std::min(unwritten_bytes, file.data_bytes);
  Name added{0, 0};
  if (!is_name(name)) problems_.add(here()), file.held |= kNamesMissing;
  else if (!add_name(listing_, budget_, name, sizeof(File) + sizeof(Tail) + sizeof(Link), added)) return false;
  else listing_.links.push_back({index, current_, added.start, added.end});
  listing_.files.push_back(file);
  tails_.push_back(tail);
  return !budget_.error();
}

void ClusterTree::claim(const ClusterPlace &place) {
  const uint64_t cluster_bytes = clusters_.geometry().cluster_bytes;
  const uint64_t needed = place.bytes == 0 ? 0 : (place.bytes - 1) / cluster_bytes + 1;
  if (place.first == 0) return;
  const Chain chain = follow(place, needed, kNobodysFile);
  if (chain.damage || chain.clusters < needed) problems_.add(here() + " (what is no file)");
}

int ClusterTree::finish(Claims &claims) {
  if (budget_.error()) return budget_.error();
  give_links_to_files(listing_);
  const Layout layout{clusters_.geometry().cluster_bytes, 2, clusters_.geometry().data_offset};
  if (const int error = settle(claims, space_, layout, tails_, budget_, listing_)) return error;
  listing_.problems = problems_.count, listing_.first_problem = problems_.first;
  return 0;
}

}  // namespace understudy::filesystem
