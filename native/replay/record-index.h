// RecordIndex: what happened in an epoch, record by record in the order of the log, without the bytes. Enough to find a
// moment, and where the newest bytes of any place lie in the segments.
//
//   EPOCH.records   | batch | batch | ...      batch: BatchHead, entries; from the log offset where the last one ended
//
// Guarantees: flush() makes it reach to a log offset on stable storage before the watermark file says so. After a crash
// the records behind the watermark come again: an entry replaces all those at its log offset and behind.
// The applier thread changes it; others copy entries() with the lock of History.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/fd.h"
#include "core/status.h"
#include "replay/replica.h"

namespace understudy::replay {

struct RecordEntry {
  uint64_t log_offset;      // of the record's header
  uint64_t offset, length;  // as in the record; of a kBegin: offset is its incarnation
  uint64_t sequence;
  uint64_t time_ns;
  uint32_t payload_crc32c;
  uint16_t volume;
  uint8_t type;       // wire::RecordType; sequenced records only
  uint8_t is_skipped; // void, or of unknown outcome: it was not applied
};
static_assert(sizeof(RecordEntry) == 48);

class RecordIndex {
 public:
  static std::string path_of(const std::string &directory, uint64_t number);
  static Result<std::unique_ptr<RecordIndex>> create(const std::string &directory, uint64_t number, uint64_t from);
  // The index of an epoch that goes on, to be changed; what is behind its last whole batch is cut off.
  static Result<std::unique_ptr<RecordIndex>> open(const std::string &directory, uint64_t number, uint64_t from);
  // Any thread: the entries of an epoch that is closed, of the log offsets [from, to). EBADMSG: they are not all there.
  static Result<std::vector<RecordEntry>> load(const std::string &directory, uint64_t number, uint64_t from, uint64_t to);

  void note(const RecordEntry &entry);
  // All records before log offset `to` have been noted: that gets to stable storage. 0 or an errno.
  int flush(uint64_t to);
  const std::vector<RecordEntry> &entries() const { return entries_; }
  uint64_t flushed_to() const { return flushed_to_; }  // log offset
  uint64_t bytes() const { return end_; }
  size_t begins() const { return begins_; }  // kBegins that were noted, at least

 private:
  RecordIndex(Fd fd, uint64_t from) : fd_(std::move(fd)), from_(from), flushed_to_(from) {}
  int read_batches();
  void cut(uint64_t log_offset);

  Fd fd_;
  const uint64_t from_;
  uint64_t flushed_to_;
  size_t flushed_count_ = 0;  // of entries_
  uint64_t end_ = 0;          // of the file, in bytes
  size_t begins_ = 0;
  std::vector<RecordEntry> entries_;
};

}  // namespace understudy::replay
