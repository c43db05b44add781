// Deliberate faults, so that the simulator (test/sim) can show that it would see them: each is chosen at run time in a
// build of its own, made with -DUNDERSTUDY_BREAK. In every other build BROKEN(name) is the constant false.
#pragma once

#ifdef UNDERSTUDY_BREAK
namespace understudy {
enum class Break : int {
  kNone,
  kSkipDirtyMark,        // a write that is not logged is not marked
  kClearBeforeFlush,     // a mark is cleared although the device was not flushed after the write
  kAckBeforeSync,        // the standby calls durable what it has not synced
  kApplyPiecemeal,       // a step is applied record by record
  kSkipOverlapWait,      // a request does not wait for one on a worker that it overlaps
  kReuseSequence,        // a master starts again with the incarnation it had
  kFreeAtReceived,       // the log frees what the standby has in memory only
  kSwapFilterUnplaced,   // a write that changes the filter opens no step
  kNeverPart,            // a master's files say that the standby has everything, whatever was answered without it
  kFreedStaysOut,        // what a file system has freed is not captured when it is written
  kNewKeepsData,         // of a file that is left out from a commit on, the standby keeps what it has
  kHeldStays,            // what was held gets no record when its owner is known
  kKeepOwnDevice,        // a master that lost its power under `received` takes its own device for the truth
  kUnsavedHistory,       // what the history keeps of a block is not on the disk when the block is overwritten
  kIndexTrailsImages,    // the watermark file moves before the history's index of records is on the disk
  kUndoneUnsynced,       // a promotion as of a moment is over before the images are on the disk
};
extern Break chosen_break;
}  // namespace understudy
#define BROKEN(name) (::understudy::chosen_break == ::understudy::Break::name)
#else
#define BROKEN(name) false
#endif
