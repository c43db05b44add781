// sources: native/replay/*.cc native/link/codec.cc native/engine/device.cc native/engine/direct-file.cc native/wire/record.cc native/core/core.cc native/core/memory-guard.cc native/core/crc32c.cc native/core/mirrored-ring.cc  libs: -lzstd -llz4 -lgnutls
// A sealed log, shown before it is in the images: whoever reads does not wait for the applier. This one's sync of the image
// hangs (fdatasync below stands for libc's), and so nothing is applied until it ends.
#include <pthread.h>
#include <sys/syscall.h>

#include <condition_variable>
#include <thread>

#include "engine/device.h"
#include "replay-support.h"
#include "replay/pending-records.h"

using namespace replay_test;

namespace {
constexpr uint64_t kSize = 4u << 20;

std::mutex hang_mutex;
std::condition_variable hang_changed;
bool hangs = false, is_hanging = false;

void let_hang(bool wanted) {
  std::lock_guard lock(hang_mutex);
  hangs = wanted;
  hang_changed.notify_all();
}
}  // namespace

extern "C" int fdatasync(int fd) {
  char name[16] = "";
  pthread_getname_np(pthread_self(), name, sizeof name);
  if (strcmp(name, "us-applier") == 0) {
    std::unique_lock lock(hang_mutex);
    is_hanging = hangs;
    hang_changed.notify_all();
    hang_changed.wait(lock, [] { return !hangs; });
    is_hanging = false;
  }
  return static_cast<int>(syscall(SYS_fdatasync, fd));
}

