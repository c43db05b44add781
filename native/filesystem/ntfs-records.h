// Records of NTFS's master file table, as bytes: each sector's mark is checked and taken out, attributes and their runs are
// found within bounds. Layouts as in linux/fs/ntfs3/ntfs.h.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "filesystem/space.h"

namespace understudy::filesystem {

struct NtfsGeometry {
  uint64_t cluster_bytes = 0, clusters = 0, table_cluster = 0;
  uint32_t record_bytes = 0;
};
Status read_ntfs_boot(const Space &space, NtfsGeometry &geometry);

inline constexpr uint64_t kHole = UINT64_MAX;
struct NtfsRun {
  uint64_t cluster;  // kHole: it reads as zeroes
  uint64_t count;
};

enum NtfsType : uint32_t {
  kNtfsAttributeList = 0x20,
  kNtfsFileName = 0x30,
  kNtfsVolumeInformation = 0x70,
  kNtfsData = 0x80,
  kNtfsBitmap = 0xb0,
  kNtfsReparsePoint = 0xc0,
  kNtfsEnd = 0xffffffff,
};
inline constexpr uint16_t kNtfsCompressed = 0x00ff, kNtfsEncrypted = 0x4000, kNtfsSparse = 0x8000;

struct NtfsAttribute {
  uint32_t type = 0;
  bool named = false, resident = false;
  uint16_t flags = 0;
  const uint8_t *value = nullptr;  // of a resident one
  uint32_t value_bytes = 0;
  // Of one that is not: a part of it, which begins with this cluster of it. The sizes are in the first part.
  uint64_t first_cluster = 0;
  uint64_t allocated_bytes = 0, data_bytes = 0, valid_bytes = 0;
  std::vector<NtfsRun> runs;
};

struct NtfsRecord {
  bool in_use = false, directory = false;
  uint16_t sequence = 0, link_count = 0;
  uint64_t base = 0;  // with its sequence number; 0: it is one itself
};

// A record number and its sequence number, which counts how often it was used.
inline uint64_t ntfs_number(uint64_t reference) { return reference & 0xffffffffffff; }
inline uint16_t ntfs_sequence(uint64_t reference) { return static_cast<uint16_t>(reference >> 48); }

// bytes: geometry.record_bytes, in which the marks are replaced. False: it is none, or torn.
bool open_ntfs_record(uint8_t *bytes, const NtfsGeometry &geometry, NtfsRecord &record);

// The attributes of one that was opened, one after the other.
class NtfsAttributes {
 public:
  NtfsAttributes(const uint8_t *bytes, const NtfsGeometry &geometry);
  // False: there is no other, or (damaged()) it cannot be read.
  bool next(NtfsAttribute &attribute);
  bool damaged() const { return damaged_; }

 private:
  bool read_runs(const uint8_t *at, const uint8_t *end, uint64_t clusters, std::vector<NtfsRun> &runs);
  const uint8_t *at_, *const end_;
  const NtfsGeometry &geometry_;
  bool damaged_ = false;
};

}  // namespace understudy::filesystem
