// SpillFile: the part of the replication log that lies on disk, as a ring of log positions.
//
//   | 4 KiB: that it is such a file | the byte at log position P lies at P % bytes_max() |
//
// Guarantees: the space is reserved by empty(), where the file system can do that, so that a full disk shows before it
// matters. The file is this object's alone (locked), readable by its owner only, and gives its contents up at the end;
// a file that holds anything else is refused, never overwritten. What a write put there is not known to be good before
// it has been read back and checked. Nothing in it is of use after a crash: the dirty map holds every range (marks.h).
// Calls wait for the disk; one thread at a time. Results are 0 or an errno.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "core/status.h"

namespace understudy::log {

class SpillFile {
 public:
  // EBUSY: another log has it; EEXIST: it holds something else. Reserves nothing yet.
  static Result<std::shared_ptr<SpillFile>> open(const std::string &path, uint64_t bytes_max);
  virtual ~SpillFile() = default;
  const std::string &path() const { return path_; }
  uint64_t bytes_max() const { return bytes_max_; }

  virtual int empty() = 0;  // its contents are gone, its space is reserved
  virtual int write(const uint8_t *data, uint64_t bytes, uint64_t position) = 0;
  virtual int read(uint8_t *data, uint64_t bytes, uint64_t position) = 0;
  virtual int sync() = 0;
  int probe();  // whether it can be written, synced and read; only while it is empty

 protected:
  SpillFile(std::string path, uint64_t bytes_max) : path_(std::move(path)), bytes_max_(bytes_max) {}

 private:
  const std::string path_;
  const uint64_t bytes_max_;
};

}  // namespace understudy::log
