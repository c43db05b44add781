#include "filesystem/fat.h"

#include <cerrno>
#include <cstring>

#include "filesystem/cluster-tree.h"
#include "filesystem/little-endian.h"

namespace understudy::filesystem {
namespace {

constexpr uint64_t kBootBytes = 512;
constexpr uint32_t kClustersMax12 = 4084, kClustersMax16 = 65524, kClustersMax32 = 0x0ffffff5;
constexpr uint8_t kDeleted = 0xe5, kStandsForDeleted = 0x05;  // the first byte of a name
constexpr uint8_t kVolumeLabel = 0x08, kDirectoryBit = 0x10, kLongName = 0x0f, kAttributes = 0x3f;
constexpr uint8_t kLowerBase = 0x08, kLowerExtension = 0x10;  // as Windows NT and Linux keep names like "readme.txt"
constexpr size_t kUnitsInPart = 13, kParts = 20;

struct Boot {
  ClusterGeometry geometry;
  uint64_t root_offset = 0, root_bytes = 0;  // of FAT12 and FAT16
  uint32_t root_cluster = 0;                 // of FAT32
  bool dirty = false;
};

Status bad(const std::string &what) { return {EINVAL, "read the file system: its boot sector: " + what}; }

Status read_boot(const Space &space, Boot &boot) {
  uint8_t sector[kBootBytes];
  if (auto status = space.read(0, sector, sizeof sector); !status.ok()) return status;
  const uint64_t sector_bytes = le16(sector + 11), cluster_sectors = sector[13], reserved = le16(sector + 14), tables = sector[16];
  const uint64_t root_entries = le16(sector + 17), table_sectors_16 = le16(sector + 22);
  const uint64_t sectors = le16(sector + 19) ? le16(sector + 19) : le32(sector + 32);
  const bool fat32 = table_sectors_16 == 0;
  const uint64_t table_sectors = fat32 ? le32(sector + 36) : table_sectors_16;
  if (sector_bytes < 512 || sector_bytes > 4096 || (sector_bytes & (sector_bytes - 1)) != 0) return bad("sector size");
  if (cluster_sectors == 0 || (cluster_sectors & (cluster_sectors - 1)) != 0) return bad("cluster size");
  if (reserved == 0 || tables == 0 || tables > 4 || table_sectors == 0) return bad("where the allocation table is");
  if (fat32 && (le16(sector + 40) & 0x80)) return {ENOTSUP, "read the file system: the copies of its allocation table are not kept the same"};
  if (fat32 && (le16(sector + 42) != 0 || root_entries != 0)) return bad("version of FAT32");
  if (!fat32 && root_entries == 0) return bad("root directory");
  if (sectors * sector_bytes > space.size_bytes()) return bad(std::to_string(sectors * sector_bytes) + " bytes, where " + std::to_string(space.size_bytes()) + " are");
  const uint64_t root_sectors = (root_entries * kEntryBytes + sector_bytes - 1) / sector_bytes;
  const uint64_t data_sector = reserved + tables * table_sectors + root_sectors;
  if (data_sector >= sectors) return bad("no room for data");
  const uint64_t clusters = (sectors - data_sector) / cluster_sectors;
  ClusterGeometry &geometry = boot.geometry;
  geometry.entry_bits = fat32 ? 28 : clusters > kClustersMax12 ? 16 : 12;
  if (clusters == 0 || clusters > (fat32 ? kClustersMax32 : kClustersMax16)) return bad("number of clusters");
  geometry.table_offset = reserved * sector_bytes, geometry.table_bytes = table_sectors * sector_bytes, geometry.tables = static_cast<uint32_t>(tables);
  geometry.cluster_bytes = cluster_sectors * sector_bytes, geometry.data_offset = data_sector * sector_bytes;
  const uint64_t entries = geometry.table_bytes * 8 / static_cast<uint64_t>(fat32 ? 32 : geometry.entry_bits);
  if (entries < clusters + 2) return bad("an allocation table that is too short");
  geometry.clusters = static_cast<uint32_t>(clusters);
  boot.root_offset = (reserved + tables * table_sectors) * sector_bytes, boot.root_bytes = root_entries * kEntryBytes;
  boot.root_cluster = fat32 ? le32(sector + 44) : 0;

  // Linux keeps it in the boot sector, Windows in the second entry of the table.
  boot.dirty = (sector[fat32 ? 0x41 : 0x25] & 1) != 0;
  uint8_t entry[8];
  if (auto status = space.read(geometry.table_offset, entry, sizeof entry); !status.ok()) return status;
  if (fat32) boot.dirty |= (le32(entry + 4) & 0x08000000) == 0;
  else if (geometry.entry_bits == 16) boot.dirty |= (le16(entry + 2) & 0x8000) == 0;
  return Status::good();
}

// The parts of a long name, which lie in front of its entry, the last one first.
class LongName {
 public:
  void forget() { expected_ = -1; }
  void add(const uint8_t *entry) {
    const int number = entry[0] & 0x3f;
    if (entry[0] & 0x40) expected_ = number, parts_ = number, checksum_ = entry[13];
    if (number == 0 || number > static_cast<int>(kParts) || number != expected_ || entry[13] != checksum_) return forget();
    uint8_t *units = units_ + static_cast<size_t>(number - 1) * kUnitsInPart * 2;
    memcpy(units, entry + 1, 10), memcpy(units + 10, entry + 14, 12), memcpy(units + 22, entry + 28, 4);
    expected_--;
  }
  // Whether it is whole, and belongs to this short name.
  bool of(const uint8_t *entry) const {
    if (expected_ != 0) return false;
    uint8_t sum = 0;
    for (int i = 0; i < 11; i++) sum = static_cast<uint8_t>((sum & 1 ? 0x80 : 0) + (sum >> 1) + entry[i]);
    return sum == checksum_;
  }
  std::string text() const {
    size_t count = 0;
    while (count < static_cast<size_t>(parts_) * kUnitsInPart && le16(units_ + 2 * count) != 0) count++;
    std::string name;
    append_utf16(name, units_, count);
    return name;
  }

