// LogPiece: a stretch of the log, whichever file holds it and how. Any thread reads.
#pragma once
#include <cstddef>
#include <cstdint>

namespace understudy::replay {

class LogPiece {
 public:
  virtual ~LogPiece() = default;
  virtual uint64_t base() const = 0;  // log offsets
  virtual uint64_t end() const = 0;
  // 0 or an errno; *done may be short at the end.
  virtual int read(void *data, size_t bytes, uint64_t log_offset, size_t *done) const = 0;
};

}  // namespace understudy::replay
