// Watch: keeps ranges that rules for files leave out right while clients write to the file system.
//
//   worker:  listing = list_files(one)  -> JavaScript decides which files are left out -> make_watch(one, listing, left_out)
//   engine:  watch->start(), and in the same turn watch->ranges() less what start() told as freed come into force
//   engine:  for every write, write of zeroes and trim of the volume, when the device has it and before its record is
//            captured and its reply leaves: watch->wrote(offset, bytes)
//
// Verdicts
//   kNothing  what is left out stays so.
//   kFreed    `freed` is nobody's any more, or will be by the commit whose record comes next: it lapses. It is left out on
//             the standby for as long as nobody writes to it; what is written from now on is captured. What is in `written`
//             as well may hold data of somebody else already (recent-writes.h): it must get to the standby as it is.
//   left_out  with either of them: these blocks of files that have come or grown are left out behind this write's record,
//             and the standby must have zeroes there. Not what is in `freed`, unless it has got another owner since.
//   committed something has been committed: what is nobodys() may have changed.
//   kStep     something in the ranges may have become part of what is replicated: its data must get to the standby
//             before this write's record becomes visible. A step opens, the file system is read again.
//   kStale    what happened is not understood: a step, too, and all of the file system is replicated until it has been read.
// After kStep and kStale the watch is spent: it says kNothing from then on, and knows nothing. `freed` is empty with them:
// the step covers all. `look` says that a reading might find more to leave out (files have grown, names have changed); never urgent.
//
// Guarantees: in doubt it is kStep or kStale. Blocks that a file has got since the reading are left out from the commit on that
// says so, or, where that is not decided in bounds, replicated until another reading. A write that touches nothing that is watched costs one look-up; what is done at a commit is bounded.
// Does not: take locks. One thread at a time; make_watch() blocks its thread (a worker's). The descriptor of one.space
// must outlive the watch, and read what clients wrote (through the page cache).
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "filesystem/filesystem.h"

namespace understudy::filesystem {

// Of the device.
struct ByteRange {
  uint64_t offset, bytes;
};

struct Verdict {
  enum Kind : uint8_t { kNothing, kFreed, kStep, kStale };
  Kind kind = kNothing;
  bool look = false, committed = false;
  std::vector<ByteRange> freed, written, left_out;
  std::string why;  // of kStep and kStale, for the log: "a name of a file that is left out has gone: inode 12"
};

class Watch {
 public:
  virtual ~Watch() = default;
  // What may be left out, sorted and disjoint. Never more than the listing has for these files; less where that changed
  // meanwhile, or a file cannot be followed.
  virtual std::vector<ByteRange> ranges() const = 0;
  // What happened since make_watch(). kFreed: of what ranges() told. kStep and kStale: throw the watch away, read again.
  // before: the one that has watched the same file system until now, if it is not spent; without one it is not known where
  // clients have written, and all that the next commit frees is in `written`.
  virtual Verdict start(const Watch *before = nullptr) = 0;
  virtual Verdict wrote(uint64_t offset, uint64_t bytes) = 0;
  // visit(offset, bytes) for what of a range of the device lies in blocks that the last commit gives to nobody: what is written there
  // is of a file that a later one names, or of none. Nothing, where that is not known.
  virtual void nobodys(uint64_t /*offset*/, uint64_t /*bytes*/, const std::function<void(uint64_t, uint64_t)> & /*visit*/) {}
};

// Whether there is a watch for file systems of its kind.
bool can_be_followed(const FileSystem &one);

// left_out: one byte for each of listing.files; not 0: is left out. An error says why nothing of this file system can be
// left out while it is in use ("it has no journal"): all of it is replicated.
// whole: one byte for each of listing.directories, not 0: all that comes into it is left out, whatever its name. Or empty.
Result<std::unique_ptr<Watch>> make_watch(const FileSystem &one, const Listing &listing, const std::vector<uint8_t> &left_out,
                                          const Limits &limits, const std::vector<uint8_t> &whole = {});

}  // namespace understudy::filesystem
