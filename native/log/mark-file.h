// MarkFile: a volume's marks on stable storage: which regions (64 KiB) may differ on the standby after a crash.
//
//   block 0: whose file this is, and the floor     block n: 32,512 regions, one bit each (508 extents of 4 MiB)
//
// Each block has two slots of 4 KiB, written in turn, each with its generation and a CRC32C. A slot that cannot be
// believed (torn, flipped) makes the whole block dirty: what was lost might be a mark. The floor is the position that a
// copy must have reached for the clear bits to hold for it; it is on disk before the bits that were cleared under it.
// Calls wait for the disk; not thread-safe. Results are 0 or an errno.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/fd.h"
#include "core/status.h"
#include "log/dirty-map.h"

namespace understudy::log {

class MarkFile {
 public:
  static constexpr size_t kBlockWords = 508;  // of a DirtyMap: 64 regions each
  struct Owner {
    std::string uuid;  // of the volume, at most 63 bytes
    uint64_t size_bytes;
  };
  struct Floor {
    uint64_t incarnation = 0, durable = 0;  // zeroes: none yet
  };
  static uint64_t blocks_of(uint64_t size_bytes);

  // A new file beside `path`, to be filled block by block; publish() puts it in the place of the old one.
  static Result<std::unique_ptr<MarkFile>> create(const std::string &path, const Owner &owner, const Floor &floor);
  // What the last run left: its marks are added to `dirty`. Fails if the file is missing, of another volume, or has no
  // header to believe.
  struct Opened {
    std::unique_ptr<MarkFile> file;
    Floor floor;
    uint64_t damaged_blocks = 0;
  };
  static Result<Opened> open(const std::string &path, const Owner &owner, DirtyMap &dirty);

  int fill(uint64_t block, const uint64_t *words);   // both slots
  int write(uint64_t block, const uint64_t *words);  // the older slot
  int write_floor(const Floor &floor);
  int sync();
  int publish();
  static int remove(const std::string &path);  // durably; one that is not there is fine

 private:
  struct Slot;
  MarkFile(std::string path, const Owner &owner);
  void body_of_header(const Floor &floor, uint8_t *body) const;
  int write_slot(uint64_t number, uint64_t generation, const void *body, size_t bytes);
  bool read_block(uint64_t number, Slot *slots, bool *whole);

  const std::string path_;
  const Owner owner_;
  bool published_ = false;
  Fd fd_;
  std::vector<uint64_t> generations_;  // of each block's newer slot, the header's first
};

}  // namespace understudy::log
