// KeptPacker: compresses the segments that a history keeps, while nothing else is to do. One thread of the lowest
// priority (SCHED_IDLE), at most half of its time, and only while hardly anything is applied: nobody waits for it, and it
// waits for everybody. A segment that a sample calls not worth it is left as it is.
//
//   1. 7.keptz.new is written and synced 2. it is renamed to 7.keptz, and that synced 3. 7.kept is removed
//
// After a crash between 2 and 3 both are there, and the compressed one counts.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "replay/kept-segments.h"

namespace understudy::replay {

class KeptPacker {
 public:
  // rest_ns: so long hardly anything has been applied before it begins. 0: it does not wait (tests).
  KeptPacker(KeptSegments &kept, uint64_t rest_ns) : kept_(kept), rest_ns_(rest_ns) {}
  ~KeptPacker() { stop(); }
  void start();
  void stop();

  // Any thread.
  void applies(uint64_t bytes) { applied_bytes_.fetch_add(bytes, std::memory_order_relaxed); }
  // Segments that end at or below `log_offset` may be compressed.
  void may_pack_below(uint64_t log_offset) { below_.store(log_offset); wake(); }
  void wake();

 private:
  void run();
  void pack(const KeptSegments::Kept &kept);
  bool rests(uint64_t ns);   // false: it is to stop
  bool waits_for_quiet();    // likewise

  KeptSegments &kept_;
  const uint64_t rest_ns_;
  std::atomic<uint64_t> applied_bytes_{0}, below_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false, has_news_ = true;  // under mutex_
  std::thread thread_;
};

}  // namespace understudy::replay
