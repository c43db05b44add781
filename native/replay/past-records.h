// PastRecords: the bytes of an epoch's records up to a moment, read from their segments. Shared by the volumes of a view.
// Any thread. A payload is checked as a whole when it is first read (G8).
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "core/status.h"
#include "replay/log-piece.h"
#include "replay/record-entry.h"
#include "wire/record.h"

namespace understudy::replay {

class PastRecords {
 public:
  using Find = std::function<Result<std::shared_ptr<LogPiece>>(uint64_t log_offset)>;
  // Opens the segments of all of them, so that nothing can go away.
  static Result<std::shared_ptr<PastRecords>> open(std::vector<RecordEntry> entries, const Find &find);

  const std::vector<RecordEntry> &entries() const { return entries_; }
  // `bytes` of the volume from `offset` on, which entry number `entry` covers. 0 or an errno.
  int read(uint32_t entry, uint64_t offset, size_t bytes, uint8_t *data) const;

 private:
  explicit PastRecords(std::vector<RecordEntry> entries)
      : entries_(std::move(entries)), checked_(new std::atomic<bool>[entries_.size() + 1]()) {}
  std::vector<RecordEntry> entries_;
  std::unique_ptr<std::atomic<bool>[]> checked_;
  std::map<uint64_t, std::shared_ptr<LogPiece>> segments_;  // by where they begin
};

// Which record says what a place of a volume holds: the newest that covers it.
class NewestRecords {
 public:
  void add(uint64_t offset, uint64_t bytes, uint32_t entry);
  struct Piece {
    uint64_t end;
    uint32_t entry;
  };
  const std::map<uint64_t, Piece> &pieces() const { return pieces_; }  // by where they begin; they do not overlap
  // The first piece that ends behind `offset`.
  std::map<uint64_t, Piece>::const_iterator at(uint64_t offset) const;

 private:
  std::map<uint64_t, Piece> pieces_;
};

}  // namespace understudy::replay
