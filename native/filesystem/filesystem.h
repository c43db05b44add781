// The file systems of a device: found through its partition table and the volume groups on it, and the files of those
// that can be read. README.md says how far that goes.
//
//   auto found = find_filesystems(fd);
//   for (const FileSystem &one : found.value) if (one.unread.empty()) auto listing = list_files(one, limits);
//
// Guarantees: nothing is written; what is told of a file system that clients write to meanwhile may be out of date, never
// outside of its place; whatever lies on the device, the reading ends within the limits. What is not known is said to be:
// `unread` is empty only where list_files() may be asked.
// Blocks its thread; any thread may call it, several at once.
#pragma once
#include <string>
#include <vector>

#include "core/status.h"
#include "filesystem/budget.h"
#include "filesystem/listing.h"
#include "filesystem/space.h"

namespace understudy::filesystem {

struct FileSystem {
  uint32_t partition = 0;      // 0: the whole device, or more than one partition
  std::string logical_volume;  // "group/volume"; empty: it is in none
  std::string kind;            // "ext4", "swap", "luks", "lvm" (a part of volume groups), libblkid's name, or "unknown"
  std::string label, uuid;
  uint64_t size_bytes = 0;   // of the place it is in
  uint64_t block_bytes = 0;  // 0: not known
  std::string unread;        // why its files are not known; empty: they can be
  Space space;
  // Of a logical volume: where the volume groups say where volumes lie. A write there may move this one.
  std::vector<Place> located_by;
};

// Partitions (or the device, when there is no table) in the order of the device, then logical volumes. `fd` must stay
// open while the spaces are used.
Result<std::vector<FileSystem>> find_filesystems(int fd);

// All files of one that can be read (unread is empty).
Result<Listing> list_files(const FileSystem &one, const Limits &limits);

}  // namespace understudy::filesystem
