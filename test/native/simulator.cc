// sources: native/core/*.cc native/wire/*.cc native/log/*.cc native/replay/*.cc native/link/*.cc native/engine/capture.cc native/engine/connection.cc native/engine/device.cc native/engine/direct-file.cc native/engine/durability.cc native/engine/filtering.cc native/engine/give-back.cc native/engine/group.cc native/engine/holding.cc native/engine/leasing.cc native/engine/marking.cc native/engine/marks.cc native/engine/region-reader.cc native/engine/requests.cc native/engine/resync.cc native/engine/spilling.cc native/engine/verifier.cc  breakable: test/sim/*.cc native/engine/capture.cc native/engine/durability.cc native/engine/marks.cc native/engine/requests.cc native/link/link.cc native/replay/applier.cc native/replay/history.cc native/replay/record-index.cc native/replay/rollback.cc native/replay/segment.cc  libs: -lzstd -llz4
// timeout: 240
// The deterministic simulator (test/sim/README.md) on some hundred seeds: no seed breaks a promise, a seed is the same
// run every time, and each deliberate fault (core/breakage.h) is seen.
//
//   simulator                          the tests below
//   simulator run [--seeds N] [--seed S] [--minutes M] [--break NAME] [--script NAME] [--verbose]     npm run sim
#include <malloc.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#define UNDERSTUDY_BREAK  // as its parts are compiled
#include "../sim/sanitized.h"
#include "../sim/scripts.h"
#include "../sim/sweep.h"

using namespace sim;
using understudy::Break;

