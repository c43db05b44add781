// sources: native/core/*.cc native/wire/*.cc native/log/*.cc native/engine/capture.cc native/engine/connection.cc native/engine/durability.cc native/engine/filtering.cc native/engine/give-back.cc native/engine/group.cc native/engine/holding.cc native/engine/leasing.cc native/engine/marking.cc native/engine/marks.cc native/engine/region-reader.cc native/engine/requests.cc native/engine/resync.cc native/engine/spilling.cc native/engine/verifier.cc  libs: -lgnutls
// The lease: when it is held (engine/lease.h, with numbers for a clock), and what the engine does without one, with a
// real engine, a real client, and clocks of our own: CLOCK_BOOTTIME moves only where the test says so, CLOCK_MONOTONIC
// jumps there.
#include <dlfcn.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "core/clock.h"
#include "engine/group.h"

using namespace understudy;
using namespace understudy::engine;

static std::atomic<uint64_t> g_jumped_ns{0};

// The engine's calls come here; what the kernel waits by is as it was.
extern "C" int clock_gettime(clockid_t clock, timespec *time) noexcept {
  static const auto real = reinterpret_cast<int (*)(clockid_t, timespec *)>(dlsym(RTLD_NEXT, "clock_gettime"));
  const int result = real(clock, time);
  if (clock != CLOCK_BOOTTIME && clock != CLOCK_MONOTONIC) return result;
  if (clock == CLOCK_BOOTTIME) *time = {1000, 0};
  const uint64_t ns = static_cast<uint64_t>(time->tv_nsec) + g_jumped_ns;
  time->tv_sec += static_cast<time_t>(ns / 1'000'000'000);
  time->tv_nsec = static_cast<long>(ns % 1'000'000'000);
  return result;
}

namespace {

int g_tests = 0, g_failures = 0;
void ok(bool good, const std::string &title) {
  printf("%s %d - %s\n", good ? "ok" : "not ok", ++g_tests, title.c_str());
  if (!good) g_failures++;
}

constexpr uint64_t kSecond = 1'000'000'000, kBlock = 4096;
constexpr LeaseTerms kTerms{10 * kSecond, 9 * kSecond, true, 0};
void pass(uint64_t seconds) { g_jumped_ns += seconds * kSecond; }

void counting_tests() {
  Lease none({});
  ok(none.holds(0) && none.held() && !none.required(), "without a lease clients are always answered");
  Lease lease(kTerms);
  ok(!lease.holds(1) && !lease.held(), "from the start on nobody is answered before the first one is granted");
  lease.granted(100 * kSecond);
  ok(lease.holds(108 * kSecond) && !lease.holds(109 * kSecond), "it counts from when it was asked for, less the margin");
  lease.granted(95 * kSecond);
  ok(lease.holds(108 * kSecond), "an older grant that comes late shortens nothing");
  ok(lease.left_ns(107 * kSecond) == 2 * kSecond && lease.left_ns(200 * kSecond) == 0, "what is left is never negative");
  ok(lease.look(108 * kSecond) == Lease::News::kHeld && lease.look(108 * kSecond) == Lease::News::kNone &&
         lease.look(109 * kSecond) == Lease::News::kOut, "a change is told once");
  Lease promoted({10 * kSecond, 9 * kSecond, false, 0});
  ok(promoted.holds(50 * kSecond), "who nobody can take the place of needs none");
  promoted.start(50 * kSecond);
  ok(promoted.holds(58 * kSecond) && !promoted.holds(59 * kSecond), "until a standby is asked: from that moment on");
  promoted.waive();
  ok(promoted.holds(99 * kSecond), "or has refused");
  Lease inherited({10 * kSecond, 9 * kSecond, true, 70 * kSecond});
  ok(inherited.holds(69 * kSecond) && !inherited.holds(70 * kSecond), "a process that goes on for another one has what was left");
}

// Each write may take as long as the test says.
class SlowDevice final : public Device {
 public:
  SlowDevice() { traits_.size_bytes = 64 * kBlock; }
  int read(void *data, size_t bytes, uint64_t) override {
    memset(data, 7, bytes);
    reads++;
    return 0;
  }
  int write(const void *, size_t, uint64_t) override {
    pass(write_seconds);
    writes++;
    return 0;
  }
  int zero(uint64_t, uint64_t, ZeroHow, bool) override { return 0; }
  int flush() override { return 0; }
  std::atomic<uint64_t> write_seconds{0};
  std::atomic<int> reads{0}, writes{0};
};

struct Client {
  explicit Client(int socket) : fd(socket) {}
  void ask(uint16_t type) {
    std::vector<uint8_t> bytes(sizeof(nbd::Request) + (type == nbd::kWrite ? kBlock : 0));
    const nbd::Request request{htobe32(nbd::kRequestMagic), 0, htobe16(type), htobe64(1), 0,
                               htobe32(type == nbd::kFlush ? 0 : kBlock)};
    memcpy(bytes.data(), &request, sizeof request);
    if (send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(bytes.size())) abort();
  }
  // Whether a reply without error comes within the time.
  bool answered(int limit_ms, size_t data_bytes = 0) {
    pollfd ready{fd, POLLIN, 0};
    if (poll(&ready, 1, limit_ms) != 1) return false;
    std::vector<uint8_t> bytes(sizeof(nbd::SimpleReply) + data_bytes);
    nbd::SimpleReply reply;
    if (recv(fd, bytes.data(), bytes.size(), MSG_WAITALL) != static_cast<ssize_t>(bytes.size())) return false;
    memcpy(&reply, bytes.data(), sizeof reply);
    return reply.error == 0;
  }
  int fd;
};

constexpr int kSoonMs = 20'000;  // of what must come
constexpr int kNeverMs = 150;    // of what must not

struct Stage {
  Stage() {
    auto made = std::make_unique<SlowDevice>();
    device = made.get();
    std::vector<std::unique_ptr<Volume>> volumes;
    volumes.push_back(std::make_unique<Volume>("v", 0, std::move(made)));
    GroupOptions options;
    options.capture = {77, 2u << 20, false, nullptr};
    options.durability = Durability::kAsync;
    options.lease = kTerms;
    group = std::make_unique<Group>(options, std::move(volumes), pool, nullptr, [this](const Event &event) {
      if (event.type == "disconnected") disconnected++;
      if (event.type == "lease") news += std::get<bool>(event.fields[0].second) ? '+' : '-';
    });
  }
  Client join() {
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) abort();
    auto theirs = std::make_shared<Fd>(sockets[1]);
    group->post([this, theirs] { group->adopt(1, {std::move(*theirs)}, *group->volumes()[0]); });
    return Client(sockets[0]);
  }
  void grant() {  // asked for now
    group->lease().granted(boot_ns());
    group->post([] {});
  }
  void settle() {  // the engine has had a turn
    std::atomic<bool> done{false};
    for (int turn = 0; turn < 2; turn++) {
      done = false;
      group->post([&] { done = true; });
      while (!done) std::this_thread::yield();
    }
  }
  std::atomic<int> disconnected{0};
  std::string news;  // engine thread; read when it has ended
  WorkPool pool{2};
  SlowDevice *device;
  std::unique_ptr<Group> group;
};

void gate_tests() {
  Stage stage;
  Client client = stage.join();
  client.ask(nbd::kWrite);
  ok(!client.answered(kNeverMs) && stage.device->writes == 0, "before the first lease a request is not even carried out");
  stage.grant();
  ok(client.answered(kSoonMs) && stage.device->writes == 1, "with one it is answered");
  for (const uint16_t type : {nbd::kRead, nbd::kWrite, nbd::kFlush}) {
    client.ask(type);
    ok(client.answered(kSoonMs, type == nbd::kRead ? kBlock : 0), "and so are the next, type " + std::to_string(type));
  }
  const int reads = stage.device->reads;
  pass(10);
  client.ask(nbd::kRead);
  ok(!client.answered(kNeverMs) && stage.device->reads == reads, "when it has run out a read waits as well");
  stage.grant();
  ok(client.answered(kSoonMs, kBlock), "and is answered with the next one");

  // 1. a write is taken up with a lease 2. the device takes longer than that lasts 3. the reply is there and must not leave
  const int writes = stage.device->writes;
  stage.device->write_seconds = 20;
  client.ask(nbd::kWrite);
  ok(!client.answered(kNeverMs) && stage.device->writes == writes + 1, "a reply that is there too late does not leave");
  stage.device->write_seconds = 0;
  Client leaving = stage.join();
  leaving.ask(nbd::kWrite);
  stage.settle();
  close(leaving.fd);
  for (int waited = 0; stage.disconnected == 0 && waited < kSoonMs; waited++) usleep(1000);
  ok(stage.disconnected == 1 && stage.device->writes == writes + 1, "a client that leaves meanwhile is let go, and nothing is done for it");
  pass(3600);
  stage.settle();
  ok(!client.answered(kNeverMs) && stage.disconnected == 1, "a client that waits for an hour is not taken for a stalled one");
  stage.grant();
  ok(client.answered(kSoonMs), "the reply leaves when there is a lease again");
  stage.settle();
  ok(stage.disconnected == 1, "and its session goes on");

  pass(20);
  stage.settle();
  stage.group->lease().waive();
  client.ask(nbd::kRead);
  ok(client.answered(kSoonMs, kBlock), "when none is needed any more clients are answered");
  stage.group->lease().start(boot_ns());
  pass(8);
  client.ask(nbd::kRead);
  ok(client.answered(kSoonMs, kBlock), "when one is needed again it is held from then on");
  pass(2);
  client.ask(nbd::kRead);
  ok(!client.answered(kNeverMs), "for as long as one that was granted");
  stage.settle();
  ok(stage.group->page().get(kGroup_lease_stalls) == 4, "each time that it ran out is counted");
  close(client.fd);
  stage.group->stop();
  ok(stage.news == "+-+-+-+-", "and told: " + stage.news);
}

}  // namespace

int main() {
  counting_tests();
  gate_tests();
  printf("1..%d\n", g_tests);
  return g_failures ? 1 : 0;
}
