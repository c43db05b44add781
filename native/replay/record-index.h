// RecordIndex: what happened in an epoch, record by record in the order of the log, without the bytes. Enough to find a
// moment, and where the newest bytes of any place lie in the segments.
//
//   EPOCH.records   | batch | batch | ...      batch: BatchHead, entries; from the log offset where the last one ended
//
// In memory are only the last few, which the file has not: what the records come to is kept up beside (EpochTally).
// Guarantees: flush() makes it reach to a log offset on stable storage before the watermark file says so. After a crash
// the records behind the watermark come again: an entry replaces all those at its log offset and behind.
// The applier thread changes it; others ask with the lock of History.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/fd.h"
#include "core/status.h"
#include "replay/epoch-tally.h"

namespace understudy::replay {

class RecordIndex {
 public:
  static std::string path_of(const std::string &directory, uint64_t number);
  static Result<std::unique_ptr<RecordIndex>> create(const std::string &directory, const EpochStart &start);
  // The index of an epoch that goes on, to be changed; what is behind its last whole batch is cut off.
  static Result<std::unique_ptr<RecordIndex>> open(const std::string &directory, const EpochStart &start);

  // What it holds at a moment: so much of the file, up to a log offset, and what the file has not.
  struct Extent {
    uint64_t file_bytes = UINT64_MAX, to = 0;
    std::vector<RecordEntry> unwritten;
  };
  Extent extent() const { return {end_, written_to_, unwritten_}; }
  // Any thread, without a lock: the entries. Of an epoch that is closed `to` is its end. EBADMSG: they are not all there.
  static Result<std::vector<RecordEntry>> load(const std::string &directory, const EpochStart &start, const Extent &extent);

  void note(const RecordEntry &entry);
  // All records before log offset `to` have been noted: that gets to stable storage. 0 or an errno: it may be tried again, or
  // what was noted since the last time that it was 0 is noted again.
  int flush(uint64_t to);
  const EpochTally &tally() const { return tally_; }
  uint64_t written_to() const { return written_to_; }  // log offset
  uint64_t bytes() const { return end_; }
  size_t bytes_in_memory() const { return unwritten_.capacity() * sizeof(RecordEntry); }

 private:
  RecordIndex(Fd fd, const EpochStart &start) : fd_(std::move(fd)), start_(start), written_to_(start.log_offset), synced_to_(start.log_offset), tally_(start) {}
  int write(uint64_t to);
  int go_back(uint64_t log_offset);
  void retract();

  Fd fd_;
  const EpochStart start_;
  uint64_t written_to_;  // log offset: what is behind it in the file is said anew
  uint64_t end_ = 0;     // of the file, in bytes
  bool is_synced_ = true;
  uint64_t synced_end_ = 0, synced_to_;  // end_ and written_to_ when it was synced
  int error_ = 0;  // what note() met: flush() says it
  uint64_t missing_from_ = 0;  // log offset: what was noted from there on is not here, while there is an error
  EpochTally tally_;
  std::vector<RecordEntry> unwritten_;  // behind written_to_
};

}  // namespace understudy::replay
