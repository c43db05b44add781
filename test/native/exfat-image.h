// exFAT as mkfs.exfat makes it, and files written into it: no tool writes them without mounting.
#pragma once
#include "filesystem-support.h"

namespace filesystem_test {

inline uint16_t set_checksum(const std::string &entries) {
  uint16_t sum = 0;
  for (size_t i = 0; i < entries.size(); i++)
    if (i != 2 && i != 3) sum = static_cast<uint16_t>((uint32_t{sum} << 15 | sum >> 1) + static_cast<uint8_t>(entries[i]));
  return sum;
}

class Exfat {
 public:
  Exfat() {
    make_empty("fs.img", 8 * kMiB);
    shell("mkfs.exfat -c 4K -L label fs.img >/dev/null");
    bytes = content_of("fs.img");
    table_ = get<uint32_t>(bytes, 80) * kSector, heap_ = get<uint32_t>(bytes, 88) * kSector;
    root = get<uint32_t>(bytes, 96);
    for (size_t at = offset(root); bytes[at] != 0; at += 32) {
      if (static_cast<uint8_t>(bytes[at]) == 0x81) bitmap = get<uint32_t>(bytes, at + 20);
      end_of_root_ = at + 32;
    }
    next_ = root + 1;
  }
  size_t offset(uint32_t cluster) const { return heap_ + (cluster - 2) * 4096u; }
  // Takes a free cluster.
  uint32_t take() {
    bytes[offset(bitmap) + (next_ - 2) / 8] |= static_cast<char>(1 << (next_ - 2) % 8);
    return next_++;
  }
  void chain(uint32_t cluster, uint32_t next) { set(bytes, table_ + cluster * 4u, next); }

  // At the end of a directory's entries. flags: 1 clusters, 2 in a row. Returns where they are.
  size_t add(size_t &end, const std::string &name, uint16_t attributes, uint8_t flags, uint32_t first, uint64_t size, uint64_t valid) {
    const size_t parts = (name.size() + 14) / 15;
    std::string entries((2 + parts) * 32, '\0');
    entries[0] = '\x85', entries[1] = static_cast<char>(1 + parts), set(entries, 4, attributes);
    for (const size_t at : {8u, 12u, 16u}) set<uint32_t>(entries, at, 0x5a210000);  // some day in 2025
    entries[32] = '\xc0', entries[33] = static_cast<char>(flags), entries[35] = static_cast<char>(name.size());
    uint16_t hash = 0;
    for (size_t i = 0; i < name.size(); i++) {
      const size_t at = (2 + i / 15) * 32;
      entries[at] = '\xc1', entries[at + 2 + i % 15 * 2] = name[i];
      hash = static_cast<uint16_t>((uint32_t{hash} << 15 | hash >> 1) + static_cast<uint8_t>(toupper(name[i])));
      hash = static_cast<uint16_t>(uint32_t{hash} << 15 | hash >> 1);
    }
    set(entries, 36, hash), set(entries, 40, valid), set(entries, 52, first), set(entries, 56, size);
    set(entries, 2, set_checksum(entries));
    bytes.replace(end, entries.size(), entries);
    end += entries.size();
    return end - entries.size();
  }
  size_t add_to_root(const std::string &name, uint16_t attributes, uint8_t flags, uint32_t first, uint64_t size, uint64_t valid) {
    return add(end_of_root_, name, attributes, flags, first, size, valid);
  }
  void fill(uint32_t cluster, uint32_t tag, uint64_t sectors = 8) {
    for (uint64_t i = 0; i < sectors; i++) bytes.replace(offset(cluster) + i * kSector, kSector, sector_of(tag, i));
  }
  std::string bytes;
  uint32_t root = 0, bitmap = 0;

 private:
  size_t table_ = 0, heap_ = 0, end_of_root_ = 0;
  uint32_t next_ = 0;
};

}  // namespace filesystem_test
