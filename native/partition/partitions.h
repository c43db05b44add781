// Partition tables: what libblkid finds on a device or an image file, and where the table itself lies.
//
// Guarantees: every range lies inside the device; numbers are the kernel's (sda5 is 5); a device without a table, with a
// protective MBR and no GPT behind it, or with garbage gives an empty list, not an error; an unreadable sector is an
// error (EIO), never "no table". A GPT whose primary copy is damaged is read from its backup.
// Does not: look into nested tables (a BSD label inside an MBR slice), lock the device, or notice that a table changes
// while it is read; whoever follows a live table reads it again after the last change.
//
//   | MBR | GPT header | entries | ... partition 1 ... | EBR | logical 5 ... | entries | GPT header |
//   \_____ table area __________/                       \area/               \____ table area ____/
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"

namespace understudy::partition {

// number of the entries that are no partition but a part of the table: the MBR, a GPT header with its entries, an EBR.
inline constexpr uint32_t kTableArea = 0;

struct Partition {
  uint32_t number = 0;      // from 1; kTableArea: a place where the table itself lies, `type` is "table"
  uint64_t offset = 0;      // bytes from the start of the device
  uint64_t size_bytes = 0;  // not 0. A container of logical partitions has its full size
  std::string type;         // GPT: the type's GUID; MBR: "0x83"
  std::string name;         // GPT only, UTF-8
  std::string uuid;         // GPT: the entry's GUID; MBR: disk id and number ("1a2b3c4d-05"); may be empty
  std::string scheme;       // "gpt" or "dos"; another table of libblkid's keeps libblkid's name for it
  bool extended = false;    // MBR: a container of logical partitions
};

// The table of the device open at `fd` (readable), ordered by offset; an empty list when there is none.
// sector_bytes: the logical sector that the table counts in. 0: a block device is asked for it; in an image file 512 is
// tried first and then 4096 (a GPT written through a disk of 4096-byte sectors; an MBR does not tell its sector).
Result<std::vector<Partition>> read_partitions(int fd, uint32_t sector_bytes = 0);
// The same, opening `path` read-only and shared (a device that is open exclusively elsewhere can be read).
Result<std::vector<Partition>> read_partitions(const std::string &path, uint32_t sector_bytes = 0);

}  // namespace understudy::partition
