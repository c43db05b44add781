// NTFS's master file table: where its records lie, and which of them are in use.
#pragma once
#include <vector>

#include "filesystem/budget.h"
#include "filesystem/ntfs-records.h"

namespace understudy::filesystem {

struct NtfsTable {
  Space records;
  uint32_t count = 0;
  std::vector<uint8_t> bitmap;  // a bit for each
  bool in_use(uint32_t number) const { return number / 8 < bitmap.size() && (bitmap[number / 8] >> number % 8 & 1); }
};
Status open_ntfs_table(const Space &space, Budget &budget, const NtfsGeometry &geometry, NtfsTable &table);

// Appends what is in the runs; those that are holes are an error (EINVAL).
Status append_ntfs_runs(const Space &space, Budget &budget, const NtfsGeometry &geometry, const std::vector<NtfsRun> &runs, Space &content);

}  // namespace understudy::filesystem
