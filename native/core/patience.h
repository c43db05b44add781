// Patience: whether a thread asks for the next piece of work a little longer before it sleeps. To wake a thread on another
// processor costs more than a small request (in a virtual machine 10 to 20 us, on both sides), so that somebody with few
// requests in flight, whose next one comes within that time, is served at half the speed by one that sleeps.
//
// It is patient while they keep coming in time, and takes the processor from nobody. Either (kAlone) it sleeps as everybody
// else does once the kernel has taken the processor away from this thread (ru_nivcsw); so, too, when who asks runs on the
// same one. Or (kYields) it offers the processor before each look, which costs more, and suits waiting for longer.
// What it wastes at most is the limit after a row of kRow that came in time. One thread's own.
#pragma once
#include <sched.h>
#include <sys/resource.h>

#include <cstdint>

namespace understudy {

class Patience {
 public:
  static constexpr uint64_t kRow = 16;
  static constexpr unsigned kLooksMax = 1024;  // also where a clock stands still, as the simulator's does

  enum Manners : uint8_t { kAlone, kYields };
  Patience(uint64_t limit_ns, Manners manners) : limit_ns_(limit_ns), manners_(manners) {}

  bool worked() const { return worked_; }  // since it rested last
  void work() { worked_ = true; }
  void rest(uint64_t now_ns) {
    worked_ = false;
    idle_since_ns_ = now_ns;
    looks_ = 0;
  }
  // There is nothing to do. Whether to look again instead of sleeping.
  bool lasts(uint64_t now_ns) {
    if (row_ < kRow || now_ns >= idle_since_ns_ + limit_ns_ || looks_++ >= kLooksMax) return false;
    if (manners_ == kYields) sched_yield();
    return true;
  }

  // What it waited for has come.
  void rewarded(uint64_t now_ns) {
    if (worked_) return;
    worked_ = true;
    row_ = now_ns < idle_since_ns_ + limit_ns_ ? row_ + 1 : 0;
    if (manners_ == kAlone && row_ && row_ % kRow == 0 && taken_away()) row_ = 0;
  }

 private:
  bool taken_away() {
    rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    const long before = switches_;
    switches_ = usage.ru_nivcsw;
    return switches_ != before;
  }

  const uint64_t limit_ns_;
  const Manners manners_;
  bool worked_ = true;
  uint64_t idle_since_ns_ = 0;
  uint64_t row_ = 0;     // how often something has come in time, one after the other
  unsigned looks_ = 0;   // since it is idle
  long switches_ = 0;    // as of the last row
};

}  // namespace understudy
