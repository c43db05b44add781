// History: what a standby keeps so that any earlier moment can be shown again.
//
//   epoch 7                      epoch 8                      epoch 9 (open)
//   |--records in segments------>|--records in segments------>|--records-------> image, now
//   ^ 7.saved: what was          ^ 8.saved                    ^ 9.saved
//     overwritten in epoch 7
//
// A block at a moment in epoch 7: the newest record of epoch 7 up to the moment that covers it (7.records says where it
// lies); else what 7.saved holds, or 8.saved, or 9.saved (the first that has it: a block that an epoch did not touch is
// the same at its end); else the image's. So a moment does not depend on what the image is: also while a step is
// applied, or a crash is made good.
//
// Where the file system has reflink, the images are cloned at the beginning of an epoch (image-clones.h), a slice at a time, as
// replay goes on: until all of it is there blocks are saved as ever, and from then on none. So what an epoch saved, over its
// clones if it has them, is what was there when it began: a block that had changed before its slice was cloned is among the saved
// ones. Of an epoch with clones no later one is asked. Epochs with and without follow each other in any order: whatever hinders
// clones (the file system, room, images in so many pieces that the epoch ends before) leaves an epoch of saved blocks.
//
// Guarantees, after a kill or a power cut at any point too: what it offers is exact, or it is not there. Records that are
// not in an epoch of which all later ones are there are not offered. Whoever replays without a history removes it first
// (remove()). If it cannot go on (no room), it is given up, durably, before the image changes again, and begins anew:
// replication does not wait for it.
// Does not: read segments (moment-view does), nor decide when (Applier does).
#pragma once
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/status.h"
#include "replay/file-remover.h"
#include "replay/image-clones.h"
#include "replay/kept-packer.h"
#include "replay/kept-segments.h"
#include "replay/record-index.h"
#include "replay/replica.h"
#include "replay/saved-blocks.h"
#include "replay/volume-image.h"
#include "replay/watermark-file.h"

namespace understudy::replay {

// The saved blocks of one epoch, as they were at a moment.
struct SavedLayer {
  std::shared_ptr<SavedBlocks> file;
  std::optional<std::vector<SavedBlock>> entries;  // of an epoch that was open; by key once it is sort()ed
  void sort();
  int find(uint64_t first_key, uint64_t count, const std::function<void(const SavedBlock &)> &found) const;
};

// What lies under the records of an epoch.
struct Layers {
  std::vector<SavedLayer> saved;                // of the epochs from there to the first that has clones, and of that one
  std::vector<std::unique_ptr<Device>> clones;  // of that one, of the volumes asked for; none: the images are the bottom
};

// A moment that was found: the epoch's records up to it.
struct Cut {
  uint64_t epoch = 0;
  uint64_t from = 0;                  // log offset where the epoch begins
  std::vector<RecordEntry> entries;
  Point point;
  bool is_within_step = false;  // the moment is; the point is before the step
};

class History {
 public:
  // Opens what lies in DIRECTORY/history; adopt() says what of it holds.
  static Result<std::unique_ptr<History>> open(const std::string &directory, const ReplicaOptions &options,
                                               ReplicaListener &listener);
  // Removes what lies there, durably: what is applied from now on would not be in it.
  static Status remove(const std::string &directory);

  // Before the applier starts: the images and the log stand at `from`, and the log's own segments begin at `log_start`.
  // is_whole: nothing of the log is lost; else nothing of the history is believed.
  Status adopt(const Watermark &from, uint64_t log_start, bool is_whole);
  bool take_at_recovery(const Segment &segment) { return KeptSegments::rename(segments_directory_, segment); }
  // Any thread, with the log's lock held.
  bool take(const Segment &segment);

