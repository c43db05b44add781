#include "partition/table-areas.h"

#include <cerrno>
#include <cstring>
#include <string>
#include <unistd.h>

namespace understudy::partition {
namespace {

constexpr uint64_t kEntriesBytesCustomary = 16u << 10;  // UEFI 2.10, 5.3.1: at least 16 KiB for the entries
constexpr uint64_t kEntriesBytesMax = 16u << 20;        // more than any tool writes: a header that says so is garbage
constexpr int kEbrMax = 256;                            // libblkid follows 100

// UEFI 2.10, table 5.5; little-endian.
struct __attribute__((packed)) GptHeader {
  char signature[8];  // "EFI PART"
  uint32_t revision, header_bytes, header_crc32, reserved;
  uint64_t my_lba, alternate_lba, first_usable_lba, last_usable_lba;
  uint8_t disk_guid[16];
  uint64_t entries_lba;
  uint32_t entries_count, entry_bytes, entries_crc32;
};
static_assert(sizeof(GptHeader) == 92);

struct __attribute__((packed)) MbrEntry {
  uint8_t boot, chs_start[3], type, chs_end[3];
  uint32_t start, sectors;
};
static_assert(sizeof(MbrEntry) == 16);

Status read_exactly(int fd, void *data, size_t bytes, uint64_t offset) {
  auto *at = static_cast<uint8_t *>(data);
  while (bytes > 0) {
    ssize_t n = pread(fd, at, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      return Status::failed(n < 0 ? errno : EIO, "read partition table: " + std::to_string(bytes) + " bytes at " + std::to_string(offset));
    }
    at += n, offset += static_cast<uint64_t>(n), bytes -= static_cast<size_t>(n);
  }
  return Status::good();
}

void add(std::vector<Area> &areas, uint64_t device_bytes, uint64_t offset, uint64_t bytes) {
  if (offset >= device_bytes || bytes == 0) return;
  areas.push_back({offset, bytes < device_bytes - offset ? bytes : device_bytes - offset});
}

// Adds the header at `lba` and its entries, if there is a header; tells where it says the other copy is (0: unknown).
Result<uint64_t> add_gpt_copy(std::vector<Area> &areas, int fd, uint64_t device_bytes, uint32_t sector_bytes, uint64_t lba) {
  const uint64_t sectors = device_bytes / sector_bytes;
  if (lba == 0 || lba >= sectors) return uint64_t{0};
  GptHeader header;
  if (auto status = read_exactly(fd, &header, sizeof header, lba * sector_bytes); !status.ok()) return status;
  if (memcmp(header.signature, "EFI PART", 8) != 0) return uint64_t{0};
  add(areas, device_bytes, lba * sector_bytes, sector_bytes);
  const uint64_t entries_bytes = uint64_t{header.entries_count} * header.entry_bytes;
  if (header.entries_lba < sectors && entries_bytes <= kEntriesBytesMax) {
    const uint64_t rounded = (entries_bytes + sector_bytes - 1) / sector_bytes * sector_bytes;
    add(areas, device_bytes, header.entries_lba * sector_bytes, rounded);
  }
  return uint64_t{header.alternate_lba};
}

}  // namespace

Result<std::vector<Area>> gpt_areas(int fd, uint64_t device_bytes, uint32_t sector_bytes) {
  std::vector<Area> areas;
  const uint64_t customary = kEntriesBytesCustomary + sector_bytes;
  add(areas, device_bytes, 0, sector_bytes + customary);
  if (device_bytes > customary) add(areas, device_bytes, device_bytes / sector_bytes * sector_bytes - customary, customary);
  const uint64_t last_lba = device_bytes / sector_bytes - 1;
  auto primary = add_gpt_copy(areas, fd, device_bytes, sector_bytes, 1);
  if (!primary.ok()) return primary.status;
  auto at_end = add_gpt_copy(areas, fd, device_bytes, sector_bytes, last_lba);
  if (!at_end.ok()) return at_end.status;
  // On a device that was grown the backup is still where the old end was.
  if (primary.value != last_lba) {
    auto elsewhere = add_gpt_copy(areas, fd, device_bytes, sector_bytes, primary.value);
    if (!elsewhere.ok()) return elsewhere.status;
  }
  return areas;
}

Result<std::vector<Area>> ebr_areas(int fd, uint64_t device_bytes, uint32_t sector_bytes, uint64_t extended_offset) {
  std::vector<Area> areas;
  uint64_t offset = extended_offset;
  for (int n = 0; n < kEbrMax; n++) {
    if (device_bytes < sector_bytes || offset > device_bytes - sector_bytes) break;
    uint8_t sector[512];
    if (auto status = read_exactly(fd, sector, sizeof sector, offset); !status.ok()) return status;
    add(areas, device_bytes, offset, sector_bytes);  // even without a signature: it is where the chain goes on
    if (sector[510] != 0x55 || sector[511] != 0xaa) break;
    uint64_t next = 0;
    for (int i = 0; i < 4 && next == 0; i++) {
      MbrEntry entry;
      memcpy(&entry, sector + 446 + i * sizeof entry, sizeof entry);
      const bool link = entry.type == 0x05 || entry.type == 0x0f || entry.type == 0x85;
      if (link && entry.sectors != 0) next = extended_offset + uint64_t{entry.start} * sector_bytes;
    }
    if (next <= offset) break;  // the end, or a loop: a chain runs upwards
    offset = next;
  }
  return areas;
}

}  // namespace understudy::partition
