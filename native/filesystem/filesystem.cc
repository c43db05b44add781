#include "filesystem/filesystem.h"

#include <unistd.h>

#include <cerrno>

#include "filesystem/exfat.h"
#include "filesystem/ext.h"
#include "filesystem/fat.h"
#include "filesystem/lvm.h"
#include "filesystem/ntfs.h"
#include "filesystem/signature.h"
#include "filesystem/swap.h"
#include "partition/partitions.h"

namespace understudy::filesystem {
namespace {

using partition::Partition;

constexpr uint64_t kDeviceBytesMax = 1ull << 53;  // what JavaScript's numbers count exactly; ext4 in blocks of 4 KiB ends at 1 EiB
constexpr char kNoSignature[] = "no signature that is known";

bool can_be_read(const std::string &kind) { return is_ext(kind) || kind == "swap" || kind == kFat || kind == kExfat || kind == kNtfs; }

// What is in one place. libblkid's words for what has a name of its own here are replaced.
FileSystem look_into(Space space) {
  FileSystem one;
  one.size_bytes = space.size_bytes();
  one.space = std::move(space);
  auto signature = read_signature(one.space);
  if (!signature.ok()) {
    one.kind = "unknown", one.unread = signature.status.message;
    return one;
  }
  const Signature &found = signature.value;
  one.kind = found.kind, one.label = found.label, one.uuid = found.uuid, one.block_bytes = found.block_bytes;
  if (found.kind.empty()) one.kind = "unknown", one.unread = kNoSignature;
  else if (found.kind == "ambiguous") one.kind = "unknown", one.unread = "several signatures, which contradict each other";
  else if (found.kind == "crypto_LUKS") one.kind = "luks", one.unread = "it is encrypted";
  else if (found.kind == "BitLocker") one.unread = "it is encrypted";
  else if (found.kind == "LVM2_member") one.kind = "lvm", one.unread = "a part of volume groups; what is known of their volumes is told there";
  else if (!can_be_read(found.kind)) one.unread = "this kind cannot be read yet";
  return one;
}

// The number of a partition that has bytes in common with this one; 0: none. A container of others is not one of them.
uint32_t overlapping(const std::vector<Partition> &table, const Partition &one) {
  for (const Partition &other : table) {
    if (other.number == partition::kTableArea || other.extended || other.number == one.number) continue;
    if (other.offset < one.offset + one.size_bytes && one.offset < other.offset + other.size_bytes) return other.number;
  }
  return 0;
}

// A table without a partition says nothing of what fills the device: a boot sector of exFAT looks like one.
bool has_partitions(const std::vector<Partition> &table) {
  return std::any_of(table.begin(), table.end(), [](const Partition &one) { return one.number != partition::kTableArea; });
}

void append_partitions(int fd, const std::vector<Partition> &table, std::vector<FileSystem> &list) {
  for (const Partition &one : table) {
    if (one.number == partition::kTableArea || one.extended) continue;
    const Space space(fd, one.offset, one.size_bytes);
    FileSystem entry;
    if (const uint32_t other = overlapping(table, one)) {
      entry.kind = "unknown", entry.unread = "it overlaps with partition " + std::to_string(other);
      entry.size_bytes = one.size_bytes, entry.space = space;
    } else {
      entry = look_into(space);
    }
    entry.partition = one.number;
    list.push_back(std::move(entry));
  }
}

void append_logical_volumes(int fd, std::vector<FileSystem> &list) {
  std::vector<Piece> physical;
  for (const FileSystem &one : list)
    if (one.kind == "lvm") physical.push_back(one.space.pieces()[0]);
  if (physical.empty()) return;
  auto groups = read_volume_groups(fd, physical);
  for (LogicalVolume &volume : groups.volumes) {
    FileSystem entry = look_into(std::move(volume.space));
    entry.logical_volume = volume.name;
    entry.located_by = groups.metadata;
    list.push_back(std::move(entry));
  }
  for (const std::string &volume : groups.unknown) {
    FileSystem entry;
    const size_t colon = volume.find(": ");
    entry.logical_volume = volume.substr(0, colon);
    entry.kind = "unknown", entry.unread = volume.substr(colon + 2);
    list.push_back(std::move(entry));
  }
}

}  // namespace

Result<std::vector<FileSystem>> find_filesystems(int fd) {
  const off_t end = lseek(fd, 0, SEEK_END);
  if (end < 0) return Status::failed(errno, "read file systems: the device's size");
  const auto size = static_cast<uint64_t>(end);
  if (size > kDeviceBytesMax) return Status::failed(EFBIG, "read file systems: the device");
  auto table = partition::read_partitions(fd);
  if (!table.ok()) return table.status;
  std::vector<FileSystem> list;
  FileSystem whole = look_into(Space(fd, 0, size));
  if (table.value.empty() || (whole.unread.empty() && !has_partitions(table.value))) {
    list.push_back(std::move(whole));
  } else if (whole.unread != kNoSignature) {
    // One of them is left from another life of the disk, or the table belongs to what fills the disk (RAID).
    if (whole.unread.empty()) whole.unread = "there is a partition table too";
    list.push_back(std::move(whole));
  } else if (const std::string &scheme = table.value[0].scheme; scheme != "gpt" && scheme != "dos") {
    whole.unread = "a partition table of a kind that is not known (" + scheme + ")";
    list.push_back(std::move(whole));
  } else {
    append_partitions(fd, table.value, list);
  }
  append_logical_volumes(fd, list);
  return list;
}

Result<Listing> list_files(const FileSystem &one, const Limits &limits) {
  if (one.unread.empty() && is_ext(one.kind)) return list_ext(one.space, limits);
  if (one.unread.empty() && one.kind == "swap") return list_swap(one.space);
  if (one.unread.empty() && one.kind == kFat) return list_fat(one.space, limits);
  if (one.unread.empty() && one.kind == kExfat) return list_exfat(one.space, limits);
  if (one.unread.empty() && one.kind == kNtfs) return list_ntfs(one.space, limits);
  return Status{ENOTSUP, "read the file system: " + one.unread};
}

}  // namespace understudy::filesystem
