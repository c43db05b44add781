// Patience: whether the engine thread asks for the next request a little longer before it sleeps. To wake a thread on
// another processor costs more than a small request (in a virtual machine 10 to 20 us, on both sides), so that a client
// with few requests in flight, whose next one comes within that time, is served at half the speed by one that sleeps.
//
// It is patient while requests keep coming in time, and nobody else wants this processor: once the kernel has taken it
// away from this thread (ru_nivcsw), it sleeps as everybody else does; so, too, when the client runs on the same one.
// What it wastes at most is kLimitNs after a row of kRow that came in time. Engine thread only.
#pragma once
#include <sys/resource.h>

#include <cstdint>

namespace understudy::engine {

class Patience {
 public:
  static constexpr uint64_t kLimitNs = 50'000;
  static constexpr uint64_t kRow = 16;
  static constexpr unsigned kLooksMax = 1024;  // also where a clock stands still, as the simulator's does

  bool worked() const { return worked_; }  // since it rested last
  void work() { worked_ = true; }
  void rest(uint64_t now_ns) {
    worked_ = false;
    idle_since_ns_ = now_ns;
    looks_ = 0;
  }
  // There is nothing to do. Whether to look again instead of sleeping.
  bool lasts(uint64_t now_ns) { return row_ >= kRow && now_ns < idle_since_ns_ + kLimitNs && looks_++ < kLooksMax; }

  // Something has come from a client.
  void rewarded(uint64_t now_ns) {
    if (worked_) return;
    worked_ = true;
    row_ = now_ns < idle_since_ns_ + kLimitNs ? row_ + 1 : 0;
    if (row_ && row_ % kRow == 0 && taken_away()) row_ = 0;
  }

 private:
  bool taken_away() {
    rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    const long before = switches_;
    switches_ = usage.ru_nivcsw;
    return switches_ != before;
  }

  bool worked_ = true;
  uint64_t idle_since_ns_ = 0;
  uint64_t row_ = 0;     // how often something has come in time, one after the other
  unsigned looks_ = 0;   // since it is idle
  long switches_ = 0;    // as of the last row
};

}  // namespace understudy::engine
