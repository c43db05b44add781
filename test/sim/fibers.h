// Fibers: the simulated threads. One runs at a time, on a stack of its own, until it waits; which one is next, and how
// much time passes, is drawn from the seed. So a run is a function of its seed.
//
// A fiber belongs to a host. When a host dies its fibers never run again: nothing is unwound, as nothing is by kill -9.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace sim {

constexpr uint64_t kNever = UINT64_MAX;

class Random {  // splitmix64
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 + 0x1234567) {}
  uint64_t next() {
    uint64_t mixed = state_ += 0x9e3779b97f4a7c15;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
    return mixed ^ (mixed >> 31);
  }
  uint64_t below(uint64_t limit) { return limit ? next() % limit : 0; }
  uint64_t between(uint64_t low, uint64_t high) { return low + below(high - low + 1); }
  bool one_in(uint64_t count) { return below(count) == 0; }

 private:
  uint64_t state_;
};

struct Fiber {
  uint64_t id = 0;
  int host = 0;
  std::string name;
  std::function<void()> body;
  enum class State : uint8_t { kRunnable, kBlocked, kDone, kDead } state = State::kRunnable;
  uint64_t wake_ns = kNever;
  bool timed_out = false;
  void *stack = nullptr;
  void *stack_pointer = nullptr;
  std::vector<Fiber *> joiners;
};

// Those who wait for one thing. Whoever is woken looks again whether it is there.
class WaitQueue {
 public:
  void add(Fiber *fiber) { fibers_.push_back(fiber); }
  void remove(Fiber *fiber) { std::erase(fibers_, fiber); }
  void wake_all();
  void wake_one();
  bool empty() const { return fibers_.empty(); }

 private:
  std::vector<Fiber *> fibers_;
};

class Scheduler {
 public:
  explicit Scheduler(uint64_t seed) : random(seed) {}

  Random random;
  uint64_t now_ns = 1'000'000'000;
  uint64_t trace = 0xcbf29ce484222325;  // of everything that happened, in order
  uint64_t events = 0;
  Fiber *current = nullptr;             // null: the scheduler itself runs

  Fiber *spawn(int host, std::string name, std::function<void()> body);
  // Runs until stop(), or until nothing can happen any more (false).
  bool run();
  void stop() { stopped_ = true; }
  void kill_host(int host);  // returns only if the caller is of another host

  // Of the current fiber. False: the time is over.
  bool block(uint64_t deadline_ns);
  bool block_on(WaitQueue &queue, uint64_t deadline_ns);
  void sleep(uint64_t ns) { block(now_ns + ns); }
  void yield();
  void wake(Fiber *fiber);
  void note(uint64_t what, uint64_t more);  // into the trace
  void list() const;                        // who waits where, for addr2line

 private:
  void switch_out();
  void finish(Fiber *fiber);
  static void entry();
  void *take_stack();

  std::vector<std::unique_ptr<Fiber>> fibers_;  // never shrinks: pointers to the dead stay good
  std::vector<Fiber *> runnable_;
  std::multimap<uint64_t, Fiber *> timers_;
  std::vector<void *> stacks_;  // to be used again
  void *own_stack_pointer_ = nullptr;
  bool stopped_ = false;
};

extern Scheduler *scheduler;  // of this process: one run

}  // namespace sim
