#include "filesystem/ntfs-records.h"

#include <cerrno>
#include <cstring>

#include "filesystem/little-endian.h"

namespace understudy::filesystem {
namespace {
constexpr uint64_t kMarkedBytes = 512;  // whatever the disk's sectors are
constexpr uint16_t kInUse = 1, kDirectory = 2;

Status bad(const std::string &what) { return {EINVAL, "read the file system: its boot sector: " + what}; }
bool is_power_of_2(uint64_t value) { return value != 0 && (value & (value - 1)) == 0; }
}  // namespace

Status read_ntfs_boot(const Space &space, NtfsGeometry &geometry) {
  uint8_t boot[kMarkedBytes];
  if (auto status = space.read(0, boot, sizeof boot); !status.ok()) return status;
  if (memcmp(boot + 3, "NTFS    ", 8) != 0) return bad("no signature");
  const uint64_t sector_bytes = le16(boot + 11), sectors = le64(boot + 40);
  const auto shift = static_cast<int8_t>(boot[13]);
  const uint64_t cluster_sectors = shift > 0 ? static_cast<uint64_t>(shift) : boot[13] == 0x80 ? 128 : shift < -31 || shift == 0 ? 0 : uint64_t{1} << -shift;
  if (!is_power_of_2(sector_bytes) || sector_bytes < 256 || sector_bytes > 4096) return bad("sector size");
  geometry.cluster_bytes = cluster_sectors * sector_bytes;
  if (!is_power_of_2(geometry.cluster_bytes) || geometry.cluster_bytes < 512 || geometry.cluster_bytes > (2u << 20)) return bad("cluster size");
  if (sectors > space.size_bytes() / sector_bytes) return bad(std::to_string(sectors) + " sectors, where " + std::to_string(space.size_bytes() / sector_bytes) + " are");
  geometry.clusters = sectors / cluster_sectors, geometry.table_cluster = le64(boot + 48);
  const auto record = static_cast<int8_t>(boot[64]);  // in clusters, or the logarithm of its bytes
  const uint64_t record_bytes = record > 0 ? static_cast<uint64_t>(record) * geometry.cluster_bytes : record < -16 || record == 0 ? 0 : uint64_t{1} << -record;
  if (!is_power_of_2(record_bytes) || record_bytes < 1024 || record_bytes > 65536) return bad("size of a file's record");
  geometry.record_bytes = static_cast<uint32_t>(record_bytes);
  if (geometry.table_cluster >= geometry.clusters) return bad("where its file table is");
  return Status::good();
}

bool open_ntfs_record(uint8_t *bytes, const NtfsGeometry &geometry, NtfsRecord &record) {
  const uint32_t marks_at = le16(bytes + 4), marks = le16(bytes + 6), used = le32(bytes + 24);
  if (memcmp(bytes, "FILE", 4) != 0 || marks != geometry.record_bytes / kMarkedBytes + 1) return false;
  if (marks_at < 42 || marks_at % 2 != 0 || marks_at + 2 * marks > kMarkedBytes - 2) return false;
  if (used > geometry.record_bytes || le16(bytes + 20) < 42 || le16(bytes + 20) % 8 != 0 || le16(bytes + 20) > used) return false;
  for (uint32_t i = 1; i < marks; i++) {
    uint8_t *last = bytes + i * kMarkedBytes - 2;
    if (memcmp(last, bytes + marks_at, 2) != 0) return false;
    memcpy(last, bytes + marks_at + 2 * i, 2);
  }
  const uint16_t flags = le16(bytes + 22);
  record = {(flags & kInUse) != 0, (flags & kDirectory) != 0, le16(bytes + 16), le16(bytes + 18), le64(bytes + 32)};
  return true;
}

NtfsAttributes::NtfsAttributes(const uint8_t *bytes, const NtfsGeometry &geometry)
    : at_(bytes + le16(bytes + 20)), end_(bytes + le32(bytes + 24)), geometry_(geometry) {}

bool NtfsAttributes::next(NtfsAttribute &attribute) {
  const auto damage = [&] { return damaged_ = true, false; };
  if (damaged_ || at_ + 4 > end_) return damage();
  attribute.type = le32(at_);
  if (attribute.type == kNtfsEnd) return false;
  if (at_ + 24 > end_) return damage();
  const uint8_t *start = at_;
  const uint32_t bytes = le32(start + 4);
  if (bytes < 24 || bytes % 8 != 0 || bytes > static_cast<size_t>(end_ - start)) return damage();
  at_ += bytes;
  attribute.resident = start[8] == 0, attribute.named = start[9] != 0, attribute.flags = le16(start + 12);
  attribute.runs.clear();
  if (attribute.resident) {
    const uint32_t value_at = le16(start + 20);
    attribute.value_bytes = le32(start + 16), attribute.value = start + value_at;
    return value_at <= bytes && attribute.value_bytes <= bytes - value_at ? true : damage();
  }
  if (bytes < 64) return damage();
  attribute.first_cluster = le64(start + 16);
  const uint64_t behind = le64(start + 24) + 1, runs_at = le16(start + 32);
  attribute.allocated_bytes = le64(start + 40), attribute.data_bytes = le64(start + 48), attribute.valid_bytes = le64(start + 56);
  if (runs_at < 64 || runs_at > bytes || behind < attribute.first_cluster || behind > UINT64_MAX / geometry_.cluster_bytes) return damage();
  return read_runs(start + runs_at, start + bytes, behind - attribute.first_cluster, attribute.runs) ? true : damage();
}

// Each begins with a byte that says how many bytes its length and its distance from the last one take.
bool NtfsAttributes::read_runs(const uint8_t *at, const uint8_t *end, uint64_t clusters, std::vector<NtfsRun> &runs) {
  uint64_t cluster = 0;
  for (; at < end && *at != 0;) {
    const uint32_t length_bytes = *at & 15, distance_bytes = *at >> 4;
    if (length_bytes == 0 || length_bytes > 8 || distance_bytes > 8 || length_bytes + distance_bytes >= static_cast<size_t>(end - at)) return false;
    uint64_t count = 0, distance = 0;
    memcpy(&count, at + 1, length_bytes), memcpy(&distance, at + 1 + length_bytes, distance_bytes);
    if (distance_bytes > 0 && distance_bytes < 8 && distance >> (8 * distance_bytes - 1)) distance |= ~uint64_t{0} << 8 * distance_bytes;
    at += 1 + length_bytes + distance_bytes;
    if (count == 0 || count > clusters) return false;
    clusters -= count;
    if (distance_bytes == 0) {
      runs.push_back({kHole, count});
      continue;
    }
    cluster += distance;
    if (cluster >= geometry_.clusters || count > geometry_.clusters - cluster) return false;
    runs.push_back({cluster, count});
  }
  return at < end && clusters == 0;
}

}  // namespace understudy::filesystem
