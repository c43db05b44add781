// sources: native/core/core.cc
// When a standby is away, when clients wait for it, when it lags: engine/standby-watch.h, with a clock of our own.
#include "engine/standby-watch.h"

#include <cstdio>
#include <string>

using understudy::engine::StandbyPolicy;
using understudy::engine::StandbyWatch;

static int g_tests = 0, g_failures = 0;
static void ok(bool good, const std::string &title) {
  printf("%s %d - %s\n", good ? "ok" : "not ok", ++g_tests, title.c_str());
  if (!good) g_failures++;
}

constexpr uint64_t kMs = 1'000'000;

struct Stage {
  explicit Stage(const StandbyPolicy &policy) : watch(policy) { watch.attached(sight.now_ns); }
  StandbyWatch watch;
  StandbyWatch::Sight sight{1'000'000'000, true, false, false, 0, 0, 0, 0, 0, 0, 0};
  // Looks every 10 ms; `each` changes what is seen.
  template <typename Each>
  void pass(uint64_t ms, Each each) {
    for (uint64_t at = 0; at < ms; at += 10) {
      sight.now_ns += 10 * kMs;
      each(at);
      watch.look(sight);
    }
  }
  void pass(uint64_t ms) {
    pass(ms, [](uint64_t) {});
  }
};

static StandbyPolicy policy();
static void behind_tests() {
  Stage stage(policy());
  stage.sight.spilled = true;
  stage.pass(990);
  ok(!stage.watch.behind(), "a log that goes through the file for a moment is waited for");
  stage.pass(20);
  ok(stage.watch.behind(), "but not for longer than the peer timeout");
  stage.sight.spilled = false;
  stage.pass(10);
  ok(!stage.watch.behind(), "until the file is empty");
  stage.sight.logged = 5;
  stage.pass(1020);
  stage.sight.spilled = true;
  stage.pass(10);
  ok(stage.watch.away() && stage.watch.behind(), "nor is it once the standby is away");
  stage.watch.attached(stage.sight.now_ns);
  stage.sight.durable = 1;
  stage.pass(10);
  ok(!stage.watch.away() && stage.watch.behind(), "and not when it comes back");
}

static StandbyPolicy policy() {
  StandbyPolicy policy;
  policy.peer_timeout_ns = 1000 * kMs;
  return policy;
}

static void away_tests() {
  {
    Stage stage(policy());
    stage.pass(5000);
    ok(!stage.watch.away(), "a standby that owes nothing is not away, however long it is silent");
    stage.sight.logged = 5;
    stage.pass(990);
    ok(!stage.watch.away(), "one that owes has its whole timeout");
    stage.pass(20);
    ok(stage.watch.away(), "and is away then");
    stage.sight.received = 5;
    stage.pass(10);
    ok(stage.watch.away(), "what it merely receives does not end that");
    stage.sight.durable = 5;
    stage.pass(10);
    ok(!stage.watch.away(), "what it makes durable does");
  }
  {
    // FLUSH waited as long as there was memory: each record that arrived was progress.
    Stage stage(policy());
    stage.sight.logged = 1'000'000;
    stage.pass(1020, [&](uint64_t) { stage.sight.received++, stage.sight.acked_position += 100; });
    ok(stage.watch.away(), "a standby whose disk is full is away after the timeout, though it goes on receiving");
  }
  {
    Stage stage(policy());
    stage.sight.logged = 2;
    stage.sight.received = stage.sight.durable = 1;
    stage.pass(30'000, [&](uint64_t) { stage.sight.acked_position += 10'000; });
    ok(!stage.watch.away(), "a large record on a slow link is progress while its bytes arrive");
    stage.pass(1010);
    ok(stage.watch.away(), "and none when they stop");
  }
}

static void block_tests() {
  StandbyPolicy blocking = policy();
  blocking.block = true;
  {
    Stage stage(blocking);
    stage.sight.logged = 1;
    stage.pass(3'600'000);
    ok(stage.watch.away() && stage.watch.blocks(), "block: for ever");
  }
  blocking.block_ns = 3000 * kMs;
  Stage stage(blocking);
  stage.pass(100'000);
  stage.sight.logged = 1;
  stage.pass(1000);  // then it is away
  stage.pass(2900);
  ok(stage.watch.blocks(), "block:3s: clients wait for 3 s from the loss on");
  stage.pass(200);
  ok(!stage.watch.blocks(), "and go on then");
  stage.sight.streaming = false;
  stage.pass(1000);
  stage.sight.streaming = stage.sight.step_open = true;
  stage.pass(1000);
  ok(!stage.watch.blocks(), "also while it is resynchronised");
  stage.sight.step_open = false;
  stage.sight.durable = stage.sight.received = 1;
  stage.pass(10);
  ok(stage.watch.blocks(), "in sync, the next loss has its own time");
}

static void lag_tests() {
  StandbyPolicy lagging = policy();
  lagging.lag_bytes_max = 1000;
  {
    Stage stage(lagging);
    stage.sight.written_bytes = 5000;
    stage.pass(100);
    ok(!stage.watch.lags(5000), "what a resynchronisation has left to be made durable is no lag");
    stage.sight.durable_bytes = 4500;
    stage.pass(10);
    ok(!stage.watch.lags(5500), "at the limit it is none either");
    ok(stage.watch.lags(5501), "beyond it is");
    stage.sight.step_open = true;
    stage.pass(10);
    ok(!stage.watch.lags(9000), "a step is not judged");
  }
  lagging.lag_bytes_max = 0;
  lagging.lag_ns_max = 500 * kMs;
  Stage stage(lagging);
  stage.pass(100);
  const auto follows = [&](uint64_t behind) {
    return [&stage, behind](uint64_t) {
      stage.sight.logged++;
      stage.sight.received = stage.sight.logged;
      stage.sight.durable = stage.sight.logged > behind ? stage.sight.logged - behind : 0;
    };
  };
  stage.pass(5000, follows(45));  // 10 ms each
  ok(!stage.watch.lags(0), "a write that becomes durable after 450 ms is younger than 500 ms");
  stage.pass(5000, follows(60));
  ok(stage.watch.lags(0), "one that does after 600 ms is not");
  stage.pass(10, follows(0));
  ok(!stage.watch.lags(0), "until it has caught up");
  stage.pass(5000);
  ok(!stage.watch.lags(0), "and nothing is as old as no write");
}

int main() {
  behind_tests();
  away_tests();
  block_tests();
  lag_tests();
  printf("1..%d\n", g_tests);
  return g_failures != 0;
}
