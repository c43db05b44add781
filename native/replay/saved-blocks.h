// SavedBlocks: what the blocks of all volumes held when an epoch began, of those that were overwritten since. One file:
//
//   EPOCH.saved   | header page | batch | batch ... | index pages | footer page |      (the last two when it is closed)
//   batch         | BatchHead, entries, zeroes up to a page | the blocks themselves, a page each |
//                 or, one page, and the last batch: the images are cloned, as of the beginning (image-clones.h)
//
// Guarantees: what append() was given is on stable storage when sync() returns 0, and only then is the image written
// where those blocks lie. So at every moment, after a kill or a power cut too, a block that differs from what it was at
// the beginning of the epoch is here. The first save of a block counts, and there is no second one. Every page has a
// CRC32C (G8).
//
//   1. batch 7 is written 2. power is lost 3. batch 7 is torn: it is cut off; its blocks were not overwritten yet
//
// The applier thread changes it; with the lock of History others copy entries(). A closed one is read by anyone.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/fd.h"
#include "core/status.h"
#include "replay/block-map.h"
#include "replay/block-walk.h"
#include "replay/replica.h"

namespace understudy::replay {

// A block of a volume as a number that sorts by volume, then by place.
inline constexpr unsigned kBlockBits = 48;
inline uint64_t block_key(uint64_t volume, uint64_t block) { return volume << kBlockBits | block; }

struct SavedBlock {
  uint64_t key;
  uint32_t page;    // of the file; 0: the block was zeroes
  uint32_t crc32c;  // of its bytes
};
static_assert(sizeof(SavedBlock) == 16);

// Where an epoch begins.
struct EpochStart {
  uint64_t number = 0;
  uint64_t log_offset = 0;
  Point point;
};

// A stretch of an epoch in which only one incarnation wrote.
struct EpochRun {
  uint64_t incarnation, first_sequence, last_sequence;
};
inline constexpr size_t kEpochRunsMax = 128;

class SavedBlocks {
 public:
  static std::string path_of(const std::string &directory, uint64_t number);
  static Result<std::shared_ptr<SavedBlocks>> create(const std::string &directory, const EpochStart &start,
                                                     const std::vector<uint64_t> &volume_bytes);
  // EBADMSG: no epoch, or not one of these volumes. Reads a file that was not closed to its last whole batch.
  static Result<std::shared_ptr<SavedBlocks>> open(const std::string &directory, uint64_t number,
                                                   const std::vector<uint64_t> &volume_bytes);

  const EpochStart &start() const { return start_; }
  bool is_closed() const { return is_closed_; }
  bool is_cloned() const { return is_cloned_; }  // what is not here is in the clones
  uint64_t bytes() const { return end_; }                 // of the file
  const std::vector<EpochRun> &runs() const { return runs_; }  // of a closed one
  uint64_t changed_bytes() const { return changed_bytes_; }       // of a closed one: what its records wrote over

  // While it is open. How many blocks from `first` on are saved, or are not, like the first.
  BlockMap::Run saved(size_t volume, uint64_t first, uint64_t count) const { return maps_[volume]->run(first, count); }
  const std::deque<SavedBlock> &entries() const { return entries_; }  // in the order of saving
  // A batch; `blocks` has kViewBlockBytes for each entry, whose page and checksum are filled in. Not in entries() and
  // saved() before accept(). 0 or an errno: then nothing has happened.
  int append(std::vector<SavedBlock> &batch, const uint8_t *blocks);
  void accept(const std::vector<SavedBlock> &batch);
  int append_cloned();
  void accept_cloned() { is_cloned_ = true; }
  int sync();
  // After a sync that failed: what it covered may be on the disk or not, and is not saved. It is in the image as it was.
  void retract();
  // Writes index and footer. entries(), by key now, stay until drop_entries().
  int close(const std::vector<EpochRun> &runs, uint64_t changed_bytes);
  void drop_entries();
  // Cuts off what a crash may have left behind the last whole batch; it goes on from there.
  int go_on();

  // Any thread. The saved blocks among the `count` from `first_key` on. 0 or an errno.
  int find(uint64_t first_key, uint64_t count, const std::function<void(const SavedBlock &)> &found) const;
  int read(const SavedBlock &block, uint8_t *data) const;  // kViewBlockBytes

 private:
  explicit SavedBlocks(Fd fd) : fd_(std::move(fd)) {}
  Status load(const std::string &path, uint64_t number, const std::vector<uint64_t> &volume_bytes);
  bool load_footer();
  int load_batches();
  int read_index_page(uint64_t page, std::vector<SavedBlock> *entries) const;
  bool fits(const SavedBlock &entry) const;
  void make_maps();
  void note(const SavedBlock &entry);

  Fd fd_;
  EpochStart start_;
  std::vector<uint64_t> volume_bytes_;
  std::vector<std::unique_ptr<BlockMap>> maps_;  // by volume; none when closed
  std::deque<SavedBlock> entries_;  // a vector would take twice as much whenever it grows
  uint64_t end_ = 0;  // of the file, in bytes
  uint64_t synced_end_ = 0;  // up to there it is on stable storage, with so many entries
  size_t synced_entries_ = 0;
  bool is_closed_ = false, is_cloned_ = false;
  uint64_t index_page_ = 0, index_pages_ = 0;
  std::vector<EpochRun> runs_;
  uint64_t changed_bytes_ = 0;
};

}  // namespace understudy::replay
