#include "filesystem/ntfs-table.h"

#include <algorithm>
#include <cerrno>

#include "filesystem/little-endian.h"

namespace understudy::filesystem {
namespace {

constexpr uint64_t kListBytesMax = 256u << 10;  // of an attribute list, as NTFS has it
constexpr size_t kListEntryBytes = 26;

Status bad(const std::string &what) { return {EINVAL, "read the file system: its file table: " + what}; }

// Of what does not fit into one record, where the other parts are.
struct Part {
  uint32_t type;
  uint64_t first_cluster, reference;
};

// The table's own record says where the table lies; when that takes more than one record, the others are in the table.
class TableRecord {
 public:
  TableRecord(const Space &space, Budget &budget, const NtfsGeometry &geometry, NtfsTable &table)
      : space_(space), budget_(budget), geometry_(geometry), table_(table), first_(geometry.record_bytes), other_(geometry.record_bytes) {}

  Status open() {
    NtfsRecord record;
    if (auto status = space_.read(geometry_.table_cluster * geometry_.cluster_bytes, first_.data(), first_.size()); !status.ok()) return status;
    if (!open_ntfs_record(first_.data(), geometry_, record) || !record.in_use || record.base != 0) return bad("its first record");
    if (auto status = read_list(); !status.ok()) return status;
    table_.records = Space(space_.fd());
    uint64_t bytes = 0;
    if (auto status = gather(kNtfsData, table_.records, bytes); !status.ok()) return status;
    const uint64_t count = bytes / geometry_.record_bytes;
    if (count == 0 || count > UINT32_MAX || !budget_.take(count / 8)) return bad("its size");
    table_.count = static_cast<uint32_t>(count);
    return read_bitmap((count + 7) / 8);
  }

 private:
  Status read_list() {
    NtfsAttribute list;
    if (!find(first_, kNtfsAttributeList, 0, list)) return Status::good();
    std::vector<uint8_t> bytes;
    if (list.resident) {
      bytes.assign(list.value, list.value + list.value_bytes);
    } else {
      Space content(space_.fd());
      if (auto status = append_ntfs_runs(space_, budget_, geometry_, list.runs, content); !status.ok()) return status;
      if (list.data_bytes > std::min(kListBytesMax, content.size_bytes())) return bad("its list of attributes");
      bytes.resize(list.data_bytes);
      if (auto status = content.read(0, bytes.data(), bytes.size()); !status.ok()) return status;
    }
    for (size_t at = 0; at + kListEntryBytes <= bytes.size();) {
      const uint8_t *entry = bytes.data() + at;
      const size_t entry_bytes = le16(entry + 4);
      if (entry_bytes < kListEntryBytes || entry_bytes > bytes.size() - at) return bad("its list of attributes");
      if (entry[6] == 0) parts_.push_back({le32(entry), le64(entry + 8), le64(entry + 16)});
      at += entry_bytes;
    }
    return Status::good();
  }

  // An attribute without a name that begins with this cluster.
  bool find(const std::vector<uint8_t> &record, uint32_t type, uint64_t first_cluster, NtfsAttribute &found) {
    NtfsAttributes attributes(record.data(), geometry_);
    while (attributes.next(found))
      if (found.type == type && !found.named && (found.resident || found.first_cluster == first_cluster)) return true;
    return false;
  }

  // The part of the attribute that begins there, from whichever record has it.
  bool find_part(uint32_t type, uint64_t first_cluster, NtfsAttribute &found) {
    if (find(first_, type, first_cluster, found)) return true;
    for (const Part &part : parts_) {
      const uint64_t number = ntfs_number(part.reference);
      if (part.type != type || part.first_cluster != first_cluster || number == 0) continue;
      NtfsRecord record;
      if (number >= table_.records.size_bytes() / geometry_.record_bytes || !budget_.goes_on()) return false;
      if (!table_.records.read(number * geometry_.record_bytes, other_.data(), other_.size()).ok()) return false;
      if (!open_ntfs_record(other_.data(), geometry_, record) || !record.in_use || ntfs_number(record.base) != 0) return false;
      return find(other_, type, first_cluster, found);
    }
    return false;
  }

  Status gather(uint32_t type, Space &content, uint64_t &bytes) {
    NtfsAttribute part;
    if (!find_part(type, 0, part) || part.resident) return bad(type == kNtfsData ? "where it lies" : "its bitmap");
    bytes = std::min(part.data_bytes, part.valid_bytes);
    const uint64_t allocated = part.allocated_bytes;
    for (;;) {
      if (auto status = append_ntfs_runs(space_, budget_, geometry_, part.runs, content); !status.ok()) return status;
      const uint64_t read = content.size_bytes();
      if (read > geometry_.clusters * geometry_.cluster_bytes) return bad("it is larger than the file system");
      if (read >= allocated) break;
      if (part.runs.empty() || !find_part(type, read / geometry_.cluster_bytes, part) || part.resident) return bad("a part of it is missing");
    }
    return bytes <= content.size_bytes() ? Status::good() : bad("its size");
  }

  Status read_bitmap(uint64_t bytes_needed) {
    table_.bitmap.resize(bytes_needed);
    NtfsAttribute resident;
    if (find_part(kNtfsBitmap, 0, resident) && resident.resident) {
      std::copy_n(resident.value, std::min<uint64_t>(resident.value_bytes, bytes_needed), table_.bitmap.begin());
      return resident.value_bytes >= bytes_needed ? Status::good() : bad("its bitmap");
    }
    Space content(space_.fd());
    uint64_t bytes = 0;
    if (auto status = gather(kNtfsBitmap, content, bytes); !status.ok()) return status;
    if (bytes < bytes_needed) return bad("its bitmap");
    return content.read(0, table_.bitmap.data(), bytes_needed);
  }

  const Space &space_;
  Budget &budget_;
  const NtfsGeometry &geometry_;
  NtfsTable &table_;
  std::vector<uint8_t> first_, other_;
  std::vector<Part> parts_;
};

}  // namespace

Status open_ntfs_table(const Space &space, Budget &budget, const NtfsGeometry &geometry, NtfsTable &table) {
  return TableRecord(space, budget, geometry, table).open();
}

Status append_ntfs_runs(const Space &space, Budget &budget, const NtfsGeometry &geometry, const std::vector<NtfsRun> &runs, Space &content) {
  for (const NtfsRun &run : runs) {
    if (run.cluster == kHole) return bad("holes in what has none");
    space.map(run.cluster * geometry.cluster_bytes, run.count * geometry.cluster_bytes, [&](uint64_t offset, uint64_t bytes) {
      if (budget.take(sizeof(Piece) + sizeof(uint64_t))) content.append({0, bytes, 0, {offset}});
    });
    if (budget.error()) return Status::failed(budget.error(), "read the file system");
  }
  return Status::good();
}

}  // namespace understudy::filesystem