namespace {

struct Breakage {
  Break value;
  const char *name, *title;
  uint64_t first_seed = 1;  // that is tried: of those that it takes hundreds to catch, shortly before one that does
};
constexpr Breakage kBreakages[] = {
    {Break::kSkipDirtyMark, "skip-dirty-mark", "a write that is neither logged nor marked"},
    {Break::kClearBeforeFlush, "clear-before-flush", "a mark that is cleared before the device was flushed", 35},
    {Break::kAckBeforeSync, "ack-before-sync", "an acknowledgement before fdatasync"},
    {Break::kApplyPiecemeal, "apply-piecemeal", "a step that is applied piece by piece"},
    {Break::kSkipOverlapWait, "skip-overlap-wait", "a request that does not wait for one that it overlaps"},
    {Break::kReuseSequence, "reuse-sequence", "a sequence that is used again after a crash"},
    {Break::kFreeAtReceived, "free-at-received", "a log that is freed at received"},
    {Break::kSwapFilterUnplaced, "swap-filter-unplaced", "a filter that changes without a position"},
    {Break::kNeverPart, "never-part", "a master that does not write down that it answers without the standby", 1300},
    {Break::kKeepOwnDevice, "keep-own-device", "a master that keeps its own device after a power cut under received", 275},
    {Break::kUnsavedHistory, "unsaved-history", "a block that is overwritten before the history's copy of it is on the disk", 80},
    {Break::kIndexTrailsImages, "index-trails-images", "a watermark that moves before the history's index of records"},
    {Break::kUndoneUnsynced, "undone-unsynced", "a promotion as of a moment that is over before the image was synced"},
};
constexpr uint64_t kSeeds = 120, kSeedsToCatch = 4000, kSeedsOfScript = 10;
constexpr int kJobs = 2;

int tests = 0, failures = 0;

void ok(bool good, const std::string &title) {
  printf("%sok %d - %s\n", good ? "" : "not ", ++tests, title.c_str());
  failures += !good;
  fflush(stdout);
}

void tell(const Outcome &outcome, const std::string &options = "") {
  printf("# seed %lu: %s\n#   again: npm run sim --%s --seed %lu --verbose\n", outcome.seed, outcome.fault, options.c_str(),
         outcome.seed);
}

Outcome one_seed(uint64_t seed) {
  Outcome found;
  sweep({seed, 1}, [&](const Outcome &outcome) {
    found = outcome;
    return true;
  });
  return found;
}

void test_seeds() {
  uint64_t bad = 0, faults = 0, writes = 0, views = 0, past_views = 0, returns = 0, verifies = 0;
  const uint64_t began = wall_now_ns();
  sweep({1, kSeeds, 0, kJobs}, [&](const Outcome &outcome) {
    if (!outcome.good) bad++, tell(outcome);
    faults += outcome.faults, writes += outcome.writes, views += outcome.views, past_views += outcome.past_views, returns += outcome.returns, verifies += outcome.verifies;
    return true;
  });
  const double seconds = static_cast<double>(wall_now_ns() - began) / 1e9;
  printf("# %lu seeds in %.1f s (%.0f a minute): %lu faults, %lu writes, %lu views judged, %lu of the past, %lu promoted as of an earlier moment, %lu verifies\n", kSeeds, seconds,
         static_cast<double>(kSeeds) / seconds * 60, faults, writes, views, past_views, returns, verifies);
  ok(bad == 0 && returns > 0, "through crashes, power cuts, partitions and damage the standby shows legal cuts only, becomes what it was at a moment, and ends up equal (G2, G3, G4, G8)");
}

void test_reproduces() {
  bool same = true;
  for (uint64_t seed = 1; seed <= 5; seed++) {
    const Outcome first = one_seed(seed), second = one_seed(seed);
    same &= first.trace == second.trace && first.events == second.events && first.events > 100;
  }
  ok(same, "a seed is the same run every time, event by event");
}

void test_breakage(const Breakage &breakage) {
  Outcome caught;
  sweep({breakage.first_seed, kSeedsToCatch, 0, kJobs, breakage.value}, [&](const Outcome &outcome) {
    if (!outcome.good && !caught.seed) caught = outcome;
    return caught.seed == 0;
  });
  if (caught.seed) printf("# caught by seed %lu: %s\n", caught.seed, caught.fault);
  const bool unbroken_is_good = caught.seed && one_seed(caught.seed).good;
  ok(caught.seed && unbroken_is_good, std::string("seen: ") + breakage.title);
}

void test_script(const Script &script) {
  uint64_t bad = 0;
  SweepOptions options{1, kSeedsOfScript, 0, kJobs};
  options.script = &script;
  sweep(options, [&](const Outcome &outcome) {
    if (!outcome.good) bad++, tell(outcome, std::string(" --script ") + script.name);
    return true;
  });
  ok(bad == 0, script.title);
}

int run_tests() {
  test_seeds();
  test_reproduces();
  for (const Script &script : scripts()) test_script(script);
  for (const Breakage &breakage : kBreakages) test_breakage(breakage);
  printf("1..%d\n", tests);
  return failures ? 1 : 0;
}

// ---- npm run sim

[[noreturn]] void usage() {
  printf("usage: npm run sim -- [--seeds N] [--seed S] [--minutes M] [--break NAME] [--script NAME] [--verbose]\n");
  for (const Breakage &breakage : kBreakages) printf("  --break %-22s %s\n", breakage.name, breakage.title);
  for (const Script &script : scripts()) printf("  --script %-21s %s\n", script.name, script.title);
  exit(2);
}

SweepOptions options_from(int argc, char **argv) {
  SweepOptions options;
  options.seeds = 1000;
  options.jobs = kJobs;
  bool one = false, counted = false;
  for (int i = 2; i < argc; i++) {
    const std::string name = argv[i];
    if (name == "--verbose") {
      options.verbose = true;
      continue;
    }
    if (++i == argc) usage();
    char *end = nullptr;
    const uint64_t number = strtoull(argv[i], &end, 10);
    const bool is_number = end != argv[i] && !*end;
    if (name == "--seeds" && is_number) options.seeds = number, counted = true;
    else if (name == "--seed" && is_number) options.first = number, one = true;
    else if (name == "--minutes" && is_number) options.wall_ns = number * 60'000'000'000, options.seeds = UINT32_MAX;
    else if (name == "--break") {
      for (const Breakage &breakage : kBreakages)
        if (strcmp(breakage.name, argv[i]) == 0) options.broken = breakage.value;
      if (options.broken == Break::kNone) usage();
    } else if (name == "--script") {
      for (const Script &script : scripts())
        if (strcmp(script.name, argv[i]) == 0) options.script = &script;
      if (!options.script) usage();
    } else {
      usage();
    }
  }
  if (one && !counted) options.seeds = 1;
  return options;
}

int run_seeds(int argc, char **argv) {
  const SweepOptions options = options_from(argc, argv);
  const uint64_t began = wall_now_ns();
  uint64_t seeds = 0, bad = 0, events = 0;
  double simulated = 0;
  sweep(options, [&](const Outcome &outcome) {
    seeds++;
    events += outcome.events;
    simulated += static_cast<double>(outcome.simulated_ns) / 1e9;
    if (!outcome.good) bad++, printf("seed %lu: %s\n", outcome.seed, outcome.fault);
    if (options.seeds == 1)
      printf("seed %lu: %s; %lu faults, %lu writes, %lu views, %lu of the past, %lu times promoted as of an earlier moment, %lu lives of the master, %lu events, trace %016lx\n",
             outcome.seed, outcome.good ? "good" : "bad", outcome.faults, outcome.writes, outcome.views, outcome.past_views, outcome.returns, outcome.lives,
             outcome.events, outcome.trace);
    return true;
  });
  const double seconds = static_cast<double>(wall_now_ns() - began) / 1e9;
  printf("%lu seeds, %lu bad, in %.1f s: %.0f a minute, %.0f s simulated, %lu events\n", seeds, bad, seconds,
         static_cast<double>(seeds) / seconds * 60, simulated, events);
  return bad ? 1 : 0;
}

}  // namespace

int main(int argc, char **argv) {
#ifdef SIM_SANITIZED
  printf("ok 1 - the simulator # SKIP sanitizers do not know its threads\n1..1\n");
  return 0;
#endif
  // A fifth of the time would go to pages that are given back to the kernel and asked for again.
  for (const int parameter : {M_TRIM_THRESHOLD, M_MMAP_THRESHOLD}) mallopt(parameter, 1 << 30);
  mallopt(M_TOP_PAD, 16 << 20);
  if (argc == 1) return run_tests();
  if (strcmp(argv[1], "run") != 0) usage();
  return run_seeds(argc, argv);
}
