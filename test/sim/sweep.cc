#include "sweep.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <map>

#include "run.h"

namespace understudy {
Break chosen_break = Break::kNone;
}

namespace sim {
namespace {

constexpr rlim_t kSecondsMax = 20;  // of the processor: a seed takes a fraction of one

void run_seed(uint64_t seed, const SweepOptions &options, Outcome &outcome) {
  const rlimit limit{kSecondsMax, kSecondsMax + 1};
  setrlimit(RLIMIT_CPU, &limit);
  understudy::chosen_break = options.broken;
  Run one(seed, options.script);
  one.verbose = options.verbose;
  outcome.good = one.go();
  snprintf(outcome.fault, sizeof outcome.fault, "%s", one.fault.c_str());
  outcome.events = scheduler->events;
  outcome.trace = scheduler->trace;
  outcome.faults = one.faults;
  outcome.writes = one.writes;
  outcome.views = one.views;
  outcome.past_views = one.past_views;
  outcome.returns = one.returns;
  outcome.verifies = one.verifies;
  outcome.lives = one.lives.size();
  outcome.simulated_ns = scheduler->now_ns;
  fflush(stdout);
  _exit(0);  // what the run has left lying about goes with the process
}

}  // namespace

uint64_t wall_now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

void sweep(const SweepOptions &options, const std::function<bool(const Outcome &)> &done) {
  const size_t bytes = sizeof(Outcome) * static_cast<size_t>(options.jobs);
  auto *slots = static_cast<Outcome *>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  std::map<pid_t, Outcome *> running;
  const uint64_t began = wall_now_ns(), end = options.first + options.seeds;
  uint64_t next = options.first;
  bool goes_on = true;
  while (true) {
    for (int i = 0; i < options.jobs; i++) {
      Outcome *slot = &slots[i];
      bool is_free = true;
      for (const auto &[pid, used] : running) is_free &= used != slot;
      const bool late = options.wall_ns && wall_now_ns() - began >= options.wall_ns;
      if (!is_free || !goes_on || next == end || late) continue;
      *slot = Outcome{};
      slot->seed = next++;
      fflush(stdout);
      const pid_t child = fork();
      if (child == 0) run_seed(slot->seed, options, *slot);
      if (child > 0) running.emplace(child, slot);
    }
    if (running.empty()) break;
    int status = 0;
    const pid_t child = waitpid(-1, &status, 0);
    const auto found = running.find(child);
    if (found == running.end()) continue;
    Outcome outcome = *found->second;
    running.erase(found);
    if (status != 0) {
      outcome.good = false;
      const int number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
      snprintf(outcome.fault, sizeof outcome.fault, "the process ended by signal %d (%s)", number,
               number == SIGXCPU ? "it goes round in circles" : strsignal(number));
    }
    goes_on = done(outcome) && goes_on;
  }
  munmap(slots, bytes);
}

}  // namespace sim
