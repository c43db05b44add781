// Journal: the log of an ext3 or ext4 file system (jbd2), read as the kernel's recovery reads it (fs/jbd2/recovery.c).
//
//   superblock | descriptor  block block block  [revoke]  commit | descriptor ... commit | ...   (round and round)
//                |  tags: where each block belongs
//
// Guarantees: never written; whatever the bytes say, a step ends and stays within the journal. What is not known is refused
// with one reason: a journal on another device, fast and asynchronous commits, unknown features, a wrong checksum.
#pragma once
#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/status.h"
#include "filesystem/space.h"

namespace understudy::filesystem {

// A block of the file system as a transaction has it. where: block of the journal.
struct Logged {
  uint64_t block = 0;
  uint32_t where = 0, checksum = 0, sequence = 0;
  bool escaped = false;  // it began with the journal's own magic number
};

struct Transaction {
  std::vector<Logged> blocks;
  std::vector<uint64_t> revoked;  // not to be replayed from this and earlier ones
  uint32_t log_blocks = 0;        // without those of content
};

// What the journal's superblock says.
struct JournalHead {
  uint32_t first = 0, end = 0;  // the log is blocks [first, end)
  uint32_t sequence = 0;        // of the oldest transaction in it, or of the next one when it is empty
  uint32_t start = 0;           // where that is; 0: the log is empty
  uint32_t features = 0;
  uint32_t seed = 0;  // of checksums
};

// Sequence numbers wrap. > 0: a is later.
inline int32_t later(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b); }

class Journal {
 public:
  struct Run {  // blocks [first, first + count) of the journal lie at `start` of the file system
    uint32_t first, count;
    uint64_t start;
  };
  struct Cursor {
    uint32_t at = 0, sequence = 0;
  };
  enum class Step : uint8_t {
    kNothing,    // no block of this transaction is here (yet)
    kMore,       // a descriptor or a revocation: `transaction` has grown
    kCommitted,  // `transaction` is whole; the cursor stands behind it
    kBad,
  };

  Journal() = default;
  // runs: by `first`, without holes.
  Journal(Space space, std::vector<Run> runs, uint32_t block_bytes, uint64_t file_system_blocks);

  // Reads the superblock; adopt() makes it head().
  Result<JournalHead> read_head() const;
  void adopt(const JournalHead &head) { head_ = head; }
  const JournalHead &head() const { return head_; }
  uint64_t place(uint32_t block) const;  // of the file system
  // Whether something of it may lie in blocks [first, last] of the file system.
  bool spans(uint64_t first, uint64_t last) const { return first < end_ && last >= start_; }
  // Looks at the block at the cursor. Why it is bad: bad().
  Step step(Cursor &cursor, Transaction &transaction);
  const std::string &bad() const { return bad_; }
  // The content, as it belongs into its place.
  Status load(const Logged &logged, uint8_t *data) const;

 private:
  bool has_checksums() const;
  bool check_tail(const char *what);
  Step descriptor(Cursor &cursor, Transaction &transaction);
  Step revocation(Cursor &cursor, Transaction &transaction);
  Step commit(Cursor &cursor);
  Status read(uint32_t block, void *data, size_t bytes) const;
  uint32_t after(uint32_t block) const { return block + 1 < head_.end ? block + 1 : head_.first; }
  Step bad(std::string why) { return bad_ = std::move(why), Step::kBad; }

  Space space_;
  std::vector<Run> runs_;
  uint64_t start_ = 0, end_ = 0;  // all of them, and what lies between
  uint32_t block_bytes_ = 0;
  uint64_t file_system_blocks_ = 0;
  JournalHead head_;
  std::vector<uint8_t> block_;
  std::string bad_;
};

// Committed: a file system as of the last transaction that has been committed, whether or not it has been written to
// its place. Without a journal: what is in place.
class Committed {
 public:
  Committed() = default;
  Committed(Space space, uint32_t block_bytes) : space_(std::move(space)), block_bytes_(block_bytes) {}

  // Takes in the log from its oldest transaction to its end. The cursor stands behind it; {0, n}: the log is empty.
  Status open(Journal journal);
  void take(const Transaction &transaction);
  // What is older is in its place.
  void forget_before(uint32_t sequence);
  // The journal is read by the thread that sees its writes: what is not in the log any more has been forgotten.
  void nobody_writes() { others_write_ = false; }

  Status read(uint64_t offset, void *data, size_t bytes) const;
  Status read_block(uint64_t block, uint8_t *data) const { return read(block * block_bytes_, data, block_bytes_); }

  Journal journal;
  Journal::Cursor cursor;

 private:
  Space space_;
  uint32_t block_bytes_ = 0;
  bool others_write_ = true;
  std::unordered_map<uint64_t, Logged> logged_;
  std::deque<std::pair<uint32_t, uint64_t>> by_age_;  // sequence, block; some are in logged_ no longer
};

}  // namespace understudy::filesystem
