// sources: native/core/*.cc native/wire/*.cc native/log/*.cc native/engine/capture.cc native/engine/connection.cc native/engine/durability.cc native/engine/filtering.cc native/engine/give-back.cc native/engine/group.cc native/engine/holding.cc native/engine/leasing.cc native/engine/marking.cc native/engine/marks.cc native/engine/region-reader.cc native/engine/requests.cc native/engine/resync.cc native/engine/spilling.cc native/engine/verifier.cc  libs: -lgnutls
// A group that ends while a worker is still at the device waits for it, and sleeps meanwhile. Once it went round and
// round: a device that did not answer cost a whole processor until the daemon had gone. (Seen by the simulator, where
// time stood still meanwhile: a stop in the middle of a read for verify.)
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "engine/group.h"

using namespace understudy;
using namespace understudy::engine;

namespace {

constexpr uint64_t kBlock = 4096, kMs = 1'000'000, kFlushMs = 500;

uint64_t now_ns(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

class SlowDevice final : public Device {
 public:
  SlowDevice() { traits_.size_bytes = 64 * kBlock; }
  int read(void *data, size_t bytes, uint64_t) override {
    memset(data, 7, bytes);
    return 0;
  }
  int write(const void *, size_t, uint64_t) override { return 0; }
  int zero(uint64_t, uint64_t, ZeroHow, bool) override { return 0; }
  int flush() override {
    flushing = true;
    usleep(kFlushMs * 1000);
    ended = true;
    return 0;
  }
  std::atomic<bool> flushing{false}, ended{false};
};

}  // namespace

int main() {
  auto made = std::make_unique<SlowDevice>();
  SlowDevice &device = *made;
  std::vector<std::unique_ptr<Volume>> volumes;
  volumes.push_back(std::make_unique<Volume>("v", 0, std::move(made)));
  GroupOptions options;
  options.capture = {77, 2u << 20, false, nullptr};
  options.durability = Durability::kAsync;
  WorkPool pool(1);
  Group group(options, std::move(volumes), pool, nullptr, [](const Event &) {});

  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) abort();
  group.post([&] { group.adopt(1, {Fd(sockets[1])}, *group.volumes()[0]); });
  const nbd::Request request{htobe32(nbd::kRequestMagic), 0, htobe16(nbd::kFlush), htobe64(1), 0, 0};
  if (send(sockets[0], &request, sizeof request, MSG_NOSIGNAL) != sizeof request) abort();
  while (!device.flushing) usleep(1000);

  const uint64_t began = now_ns(CLOCK_PROCESS_CPUTIME_ID);
  group.stop();
  const uint64_t spent = (now_ns(CLOCK_PROCESS_CPUTIME_ID) - began) / kMs;
  printf("%s 1 - what is in flight on workers is waited for\n", device.ended ? "ok" : "not ok");
  printf("%s 2 - asleep: %lu ms of a processor in a flush of %lu ms\n", spent < kFlushMs / 5 ? "ok" : "not ok", spent, kFlushMs);
  printf("1..2\n");
  close(sockets[0]);
  return device.ended && spent < kFlushMs / 5 ? 0 : 1;
}