namespace {

// A standby whose applier hangs, with a record applied before that, and `model` what is in the image.
struct Stuck {
  Scratch scratch;
  Master master{7};
  Bytes model = Bytes(kSize);
  Standby standby{options_for(scratch.path, kSize)};
  std::thread draining;
  bool good;
  Stuck() {
    good = EXPECT(standby.make_cut(master)) && EXPECT(standby.drain());
    let_hang(true);
    put(master.fill(8192, 4096, 0x11));
    good = good && EXPECT(standby.applied(master.sequence));
    draining = std::thread([this] { standby.drain(); });  // begins a sync at once
    std::unique_lock lock(hang_mutex);
    hang_changed.wait(lock, [] { return is_hanging; });
  }
  ~Stuck() {
    let_hang(false);
    draining.join();
  }
  void put(const Record &record) {
    good = good && EXPECT(standby.send(record).ok());
    apply_to(model, record);
  }
  // The image, as who goes on with it has it.
  std::unique_ptr<Device> open() {
    auto image = open_device(scratch.path + "/image", {});
    return image.ok() ? standby.replica->over_unapplied(std::move(image.value), 0) : nullptr;
  }
};

Record any_record(Master &master, std::mt19937_64 &random) {
  const uint64_t offset = random() % (kSize - 1), length = 1 + random() % std::min<uint64_t>(kSize - offset, 100'000);
  switch (random() % 8) {
    case 0:
      return master.make(RecordType::kZero, offset, length);
    case 1:
      return master.make(RecordType::kTrim, offset, length);
    case 2:
      return master.commit(master.sequence);
    default:
      return master.fill(offset, length, static_cast<uint8_t>(random()));
  }
}

bool holes_read_as_zeroes(Device &device, const Bytes &model) {
  for (uint64_t at = 0; at < kSize;) {
    const Device::Extent extent = device.extent(at, kSize - at);
    if (extent.bytes == 0) return false;
    if (extent.hole)
      for (uint64_t i = at; i < at + extent.bytes; i++)
        if (model[i]) return false;
    at += extent.bytes;
  }
  return true;
}

void test_shown_before_applied() {
  std::mt19937_64 random(3);
  Stuck stuck;
  Standby &standby = stuck.standby;
  for (int i = 0; i < 300; i++) stuck.put(any_record(stuck.master, random));
  std::optional<wire::Position> fork;
  bool good = stuck.good && EXPECT(standby.replica->seal(30'000'000'000, &fork).ok());
  good = good && EXPECT(fork.has_value()) && EXPECT((*fork == wire::Position{7, stuck.master.sequence}));
  good = good && EXPECT(standby.state().applied_sequence < stuck.master.sequence);
  auto device = stuck.open();
  good = good && EXPECT(device != nullptr) && EXPECT(read_device(*device, 0, kSize) == stuck.model);
  for (int i = 0; good && i < 2000; i++) {
    const uint64_t offset = random() % kSize, bytes = 1 + random() % std::min<uint64_t>(kSize - offset, 20'000);
    const Bytes wanted(stuck.model.begin() + static_cast<ptrdiff_t>(offset),
                       stuck.model.begin() + static_cast<ptrdiff_t>(offset + bytes));
    Bytes now(bytes);
    const int error = device->read_now(now.data(), bytes, offset);
    good = EXPECT(read_device(*device, offset, bytes) == wanted) && EXPECT(error == EAGAIN || now == wanted);
  }
  ok(good && EXPECT(holes_read_as_zeroes(*device, stuck.model)),
     "what is durable is read from a sealed copy while its applier hangs in a sync (G2, G3)");

  let_hang(false);
  for (int i = 0; good && standby.state().applied_sequence < stuck.master.sequence; i++)
    good = EXPECT(read_device(*device, 0, kSize) == stuck.model);
  good = good && EXPECT(standby.drain()) && EXPECT(read_device(*device, 0, kSize) == stuck.model);
  good = good && EXPECT(read_file(stuck.scratch.path + "/image") == stuck.model);
  ok(good, "it reads the same at every moment of the replay, and when the image has everything");

  stuck.standby.replica.reset();
  const Bytes later(4096, 0x77);
  good = good && EXPECT(device->write(later.data(), later.size(), 4096) == 0);
  ok(good && EXPECT(read_device(*device, 4096, 4096) == later) && EXPECT(list_files(stuck.scratch.path + "/segments").size() <= 1),
     "then it is the image alone, and is written to, without the replica");
}

// Seals while the applier hangs, which is to be waited for.
bool is_waited_for(Stuck &stuck) {
  std::atomic<bool> done = false;
  std::optional<wire::Position> fork;
  std::thread sealing([&] {
    stuck.good = EXPECT(stuck.standby.replica->seal(30'000'000'000, &fork).ok()) && stuck.good;
    done = true;
  });
  usleep(100'000);
  const bool waited = EXPECT(!done);
  let_hang(false);
  sealing.join();
  return waited && stuck.good && EXPECT(!fork.has_value());
}

void test_waited_for() {
  Stuck stuck;
  Standby &standby = stuck.standby;
  const uint64_t cut = stuck.master.sequence;
  stuck.good = stuck.good && standby.send(stuck.master.begin()).ok() && standby.send(stuck.master.sync(0, 4096, 0x55)).ok() &&
               EXPECT(standby.durable(stuck.master.sequence));
  const bool waited = is_waited_for(stuck);
  auto device = stuck.open();
  ok(waited && EXPECT(standby.state().applied_sequence == cut) && EXPECT(device && read_device(*device, 0, kSize) == stuck.model),
     "a step that is open is not shown: what is before it is waited for");
}

void test_too_many() {
  Stuck stuck;
  stuck.put(stuck.master.fill(0, 4096, 0x66));
  for (size_t i = 0; i < PendingRecords::kMax; i++) stuck.put(stuck.master.make(RecordType::kFlush, 0, 0));
  stuck.good = stuck.good && EXPECT(stuck.standby.durable(stuck.master.sequence));
  const bool waited = is_waited_for(stuck);
  auto device = stuck.open();
  ok(waited && EXPECT(device && read_device(*device, 0, kSize) == stuck.model),
     "of so many records that not all of them are remembered none is missed: they are waited for");
}

bool stays_unapplied(Standby &standby, uint64_t sequence) {
  return !wait_until([&] { return standby.state().applied_sequence >= sequence; }, 0.1 / kSlower);
}

void test_stands_aside() {
  Scratch scratch;
  Master master(7);
  Standby standby(options_for(scratch.path, kSize));
  Replica &replica = *standby.replica;
  bool good = EXPECT(standby.make_cut(master)) && EXPECT(standby.drain());
  Bytes model(kSize);
  const auto put = [&](uint8_t value) {
    const Record record = master.fill(value * 4096u, 4096, value);
    apply_to(model, record);
    return EXPECT(standby.send(record).ok()) && EXPECT(standby.durable(master.sequence));
  };
  replica.stand_aside(true);
  good = good && put(1) && EXPECT(stays_unapplied(standby, master.sequence)) && EXPECT(replica.catch_up(30'000'000'000).ok()) &&
         EXPECT(standby.state().applied_sequence == master.sequence);
  replica.stand_aside(true);
  good = good && put(2) && EXPECT(standby.applied(master.sequence));
  ok(good, "while a promotion is near nothing is applied but what somebody waits for; and a second later it is, by itself");

  replica.stand_aside(true);
  std::optional<wire::Position> fork;
  good = good && put(3) && EXPECT(replica.seal(30'000'000'000, &fork).ok()) && EXPECT(fork.has_value());
  good = good && EXPECT(stays_unapplied(standby, master.sequence));
  auto image = open_device(scratch.path + "/image", {});
  auto device = image.ok() ? replica.over_unapplied(std::move(image.value), 0) : nullptr;
  good = good && EXPECT(device && read_device(*device, 0, kSize) == model) && EXPECT(standby.drain());
  ok(good && EXPECT(standby.state().applied_sequence == master.sequence) && EXPECT(read_device(*device, 0, kSize) == model),
     "a sealed copy is read before its replay goes on");
}
}  // namespace

int main() {
  test_shown_before_applied();
  test_waited_for();
  test_too_many();
  test_stands_aside();
  return finish();
}
