// DirectFile: reads and writes of a file or block device past the page cache (O_DIRECT).
//
//   offset, length and memory aligned    as they are, in one call
//   anything else, up to 1 MiB           through aligned memory; a write reads the units at its edges first and writes
//                                        them back whole
//
// So two operations on one unit must not run at the same time if one of them writes: FlightTable keeps them apart.
// Nothing is written beyond what is asked but those edges, which must lie inside the file. Any thread.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/fd.h"
#include "core/status.h"

namespace understudy {

class DirectFile {
 public:
  static constexpr size_t kAlignmentMax = 4096;  // aligned to that is aligned enough for all that are opened
  struct Alignment {
    uint32_t memory = kAlignmentMax;
    uint32_t unit = kAlignmentMax;  // of offsets and lengths
  };
  // What `fd`, which was opened from `path`, has open. EOPNOTSUPP: there is no O_DIRECT here.
  static Result<DirectFile> open(int fd, const std::string &path, bool writable);

  DirectFile() = default;
  explicit DirectFile(Fd fd) : fd_(std::move(fd)) {}  // aligned enough for all that are known
  uint32_t unit() const { return alignment_.unit; }
  int fd() const { return fd_.get(); }

  // 0 or an errno. EINVAL: stricter than it said. ENODATA: the file ends before.
  int read(void *data, size_t bytes, uint64_t offset) const;
  int write(const void *data, size_t bytes, uint64_t offset) const;

 private:
  static constexpr size_t kPieceBytes = 1u << 20;

  bool is_aligned(const void *data, uint64_t offset) const {
    return offset % alignment_.unit == 0 && reinterpret_cast<uintptr_t>(data) % alignment_.memory == 0;
  }
  size_t whole(size_t bytes) const { return (bytes + alignment_.unit - 1) / alignment_.unit * alignment_.unit; }
  int read_units(char *data, size_t bytes, size_t wanted, uint64_t offset) const;
  int write_units(const char *data, size_t bytes, uint64_t offset) const;
  int write_piece(const char *data, size_t bytes, uint64_t offset) const;

  Fd fd_;
  Alignment alignment_;
};

}  // namespace understudy
