// sources: native/replay/*.cc native/link/codec.cc native/engine/device.cc native/engine/direct-file.cc native/wire/record.cc native/core/core.cc native/core/memory-guard.cc native/core/crc32c.cc native/core/mirrored-ring.cc  libs: -lzstd -llz4 -lgnutls
// Views: frozen while the applier goes on, writable without touching the image.
#include <thread>

#include "replay-support.h"

using namespace replay_test;

namespace {
constexpr uint64_t kSize = (2u << 20) + 1234;

Record random_change(Master &master, std::mt19937_64 &random) {
  const uint64_t length = 1 + random() % (random() % 4 ? 6000 : 200000);
  const uint64_t offset = random() % (kSize - length);
  if (random() % 9 == 0) return master.make(random() % 2 ? RecordType::kTrim : RecordType::kZero, offset, length);
  return master.fill(offset, length, static_cast<uint8_t>(random()));
}

bool reads_like(Device &device, const Bytes &model, std::mt19937_64 &random, int reads) {
  Bytes data;
  for (int i = 0; i < reads; i++) {
    const uint64_t length = 1 + random() % 100000, offset = random() % (kSize - length);
    data.assign(length, 0xee);
    int error = i % 3 ? device.read(data.data(), length, offset) : device.read_now(data.data(), length, offset);
    if (error == EAGAIN && i % 3 == 0) error = device.read(data.data(), length, offset);
    if (error || memcmp(data.data(), model.data() + offset, length) != 0) {
      printf("# read %d at %lu+%lu differs, error %d\n", i, offset, length, error);
      return false;
    }
    const Device::Extent extent = device.extent(offset, length);
    if (extent.bytes == 0 || extent.bytes > length) return false;
    if (extent.hole)
      for (uint64_t b = 0; b < extent.bytes; b++)
        if (model[offset + b]) {
          printf("# a hole at %lu holds data\n", offset + b);
          return false;
        }
  }
  return true;
}

void test_frozen() {
  Scratch scratch;
  std::mt19937_64 random(5);
  Master master(1);
  Bytes model(kSize);
  Standby standby(options_for(scratch.path, kSize));
  std::atomic<bool> good = EXPECT(standby.make_cut(master));
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  std::atomic<int> rounds{0};
  for (int generation = 0; generation < 4; generation++) {
    for (int i = 0; i < 150; i++) {
      Record record = random_change(master, random);
      apply_to(model, record);
      if (!standby.send(record).ok()) good = false;
    }
    if (!standby.applied(master.sequence)) good = false;
    auto view = standby.replica->view(0, false);
    if (!EXPECT(view.ok()) || !EXPECT((view.value.position == wire::Position{1, master.sequence}))) {
      good = false;
      break;
    }
    readers.emplace_back([&good, &stop, &rounds, device = std::move(view.value.device), frozen = model, generation] {
      std::mt19937_64 own(static_cast<uint64_t>(generation));
      while (!stop && good) {
        if (!reads_like(*device, frozen, own, 50)) good = false;
        rounds++;
      }
    });
  }
  const uint64_t end = monotonic_ns() + 2'000'000'000;
  while (monotonic_ns() < end && good) {
    Record record = random_change(master, random);
    apply_to(model, record);
    if (!standby.send(record).ok()) good = false;
    while (standby.state().received_sequence - standby.state().applied_sequence > 100) usleep(50);
  }
  stop = true;
  for (auto &reader : readers) reader.join();
  printf("# %lu records under %d rounds of reads\n", master.sequence, rounds.load());
  ok(good && EXPECT(standby.applied(master.sequence)) && EXPECT(view_bytes(standby) == model),
     "four views stay frozen, each at its own position, while writes go on (G2)");
}

void test_writable() {
  Scratch scratch;
  std::mt19937_64 random(6);
  Master master(1), overlay_writer(9);
  Bytes model(kSize);
  Standby standby(options_for(scratch.path, kSize));
  bool good = EXPECT(standby.make_cut(master));
  for (int i = 0; i < 100; i++) {
    Record record = random_change(master, random);
    apply_to(model, record);
    good = good && standby.send(record).ok();
  }
  good = good && EXPECT(standby.applied(master.sequence));
  {
    auto view = standby.replica->view(0, true), other = standby.replica->view(0, false);
    good = good && EXPECT(view.ok()) && EXPECT(!view.value.device->traits().read_only) &&
           EXPECT(view.value.device->traits().can_zero) && EXPECT(other.value.device->write("x", 1, 0) == EROFS);
    Bytes written = model;
    const Bytes before = model;
    for (int i = 0; good && i < 400; i++) {
      Record ours = random_change(overlay_writer, random), theirs = random_change(master, random);
      apply_to(written, ours);
      apply_to(model, theirs);
      Device &device = *view.value.device;
      const RecordHeader &h = ours.header;
      good = (h.type == RecordType::kWrite ? device.write(ours.payload.data(), h.length, h.offset)
                                           : device.zero(h.offset, h.length, ZeroHow::kPunch, true)) == 0 &&
             standby.send(theirs).ok() && (i % 8 || reads_like(device, written, random, 8));
    }
    good = good && EXPECT(view.value.device->flush() == 0) && EXPECT(reads_like(*view.value.device, written, random, 100)) &&
           EXPECT(read_device(*other.value.device, 0, kSize) == before);
  }
  good = good && EXPECT(standby.drain());
  ok(good && EXPECT(view_bytes(standby) == model) && read_file(scratch.path + "/image") == model,
     "a writable view takes writes and zeroes and never touches the image or another view");
}

// Two volumes that are written in turn with one number: a view of both must show it at both, or the next at the first.
void test_at_once() {
  Scratch scratch;
  Master master(1);
  ReplicaOptions options = options_for(scratch.path, kSize);
  options.volumes = {{"a", scratch.path + "/a", kSize, true}, {"b", scratch.path + "/b", kSize, true}};
  Standby standby(options);
  std::atomic<bool> good = EXPECT(standby.make_cut(master)), stop{false};
  std::thread writer([&] {
    for (uint32_t number = 1; !stop && good; number++) {
      for (uint16_t volume = 0; volume < 2; volume++) {
        Record record = master.write(0, Bytes(reinterpret_cast<uint8_t *>(&number), reinterpret_cast<uint8_t *>(&number) + 4));
        record.header.volume_index = volume;
        wire::seal(record.header, record.payload.data());
        if (!standby.send(record).ok()) good = false;
      }
      while (standby.state().received_sequence - standby.state().applied_sequence > 50) usleep(50);
    }
  });
  const auto number_of = [](Device &device) {
    uint32_t number = 0;
    return device.read(&number, 4, 0) == 0 ? number : UINT32_MAX;
  };
  int between = 0, views = 0;
  for (; good && (views < 300 || !between) && views < 100'000; views++) {
    auto both = standby.replica->views({1, 0}, {}, views % 2);
    if (!(good = EXPECT(both.ok()))) break;
    const uint32_t b = number_of(*both.value.devices[0]), a = number_of(*both.value.devices[1]);
    const uint64_t sequence = both.value.point.position.sequence;  // 2: the step; then a, b, a, b ...
    good = EXPECT(a == b || a == b + 1) && EXPECT(sequence == 2 + uint64_t{a} + b);
    between += a != b;
  }
  stop = true;
  writer.join();
  printf("# %d views, %d of them between the two\n", views, between);
  ok(good, "views of several volumes are of one moment (G2)");
  ok(EXPECT(standby.replica->views({0, 2}, {}, false).status.error == EINVAL) &&
         EXPECT(standby.replica->views({}, {}, false).status.error == EINVAL) &&
         EXPECT(standby.replica->views({0}, {.position = wire::Position{1, 2}}, false).status.error == ENODATA),
     "a volume that is not there, and a moment where no history is kept, are refused");
}

void test_outlives() {
  Scratch scratch;
  Master master(1);
  std::unique_ptr<Device> device;
  bool good;
  {
    Standby standby(options_for(scratch.path, kSize));
    good = EXPECT(standby.make_cut(master)) && EXPECT(standby.send(master.fill(0, 100, 1)).ok()) &&
           EXPECT(standby.applied(3));
    device = std::move(standby.replica->view(0, false).value.device);
    good = good && EXPECT(standby.send(master.fill(0, 100, 2)).ok()) && EXPECT(standby.applied(4));
  }
  ok(good && EXPECT(read_device(*device, 0, 100) == Bytes(100, 1)), "a view may outlive its replica");
}

}  // namespace

int main() {
  test_frozen();
  test_writable();
  test_at_once();
  test_outlives();
  return finish();
}
