#include "filesystem/exfat.h"

#include <cerrno>
#include <cstring>

#include "filesystem/cluster-tree.h"
#include "filesystem/little-endian.h"

namespace understudy::filesystem {
namespace {

constexpr uint64_t kBootBytes = 512;
constexpr int kBootSectors = 12;  // the last of them has the checksum of the others
constexpr uint32_t kClustersMax = 0xfffffff5;
// Types of entries. A set is a primary entry and the secondary ones behind it.
constexpr uint8_t kInUse = 0x80, kSecondary = 0x40, kBenign = 0x20;
constexpr uint8_t kBitmap = 0x81, kUpcase = 0x82, kLabel = 0x83, kFile = 0x85, kStream = 0xc0, kNamePart = 0xc1;
constexpr uint8_t kHasClusters = 1, kInARow = 2;  // flags of an entry
constexpr uint16_t kDirectoryBit = 0x10;
constexpr size_t kUnitsInPart = 15;

struct Boot {
  ClusterGeometry geometry;
  uint32_t root_cluster = 0;
  bool dirty = false;
};

Status bad(const std::string &what) { return {EINVAL, "read the file system: its boot sector: " + what}; }

Status read_boot(const Space &space, Budget &budget, Boot &boot) {
  uint8_t sector[kBootBytes];
  if (auto status = space.read(0, sector, sizeof sector); !status.ok()) return status;
  if (memcmp(sector + 3, "EXFAT   ", 8) != 0) return bad("no signature");
  const int sector_shift = sector[108], cluster_shift = sector[109];
  if (sector_shift < 9 || sector_shift > 12 || cluster_shift > 25 - sector_shift) return bad("cluster size");
  if (sector[110] == 2) return {ENOTSUP, "read the file system: it has two allocation tables (TexFAT)"};
  if (sector[110] != 1 || sector[105] != 1) return bad("version");
  ClusterGeometry &geometry = boot.geometry;
  geometry.entry_bits = 32;
  geometry.table_offset = uint64_t{le32(sector + 80)} << sector_shift, geometry.table_bytes = uint64_t{le32(sector + 84)} << sector_shift;
  geometry.data_offset = uint64_t{le32(sector + 88)} << sector_shift, geometry.clusters = le32(sector + 92);
  geometry.cluster_bytes = uint64_t{1} << (sector_shift + cluster_shift);
  boot.root_cluster = le32(sector + 96), boot.dirty = (sector[106] & 2) != 0;
  if (geometry.clusters == 0 || geometry.clusters > kClustersMax) return bad("number of clusters");
  if (geometry.table_offset < uint64_t{kBootSectors} << sector_shift || geometry.table_bytes / 4 < uint64_t{geometry.clusters} + 2 ||
      geometry.table_offset + geometry.table_bytes > geometry.data_offset)
    return bad("where the allocation table is");
  if (geometry.data_offset > space.size_bytes() || geometry.clusters > (space.size_bytes() - geometry.data_offset) / geometry.cluster_bytes)
    return bad("it ends outside of its place");

  std::vector<uint8_t> sectors(size_t{kBootSectors} << sector_shift);
  if (!budget.goes_on()) return Status::failed(budget.error(), "read the file system");
  if (auto status = space.read(0, sectors.data(), sectors.size()); !status.ok()) return status;
  const size_t summed = sectors.size() - (size_t{1} << sector_shift);
  uint32_t sum = 0;
  for (size_t i = 0; i < summed; i++)
    if (i != 106 && i != 107 && i != 112) sum = (sum << 31 | sum >> 1) + sectors[i];  // flags and percentage in use change
  return le32(sectors.data() + summed) == sum ? Status::good() : bad("checksum");
}

class Entries {
 public:
  Entries(ClusterTree &tree, Problems &problems) : tree_(tree), problems_(problems) {}

