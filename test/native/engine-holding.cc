// sources: native/core/*.cc native/wire/*.cc native/log/*.cc native/engine/capture.cc native/engine/connection.cc native/engine/durability.cc native/engine/filtering.cc native/engine/give-back.cc native/engine/group.cc native/engine/holding.cc native/engine/leasing.cc native/engine/marking.cc native/engine/marks.cc native/engine/region-reader.cc native/engine/requests.cc native/engine/resync.cc native/engine/spilling.cc native/engine/verifier.cc  libs: -lgnutls
// What is held (engine/holding.cc) when a slow standby has left the log no room: the write that overflows the list is answered,
// nothing is lost, and the engine lives.
#include <cstdio>
#include <cstring>
#include <future>

#include "core/clock.h"
#include "engine-model.h"

using namespace engine_test;

namespace {
constexpr uint64_t kFirstFree = 200, kLogBytes = 2u << 20;

// A file system of which all blocks from kFirstFree on are nobody's, and that never commits.
class NoCommits final : public filesystem::Watch {
 public:
  std::vector<filesystem::ByteRange> ranges() const override { return {}; }
  filesystem::Verdict start(const Watch *) override { return {}; }
  filesystem::Verdict wrote(uint64_t, uint64_t) override { return {}; }
  void nobodys(uint64_t offset, uint64_t bytes, const std::function<void(uint64_t, uint64_t)> &visit) override {
    const uint64_t from = std::max(offset, kFirstFree * kBlock);
    if (from < offset + bytes) visit(from, offset + bytes - from);
  }
};

class WarmDevice final : public MemoryDevice {
 public:
  WarmDevice() : MemoryDevice(false) {}
  int read_now(void *data, size_t bytes, uint64_t offset) override { return read(data, bytes, offset); }
};

void follow(Group &group) {
  std::promise<void> done;
  group.post([&] {
    RangeTable place;
    place.add(0, kSize);
    std::vector<FollowedFileSystem> followed;
    followed.push_back({nullptr, std::make_unique<NoCommits>(), place, {}, true});
    Volume &volume = *group.volumes()[0];
    CHECK(group.set_ranges(volume, {}, {}, volume.watched_writes, std::move(followed)).refused < 0);
    done.set_value();
  });
  done.get_future().wait();
}

bool equal_in_time(Group &group, Model &model, WarmDevice &device) {
  for (const uint64_t limit = monotonic_ns() + 20'000'000'000; monotonic_ns() < limit; usleep(1000)) {
    if (!model.pump(1000)) return false;
    if (group.page().get(kGroup_state) == 2 && model.image() == device.content()) return true;
  }
  return false;
}
}  // namespace

int main() {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  WorkPool pool(2);
  Model model;
  auto owned = std::make_unique<WarmDevice>();
  WarmDevice &device = *owned;
  std::vector<std::unique_ptr<Volume>> volumes;
  volumes.push_back(std::make_unique<Volume>("v", 0, std::move(owned)));
  GroupOptions options;
  options.capture = {77, kLogBytes, true, nullptr};
  options.durability = Durability::kAsync;
  options.standby.peer_timeout_ns = 60'000'000'000;
  Group group(options, std::move(volumes), pool, &model, [](const Event &) {});
  model.bind(group);
  int sockets[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0);
  auto theirs = std::make_shared<Fd>(sockets[1]);
  group.post([&group, theirs] { group.adopt(1, {std::move(*theirs)}, *group.volumes()[0]); });
  Client client(sockets[0]);
  AttachRequest request = model.new_session();
  request.all_dirty = true;
  group.post([&group, request] { group.attach(request); });
  bool good = equal_in_time(group, model, device);
  follow(group);
  good = good && equal_in_time(group, model, device);
  const auto used = [&] { return group.page().get(kGroup_log_bytes); };

  const std::vector<uint8_t> data(32 * kBlock, 7);
  for (uint64_t i = 0; i < 125; i++) good = good && client.ask(nbd::kWrite, (kFirstFree + 2 + 2 * i) * kBlock, kBlock, data.data()) == 0;
  printf("%sok 1 - what is nobody's yet takes nothing of the log\n", good && used() == 0 ? "" : "not ");
  // Nothing is taken by the standby any more. 32 blocks have room as yet, and what would be released before them has not.
  while (used() + 32 * kBlock + (80u << 10) < kLogBytes) {
    good = good && client.ask(nbd::kWrite, 0, kBlock, data.data()) == 0;
    usleep(300);
  }
  good = good && client.ask(nbd::kWrite, (kFirstFree + 266) * kBlock, 32 * kBlock, data.data()) == 0;
  printf("%sok 2 - the write that is too much for the list is answered, the log being full (G1, G7)\n", good ? "" : "not ");
  printf("%sok 3 - and all of it gets to the standby (G4)\n1..3\n", equal_in_time(group, model, device) ? "" : "not ");
  group.stop();
  return 0;
}
