#include "scripts.h"

#include "clients.h"
#include "master-daemon.h"
#include "standby-daemon.h"

namespace sim {

using namespace understudy;

namespace {
constexpr uint64_t kPatienceNs = 60 * kSecond;
constexpr uint64_t kTableBlock = 0;  // a write to it opens a step (filters)
constexpr uint64_t kBlock = 40;      // of another region

// Before the script's next line. False: it has failed.
bool until(Run &run, const char *what, const std::function<bool()> &condition) {
  for (const uint64_t limit = scheduler->now_ns + kPatienceNs; scheduler->now_ns < limit; scheduler->sleep(kMs))
    if (condition()) return true;
  run.fail(std::string("the script waits for ever: ") + what);
  return false;
}

// 1. both have block 40, and the master's file says `paired`
// 2. a write opens a step: the reply waits until the file says that the standby does not count any more
// 3. that write and another one to block 40 are durable at the standby, staged; the file is not written yet
// 4. the master loses its power: what the two wrote may be gone from its device, and nobody was told that it was there
// 5. its next life takes what the standby shows, which is the cut before them, and closes its step
// What was staged in 3. must not come up then: the master has not got it. (One of 4000 seeds.)
void staged_above_the_cut(Run &run) {
  run.boot(kStandby);
  run.boot(kMaster);
  if (!until(run, "paired", [&] { return run.in_sync() && run.master->notes_paired(); })) return;
  const auto first = write_once(run, kBlock, 1, run.new_stamp(0));
  if (!until(run, "the write that both have", [&] { return *first && run.in_sync(); })) return;

  run.cannot_save = true;
  const uint64_t cut = run.master->group().page().get(kGroup_written_sequence);
  const auto opens = write_once(run, kTableBlock, 1, run.new_stamp(0));
  const auto staged = [&](uint64_t sequence) {
    return until(run, "records that are staged", [&] { return run.standby->state().durable_sequence >= sequence; });
  };
  if (!staged(cut + 2)) return;  // kBegin, and the write
  const auto second = write_once(run, kBlock, 1, run.new_stamp(0));
  if (!staged(cut + 3)) return;
  if (*opens || *second) return run.fail("a reply has left that the standby may lack, and the file says `paired`");
  if (!run.master->notes_paired()) return run.fail("the script has missed its moment");

  room->kill(kMaster, Death::kPower);
  run.cannot_save = false;
  run.boot(kMaster);
  if (!until(run, "what is given back", [&] { return run.master && run.master->serves(); })) return;
  const auto last = write_once(run, kBlock + 100, 1, run.new_stamp(0));
  (void)until(run, "a write of the next life", [&] { return *last; });
}

constexpr Script kScripts[] = {
    {"staged-above-the-cut",
     "what is staged above the cut that was given back does not come up with the next step (G2)",
     [](Settings &settings) {
       settings.durability = engine::Durability::kReceived;
       settings.block = false;
       settings.filters = true;
       settings.peer_timeout_ns = 600 * kMs;
     },
     staged_above_the_cut},
};
}  // namespace

std::span<const Script> scripts() { return kScripts; }

}  // namespace sim
