#include "filesystem/clusters.h"

#include <algorithm>

#include "filesystem/little-endian.h"

namespace understudy::filesystem {
namespace {
constexpr uint64_t kWindowBytes = 64u << 10;  // holds a table of 12 bits whole
constexpr size_t kWindows = 64;
}  // namespace

Clusters::Clusters(const Space &space, Budget &budget, Claims &claims, Problems &problems, const ClusterGeometry &geometry)
    : space_(space), budget_(budget), claims_(claims), problems_(problems), geometry_(geometry), windows_(kWindows) {
  if (budget_.take(geometry.clusters / 8)) followed_.resize(uint64_t{geometry.clusters} + 2);
}

const uint8_t *Clusters::load(uint64_t offset) {
  const uint64_t number = offset / kWindowBytes;
  Window &window = windows_[number % kWindows];
  if (window.number == number) return window.bytes.data() + offset % kWindowBytes;
  if (!budget_.goes_on() || (window.bytes.empty() && !budget_.take(kWindowBytes))) return nullptr;
  const uint64_t start = number * kWindowBytes, bytes = std::min(kWindowBytes, geometry_.table_bytes - start);
  window.number = UINT64_MAX;
  window.bytes.resize(kWindowBytes), other_.resize(kWindowBytes);
  if (!space_.read(geometry_.table_offset + start, window.bytes.data(), bytes).ok()) return nullptr;
  for (uint32_t copy = 1; copy < geometry_.tables; copy++) {
    if (!space_.read(geometry_.table_offset + copy * geometry_.table_bytes + start, other_.data(), bytes).ok()) return nullptr;
    if (memcmp(window.bytes.data(), other_.data(), bytes) != 0) problems_.add("the copies of the allocation table differ");
  }
  window.number = number;
  return window.bytes.data() + offset % kWindowBytes;
}

// False: the table cannot be read. Of a cluster that there is; the table is long enough for all of them.
bool Clusters::next(uint64_t cluster, uint64_t &value) {
  const int bits = geometry_.entry_bits;
  const uint8_t *entry = load(bits == 12 ? cluster + cluster / 2 : cluster * (bits == 16 ? 2 : 4));
  if (!entry) return false;
  if (bits == 12) value = cluster % 2 ? le16(entry) >> 4 : le16(entry) & 0xfff;
  else value = bits == 16 ? le16(entry) : bits == 28 ? le32(entry) & 0x0fffffff : le32(entry);
  return true;
}

Chain Clusters::follow(uint64_t first, uint64_t data_clusters, uint32_t owner, std::vector<ClusterRun> *runs) {
  const uint64_t last_mark = (uint64_t{1} << geometry_.entry_bits) - 1;
  const uint64_t end_mark = geometry_.entry_bits == 32 ? last_mark : last_mark - 7;  // exFAT has one end mark, FAT eight
  Chain chain;
  for (uint64_t at = first;;) {
    if (budget_.error()) return chain;
    if (!geometry_.holds(at)) return chain.damage = "a chain of clusters leads to none", chain;
    if (!claims_.add(at, 1, chain.clusters < data_clusters ? owner : kNobodysFile)) return chain;
    if (followed_[at]) {
      // Its first owner's claim may be past the end of that file: then this one is the only one to be held.
      chain.met = true;
      return chain.damage = "a chain of clusters leads into another", chain;
    }
    followed_[at] = true;
    if (runs && !runs->empty() && runs->back().start + runs->back().count == at) runs->back().count++;
    else if (runs && budget_.take(sizeof(ClusterRun))) runs->push_back({static_cast<uint32_t>(at), 1});
    if (++chain.clusters == data_clusters) chain.last_of_data = at;
    uint64_t next_one = 0;
    if (chain.clusters % 4096 == 0 && !budget_.goes_on()) return chain;
    if (!next(at, next_one)) return chain.damage = "a chain of clusters cannot be read", chain;
    if (next_one >= end_mark) return chain;
    at = next_one;
  }
}

Chain Clusters::run(uint64_t first, uint64_t data_clusters, uint32_t owner, std::vector<ClusterRun> *runs) {
  Chain chain;
  if (!geometry_.holds(first) || data_clusters > geometry_.clusters - (first - 2)) return chain.damage = "clusters outside of the file system", chain;
  if (!claims_.add(first, data_clusters, owner)) return chain;
  if (runs) runs->push_back({static_cast<uint32_t>(first), static_cast<uint32_t>(data_clusters)});
  chain.clusters = data_clusters, chain.last_of_data = first + data_clusters - 1;
  return chain;
}

}  // namespace understudy::filesystem