  // Applier thread.
  struct Change {
    uint16_t volume;
    bool zeroes;  // what will be there
    uint64_t offset, bytes;
  };
  bool is_open() const { return is_open_.load(std::memory_order_acquire); }  // an epoch is
  // Whether save() wants to know what changes: there is an epoch, and its images are not cloned.
  bool saves_blocks() const { return is_open() && !epochs_.back().is_cloned(); }
  // Between two turns: a slice of the clones, if they are to be made: some ms. True: there is more.
  bool clone_slice();
  // They are being made, and it may be that they are there soon: it is worth to let replay wait.
  bool clones_soon() const { return clones_ && clones_->took_ns() < kClonesSoonNs; }
  // On stable storage when it returns: the images may be changed there. An error: they may not.
  Status save(const std::vector<std::shared_ptr<VolumeImage>> &images, const std::vector<Change> &changes);
  void note(const wire::RecordHeader &header, uint64_t log_offset, bool is_skipped);
  // The images are synced up to log offset `to`; the watermark file is about to say so. An error: it must not.
  Status cover(uint64_t to);
  // It says so. may_begin: the images are a cut there, and hold nothing of behind it.
  void settled(const Watermark &mark, uint64_t time_ns, bool may_begin);
  // Drops what is the oldest, or all.
  void make_room();
  bool wants_room() const { return wants_room_.load(std::memory_order_relaxed); }

  // Any thread.
  void ask_for_room() { wants_room_.store(is_open()); }
  // Replica::hold_history().
  void hold(bool is_held);
  std::optional<HistorySummary> summary() const;
  Result<HistoryTimeline> timeline(uint64_t from_ns, uint64_t to_ns, size_t buckets) const;
  // ERANGE: there is none such.
  Result<Cut> find(const Moment &moment) const;
  // Each record behind the moment that has `count` records of epoch `number` before it, up to the newest.
  Status each_after(uint64_t number, size_t count, const std::function<void(const RecordEntry &)> &each) const;
  // From epoch `number` on, for these volumes. With the gate held, but when there are clones. ERANGE: it has gone.
  Result<Layers> layers(uint64_t number, const std::vector<size_t> &volumes) const;
  const KeptSegments &kept() const { return kept_; }

 private:
  static constexpr uint64_t kClonesSoonNs = 8'000'000'000;
  struct Epoch {
    std::shared_ptr<SavedBlocks> saved;
    uint64_t saved_bytes = 0, records_bytes = 0;
    uint64_t changed_bytes = 0;  // that its records wrote over: a clone takes no more
    uint64_t cloned_bytes = 0;   // that its clones hold, with what they share
    const EpochStart &start() const { return saved->start(); }
    bool is_cloned() const { return saved->is_cloned(); }
  };
  History(const std::string &directory, const ReplicaOptions &options, ReplicaListener &listener);
  Status load_epochs(const std::vector<uint64_t> &numbers);
  Status drop_epochs_before(size_t count);
  bool made_room(int error, size_t left);
  Status write_batch(std::vector<SavedBlock> &batch, const std::vector<uint8_t> &blocks);
  Status begin(const EpochStart &start);
  Status finish_clones();
  void drop_clones();
  void roll(const Watermark &mark, uint64_t time_ns);
  bool is_full(const Watermark &mark) const;
  void expire();
  void drop_oldest();  // with mutex_ held
  Status give_up(const Status &why);
  Status discard();
  uint64_t bytes() const;       // with mutex_ held
  uint64_t past_bytes() const;  // with mutex_ held: of them, what blocks were
  Status out_of_range(const std::string &what) const;  // with mutex_ held

  const std::string directory_, segments_directory_;
  const HistoryOptions options_;
  ReplicaListener &listener_;
  FileRemover remover_;
  KeptSegments kept_;
  KeptPacker packer_;
  const std::vector<ReplicaVolume> volumes_;
  std::vector<uint64_t> volume_bytes_;
  std::atomic<bool> is_open_{false}, wants_room_{false};
  std::atomic<bool> is_held_;
  bool is_lost_ = false;         // applier thread: it is no more, and its files may still be there
  uint64_t next_number_ = 1;     // applier thread
  uint64_t rests_until_ns_ = 0;  // monotonic; applier thread: not begun anew before
  uint64_t begun_ns_ = 0;        // monotonic; applier thread: the open epoch
  std::unique_ptr<ImageClones> clones_;  // applier thread: of the open epoch, while they are being made
  bool clones_are_refused_ = false;      // applier thread: this file system has none; a later start may find another one
  int clones_rest_ = 0;                  // applier thread: so many epochs do without
  std::vector<uint8_t> save_buffer_;  // applier thread: of one batch; kept, as making its pages costs more than filling them
  mutable std::mutex mutex_;     // of all below; the applier thread alone changes it
  std::deque<Epoch> epochs_;     // oldest first; the last one is open if is_open_
  std::unique_ptr<RecordIndex> index_;  // of the open one
};

}  // namespace understudy::replay