  bool add(const uint8_t *entry) {
    const uint8_t type = entry[0];
    if (type == 0) return false;
    if (missing_ > 0 && (type & (kInUse | kSecondary)) == (kInUse | kSecondary)) {
      set_.insert(set_.end(), entry, entry + kEntryBytes);
      return --missing_ > 0 || add_set();
    }
    end_directory();
    if ((type & kInUse) == 0) return true;
    if ((type & kSecondary) != 0) return problems_.add(tree_.here() + " (it belongs to none)"), true;
    if (type == kLabel) return true;
    if (type == kBitmap || type == kUpcase) return tree_.claim({.first = le32(entry + 20), .bytes = le64(entry + 24)}), true;
    if (type != kFile && (type & kBenign) == 0) return problems_.add(tree_.here() + " (its type is not known)"), true;
    set_.assign(entry, entry + kEntryBytes), missing_ = entry[1];
    return missing_ > 0 || add_set();
  }
  void end_directory() {
    if (missing_ > 0) problems_.add(tree_.here() + " (parts of it are missing)");
    missing_ = 0;
  }

 private:
  const uint8_t *part(size_t number) const { return set_.data() + number * kEntryBytes; }

  bool add_set() {
    const size_t parts = set_.size() / kEntryBytes;
    const auto odd = [&](const char *what) { return problems_.add(tree_.here() + " (" + what + ")"), true; };
    uint16_t sum = 0;
    for (size_t i = 0; i < set_.size(); i++)
      if (i != 2 && i != 3) sum = static_cast<uint16_t>((uint32_t{sum} << 15 | sum >> 1) + set_[i]);
    if (sum != le16(part(0) + 2)) return odd("its checksum is wrong");
    // What has a type that is not known may be gone past, but its clusters are its own.
    const bool file = set_[0] == kFile;
    for (size_t i = file ? 2 : 0; i < parts; i++) {
      if (i > 0 && part(i)[0] == kNamePart && file) continue;
      if (i > 0 && (part(i)[0] & kBenign) == 0) return odd("a part of it is not known");
      const uint16_t flags = i > 0 ? part(i)[1] : le16(part(0) + 4);
      if (flags & kHasClusters) tree_.claim({le32(part(i) + 20), le64(part(i) + 24), (flags & kInARow) != 0});
    }
    return file ? add_file(parts, odd) : true;
  }

  template <typename Odd>
  bool add_file(size_t parts, Odd odd) {
    const uint8_t *stream = part(1);
    if (parts < 3 || stream[0] != kStream) return odd("it has no stream");
    const size_t units = stream[3];
    std::string name;
    const size_t name_parts = (units + kUnitsInPart - 1) / kUnitsInPart;
    if (name_parts + 2 > parts || units == 0) return odd("its name is too short");
    uint8_t text[2 * (255 + kUnitsInPart)];
    for (size_t i = 0; i < name_parts; i++) {
      if (part(2 + i)[0] != kNamePart) return odd("its name is too short");
      memcpy(text + 2 * kUnitsInPart * i, part(2 + i) + 2, 2 * kUnitsInPart);
    }
    append_utf16(name, text, units);
    const uint64_t valid = le64(stream + 8), bytes = le64(stream + 24);
    ClusterPlace place{le32(stream + 20), bytes, (stream[1] & kInARow) != 0};
    if ((stream[1] & kHasClusters) == 0 && place.first != 0) return odd("it has clusters that it may not have");
    if (valid > bytes) return odd("more of it is valid than there is");
    if (place.in_a_row && bytes == 0) place.first = 0;
    if (le16(part(0) + 4) & kDirectoryBit) return tree_.add_directory(name, place);
    return tree_.add_file(name, place, bytes, bytes - valid);
  }

  ClusterTree &tree_;
  Problems &problems_;
  std::vector<uint8_t> set_;
  size_t missing_ = 0;  // secondary entries of the set that are still to come
};

Status read_once(const Space &space, Budget &budget, Listing &listing) {
  Boot boot;
  if (auto status = read_boot(space, budget, boot); !status.ok()) return status;
  Problems problems;
  Claims claims(budget, 1);
  Clusters clusters(space, budget, claims, problems, boot.geometry);
  ClusterTree tree(space, budget, clusters, problems, listing);
  Entries entries(tree, problems);
  listing.journal_pending = boot.dirty;
  if (boot.dirty) listing.journal_unread = "exFAT has no journal";
  tree.walk({.first = boot.root_cluster}, [&](const uint8_t *entry) { return entries.add(entry); }, [&] { entries.end_directory(); });
  return {tree.finish(claims), "read the file system"};
}

}  // namespace

Result<Listing> list_exfat(const Space &space, const Limits &limits) {
  return read_repeatedly(limits, [&](Budget &budget, Listing &listing) { return read_once(space, budget, listing); });
}

}  // namespace understudy::filesystem
