// sources: native/core/core.cc
// When a thread looks again instead of sleeping: core/patience.h, with numbers for clocks, and a kernel that takes the
// processor away when the test says so.
#include "core/patience.h"

#include <cstdio>
#include <string>

using understudy::Patience;

static long g_taken_away = 0, g_offered = 0;

extern "C" int getrusage(__rusage_who_t, rusage *usage) noexcept {
  *usage = {};
  usage->ru_nivcsw = g_taken_away;
  return 0;
}

extern "C" int sched_yield() noexcept {
  g_offered++;
  return 0;
}

static int g_tests = 0, g_failures = 0;
static void ok(bool good, const std::string &title) {
  printf("%s %d - %s\n", good ? "ok" : "not ok", ++g_tests, title.c_str());
  if (!good) g_failures++;
}

constexpr uint64_t kUs = 1000;

struct Thread {
  Patience patience;
  uint64_t now_ns = 1'000'000'000;
  explicit Thread(Patience::Manners manners = Patience::kAlone) : patience(50 * kUs, manners) { patience.rest(now_ns); }
  // A request after so long; the work on it takes 200 us.
  void request_after(uint64_t us) {
    now_ns += us * kUs;
    patience.rewarded(now_ns);
    now_ns += 200 * kUs;
    if (patience.worked()) patience.rest(now_ns);
  }
  void requests(uint64_t count, uint64_t us = 30) {
    for (uint64_t i = 0; i < count; i++) request_after(us);
  }
  bool lasts_for(uint64_t us) { return patience.lasts(now_ns + us * kUs); }
};

int main() {
  {
    Thread thread;
    thread.requests(Patience::kRow - 1);
    ok(!thread.lasts_for(0), "it sleeps until requests have come in time for a while");
    thread.requests(1);
    ok(thread.lasts_for(49), "then it looks for the next one, however long the work on the last one took");
    ok(!thread.lasts_for(50), "but not for longer than the next one may take");
    thread.request_after(51);
    ok(!thread.lasts_for(0), "one that is late ends it");
    thread.requests(Patience::kRow - 1);
    ok(!thread.lasts_for(0), "and a new row is asked for");
    thread.requests(1);
    ok(thread.lasts_for(0), "of the same length");
  }
  {
    Thread thread;
    g_taken_away++;
    thread.requests(Patience::kRow);
    ok(!thread.lasts_for(0), "while others want the processor it sleeps");
    thread.requests(Patience::kRow);
    ok(thread.lasts_for(0), "until a row has passed in which nobody did");
    g_taken_away++;
    thread.requests(Patience::kRow);
    ok(!thread.lasts_for(0), "somebody comes while it is patient: it notices within a row");
  }
  {
    Thread thread;
    thread.requests(2 * Patience::kRow);
    thread.patience.work();
    thread.now_ns += 100'000 * kUs;  // a worker had something
    thread.patience.rewarded(thread.now_ns);
    thread.patience.rest(thread.now_ns);
    ok(thread.lasts_for(0), "what came while it worked on something else is not late");
    unsigned looks = 1;
    while (thread.lasts_for(0) && looks < 1'000'000) looks++;
    ok(looks == Patience::kLooksMax, "a clock that stands still does not keep it from sleeping");
  }
  {
    ok(g_offered == 0, "alone, it asks the kernel for nothing before a look");
    Thread thread(Patience::kYields);
    g_taken_away++;
    thread.requests(Patience::kRow);
    ok(thread.lasts_for(0), "one that yields goes on when others want the processor");
    ok(g_offered == 1, "which it has offered to them");
    ok(!thread.lasts_for(50) && g_offered == 1, "and sleeps after the same time");
  }
  printf("1..%d\n", g_tests);
  return g_failures != 0;
}
