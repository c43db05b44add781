// Bugs for the sanitizers to find, linked into their builds of the addon and no other: UNDERSTUDY_PLANT=race|overflow in
// the daemon's environment makes one happen when the addon is loaded. A run that stays quiet then would be worth nothing.
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

namespace {
volatile int shared = 0;

__attribute__((constructor)) void plant() {
  unsetenv("LD_PRELOAD");  // this addon is preloaded (test/support/runner.ts), and nothing but node has what it needs
  const char *asked = getenv("UNDERSTUDY_PLANT");
  const std::string plant = asked ? asked : "";
  if (plant == "race") {
    std::thread other([] { shared = shared + 1; });
    shared = shared + 1;
    other.join();
  }
  if (plant == "overflow") {
    volatile size_t size = 16;
    auto *bytes = static_cast<volatile char *>(malloc(size));
    bytes[size] = 1;
    free(const_cast<char *>(bytes));
  }
}
}  // namespace
