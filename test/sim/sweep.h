// Sweep: many seeds, each in a process of its own, so that one that crashes or hangs is a finding like any other.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "core/breakage.h"

namespace sim {

struct Outcome {
  uint64_t seed = 0;
  bool good = false;
  char fault[600] = "";
  uint64_t events = 0, trace = 0, faults = 0, writes = 0, views = 0, past_views = 0, returns = 0, verifies = 0, lives = 0, simulated_ns = 0;
};

struct Script;

struct SweepOptions {
  uint64_t first = 1, seeds = 1;
  uint64_t wall_ns = 0;  // no new seed after so long; 0: no limit
  int jobs = 1;
  understudy::Break broken = understudy::Break::kNone;
  bool verbose = false;
  const Script *script = nullptr;  // what happens in each; null: what its seed says
};

// Calls done() for each outcome as it comes; it says whether to go on.
void sweep(const SweepOptions &options, const std::function<bool(const Outcome &)> &done);
uint64_t wall_now_ns();  // of the machine, not of the simulation

}  // namespace sim