 private:
  int expected_ = -1, parts_ = 0;  // the next number; 0: all are there; -1: there is none
  uint8_t checksum_ = 0;
  uint8_t units_[kParts * kUnitsInPart * 2];
};

// In the code page of whoever wrote it, which nothing on the disk names.
std::string short_name(const uint8_t *entry) {
  const auto part = [&](size_t start, size_t end, bool lower) {
    std::string text(reinterpret_cast<const char *>(entry) + start, end - start);
    text.erase(text.find_last_not_of(' ') + 1);
    if (start == 0 && static_cast<uint8_t>(text[0]) == kStandsForDeleted) text[0] = static_cast<char>(kDeleted);
    if (lower)
      for (char &c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    return text;
  };
  const std::string extension = part(8, 11, entry[12] & kLowerExtension);
  return part(0, 8, entry[12] & kLowerBase) + (extension.empty() ? "" : "." + extension);
}

class Entries {
 public:
  Entries(ClusterTree &tree, Problems &problems, bool fat32) : tree_(tree), problems_(problems), fat32_(fat32) {}

  // Linux reads on behind the mark that ends a directory, Windows does not: what is there is somebody's for one of them.
  bool add(const uint8_t *entry) {
    const uint8_t attributes = entry[11] & kAttributes;
    if (entry[0] == 0) return ended_ = true, long_name_.forget(), true;
    if (entry[0] == kDeleted) return long_name_.forget(), true;
    if (ended_) return problems_.add(tree_.here() + " (it is behind the end)"), false;
    if (attributes == kLongName) return long_name_.add(entry), true;
    const std::string name = long_name_.of(entry) ? long_name_.text() : short_name(entry);
    long_name_.forget();
    if (attributes & kVolumeLabel || memcmp(entry, ".          ", 11) == 0 || memcmp(entry, "..         ", 11) == 0) return true;
    ClusterPlace place;
    place.first = le16(entry + 26) | (fat32_ ? uint64_t{le16(entry + 20)} << 16 : 0);
    if (attributes & kDirectoryBit) return tree_.add_directory(name, place);
    return tree_.add_file(name, place, le32(entry + 28), 0);
  }
  void end_directory() { ended_ = false, long_name_.forget(); }

 private:
  ClusterTree &tree_;
  Problems &problems_;
  const bool fat32_;
  bool ended_ = false;
  LongName long_name_;
};

Status read_once(const Space &space, Budget &budget, Listing &listing) {
  Boot boot;
  if (auto status = read_boot(space, boot); !status.ok()) return status;
  Problems problems;
  Claims claims(budget, 1);
  Clusters clusters(space, budget, claims, problems, boot.geometry);
  ClusterTree tree(space, budget, clusters, problems, listing);
  Entries entries(tree, problems, boot.root_bytes == 0);
  const auto read = [&](const uint8_t *entry) { return entries.add(entry); };
  const auto done = [&] { entries.end_directory(); };
  listing.journal_pending = boot.dirty;
  if (boot.dirty) listing.journal_unread = "FAT has no journal";
  if (boot.root_bytes != 0) tree.read_root(boot.root_offset, boot.root_bytes, read, done), tree.walk_rest(read, done);
  else tree.walk({.first = boot.root_cluster}, read, done);
  return {tree.finish(claims), "read the file system"};
}

}  // namespace

Result<Listing> list_fat(const Space &space, const Limits &limits) {
  return read_repeatedly(limits, [&](Budget &budget, Listing &listing) { return read_once(space, budget, listing); });
}

}  // namespace understudy::filesystem
