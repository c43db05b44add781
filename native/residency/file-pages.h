// FilePages: which pages of a file are in memory, and which of them are locked there. The file is only looked at: what is
// locked is the page cache, so whoever writes to the file writes to what is locked, and there is no second copy.
//
//   image.raw   |data    |hole          |data  |hole   |data
//   locked      |########|              |######|       |###       so far; holes would cost memory as soon as they are locked
//
// Guarantees: nothing is locked but what holds data (and gaps too small to be kept apart); what has become a hole is let go
// at the next survey(); pages come in one by one, not as large folios, into which a small write costs 30 times as much
// (bench/pinning); a file that shrinks is no harm, since the mapping is never touched. Dirty pages are never lost: drop()
// leaves them to whoever writes them back.
// Not: thread-safe. One thread at a time; each call may take as long as the disk does, and looks at `leaving` every 1 MiB.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/fd.h"
#include "core/status.h"

namespace understudy::residency {

struct Run {
  uint64_t start, end;  // bytes, [start, end)
};

struct Survey {
  uint64_t data_bytes = 0;      // that lock() would lock in all
  uint64_t resident_bytes = 0;  // of these, by mincore(2)
  uint64_t locked_bytes = 0;
};

class FilePages {
 public:
  // More runs than this are joined across the smallest gaps: each is a mapping of its own to the kernel (max_map_count).
  static constexpr size_t kRunsMax = 4096;

  static Result<std::unique_ptr<FilePages>> open(const std::string &path, const std::atomic<bool> &leaving);
  ~FilePages();

  Result<Survey> survey();
  // Reads and locks what the last survey() found and is not locked yet, at most `step` bytes of it, and not beyond
  // `locked_max` in all; returns what is locked now. ENOMEM, EPERM, EAGAIN: no more may be, or can be, locked; what was
  // locked before stays.
  Result<uint64_t> lock(uint64_t step, uint64_t locked_max);
  // Unlocks everything, and what is clean leaves the memory.
  void drop();

 private:
  FilePages(std::string path, Fd fd, uint64_t bytes, char *mapping, const std::atomic<bool> &leaving);
  Status find_data();
  Status read_in(Run piece);
  bool is_resident(Run piece);
  uint64_t resident_bytes(Run run);
  void unlock(Run run);
  uint64_t locked_bytes() const;
  bool is_leaving() const { return leaving_.load(std::memory_order_relaxed); }

  const std::string path_;
  const Fd fd_;
  const uint64_t bytes_;  // whole pages
  char *const mapping_;   // of the whole file, read-only; null: it is empty
  const std::atomic<bool> &leaving_;
  std::vector<Run> data_;  // sorted, disjoint, whole pages; as of the last survey
  std::vector<Run> locked_;
};

// What of `from` is not in `without`; both sorted and disjoint.
std::vector<Run> subtract(const std::vector<Run> &from, const std::vector<Run> &without);

}  // namespace understudy::residency
