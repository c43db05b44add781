#include "partition/partitions.h"

#include <blkid/blkid.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "core/fd.h"
#include "partition/table-areas.h"

namespace understudy::partition {
namespace {

constexpr uint64_t kBlkidUnit = 512;  // blkid_partition_get_start() and _size() count in these, whatever the sector

struct FreeProbe {
  void operator()(blkid_probe probe) const { blkid_free_probe(probe); }
};
using Probe = std::unique_ptr<struct blkid_struct_probe, FreeProbe>;

std::string text_of(const char *text) { return text ? text : ""; }

std::string type_of(blkid_partition partition) {
  if (const char *guid = blkid_partition_get_type_string(partition)) return guid;
  char text[16];
  snprintf(text, sizeof text, "0x%02x", static_cast<unsigned>(blkid_partition_get_type(partition)));
  return text;
}

// Appends one partition of the outermost table, clipped to the device; one that lies outside is left out.
void append(std::vector<Partition> &list, blkid_partition partition, uint64_t device_bytes) {
  blkid_parttable table = blkid_partition_get_table(partition);
  if (!table || blkid_parttable_get_parent(table)) return;  // nested
  const auto start = blkid_partition_get_start(partition), size = blkid_partition_get_size(partition);
  const int number = blkid_partition_get_partno(partition);
  const uint64_t units = device_bytes / kBlkidUnit;
  if (number <= 0 || start < 0 || size <= 0 || static_cast<uint64_t>(start) >= units) return;
  Partition entry;
  entry.number = static_cast<uint32_t>(number);
  entry.offset = static_cast<uint64_t>(start) * kBlkidUnit;
  entry.size_bytes = std::min(static_cast<uint64_t>(size), units - static_cast<uint64_t>(start)) * kBlkidUnit;
  entry.type = type_of(partition);
  entry.name = text_of(blkid_partition_get_name(partition));
  entry.uuid = text_of(blkid_partition_get_uuid(partition));
  entry.scheme = text_of(blkid_parttable_get_type(table));
  entry.extended = blkid_partition_is_extended(partition);
  list.push_back(std::move(entry));
}

// Joins what overlaps or touches, so that each byte of the table is named once.
std::vector<Area> joined(std::vector<Area> areas) {
  std::sort(areas.begin(), areas.end(), [](const Area &a, const Area &b) { return a.offset < b.offset; });
  std::vector<Area> result;
  for (const Area &area : areas) {
    if (!result.empty() && area.offset <= result.back().offset + result.back().size_bytes) {
      const uint64_t end = std::max(result.back().offset + result.back().size_bytes, area.offset + area.size_bytes);
      result.back().size_bytes = end - result.back().offset;
    } else {
      result.push_back(area);
    }
  }
  return result;
}

Status append_areas(std::vector<Partition> &list, int fd, uint64_t device_bytes, uint32_t sector_bytes, const std::string &scheme) {
  std::vector<Area> areas;
  if (scheme == "gpt") {
    auto found = gpt_areas(fd, device_bytes, sector_bytes);
    if (!found.ok()) return found.status;
    areas = std::move(found.value);
  } else {
    areas.push_back({0, std::min<uint64_t>(sector_bytes, device_bytes)});
    for (const Partition &partition : list) {
      if (!partition.extended) continue;
      auto found = ebr_areas(fd, device_bytes, sector_bytes, partition.offset);
      if (!found.ok()) return found.status;
      areas.insert(areas.end(), found.value.begin(), found.value.end());
    }
  }
  for (const Area &area : joined(std::move(areas))) {
    Partition entry;
    entry.number = kTableArea;
    entry.offset = area.offset;
    entry.size_bytes = area.size_bytes;
    entry.type = "table";
    entry.scheme = scheme;
    list.push_back(std::move(entry));
  }
  return Status::good();
}

// The table as it reads with this sector; empty: there is none.
Result<std::vector<Partition>> read_with_sector(int fd, uint32_t sector_bytes) {
  Probe probe(blkid_new_probe());
  if (!probe) return Status::failed(ENOMEM, "read partition table: libblkid");
  errno = 0;
  if (blkid_probe_set_device(probe.get(), fd, 0, 0) != 0) {
    return Status::failed(errno ? errno : EIO, "read partition table: libblkid cannot probe the device");
  }
  if (sector_bytes && blkid_probe_set_sectorsize(probe.get(), sector_bytes) != 0) {
    return Status::failed(EINVAL, "read partition table: sector of " + std::to_string(sector_bytes) + " bytes");
  }
  blkid_probe_enable_superblocks(probe.get(), 0);
  blkid_probe_enable_partitions(probe.get(), 1);
  const uint64_t device_bytes = static_cast<uint64_t>(blkid_probe_get_size(probe.get()));
  const uint32_t sector = blkid_probe_get_sectorsize(probe.get());
  std::vector<Partition> list;
  if (device_bytes < 2 * uint64_t{sector}) return list;

  errno = 0;  // libblkid answers null for "no table" as for a failed read; only errno tells them apart
  blkid_partlist found = blkid_probe_get_partitions(probe.get());
  if (!found) {
    if (errno == EIO) return Status::failed(EIO, "read partition table: a sector of it");
    return list;
  }
  blkid_parttable table = blkid_partlist_get_table(found);
  if (!table) return list;
  const std::string scheme = text_of(blkid_parttable_get_type(table));
  const int count = blkid_partlist_numof_partitions(found);
  for (int i = 0; i < count; i++) append(list, blkid_partlist_get_partition(found, i), device_bytes);
  if (auto status = append_areas(list, fd, device_bytes, sector, scheme); !status.ok()) return status;
  std::stable_sort(list.begin(), list.end(), [](const Partition &a, const Partition &b) { return a.offset < b.offset; });
  return list;
}

}  // namespace

Result<std::vector<Partition>> read_partitions(int fd, uint32_t sector_bytes) {
  struct stat info;
  if (fstat(fd, &info) != 0) return Status::failed(errno, "read partition table: fstat");
  if (sector_bytes != 0 || S_ISBLK(info.st_mode)) return read_with_sector(fd, sector_bytes);
  auto found = read_with_sector(fd, 512);
  if (!found.ok() || !found.value.empty()) return found;
  return read_with_sector(fd, 4096);
}

Result<std::vector<Partition>> read_partitions(const std::string &path, uint32_t sector_bytes) {
  Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Status::failed(errno, "read partition table: open " + path);
  auto found = read_partitions(fd.get(), sector_bytes);
  if (!found.ok()) found.status.message += ", on " + path;
  return found;
}

}  // namespace understudy::partition
