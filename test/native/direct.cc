// sources: native/core/*.cc native/wire/*.cc native/log/*.cc native/engine/capture.cc native/engine/connection.cc native/engine/device.cc native/engine/direct-file.cc native/engine/durability.cc native/engine/filtering.cc native/engine/give-back.cc native/engine/group.cc native/engine/holding.cc native/engine/leasing.cc native/engine/marking.cc native/engine/marks.cc native/engine/region-reader.cc native/engine/requests.cc native/engine/resync.cc native/engine/spilling.cc native/engine/verifier.cc  libs: -lgnutls
// Devices past the page cache (engine/direct-file.h): what is not aligned, its neighbours, and many small writes at once
// through a real engine. On plain descriptors, as the rules of O_DIRECT are kept on them as well, so that this runs on any
// file system; test/e2e/direct.test.ts has the real thing.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/direct-file.h"
#include "engine/group.h"

using namespace understudy;
using namespace understudy::engine;

namespace {

int g_tests = 0, g_failures = 0;
void ok(bool good, const std::string &title) {
  printf("%s %d - %s\n", good ? "ok" : "not ok", ++g_tests, title.c_str());
  if (!good) g_failures++;
}

Fd memory_file(size_t bytes) {
  Fd fd(memfd_create("direct", MFD_CLOEXEC));
  if (!fd || ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) abort();
  return fd;
}
std::string path_of(const Fd &fd) { return "/proc/self/fd/" + std::to_string(fd.get()); }

// Any offset, length and memory; every byte around them stays.
void unaligned_tests(unsigned seed) {
  constexpr size_t kSize = 4u << 20;
  Fd file = memory_file(kSize);
  Fd look(open(path_of(file).c_str(), O_RDWR | O_CLOEXEC));
  DirectFile direct(std::move(file));
  std::mt19937_64 random(seed);
  std::vector<uint8_t> expected(kSize), memory(3u << 20), seen(kSize);
  bool reads = true, writes = true;
  for (int round = 0; round < 600 && reads && writes; round++) {
    const bool long_one = round % 20 == 0;
    const size_t grain = std::vector<size_t>{1, 7, 512, 4096}[random() % 4];
    const size_t bytes = std::max<size_t>(1, random() % (long_one ? 2u << 20 : 12000) / grain * grain);
    const size_t offset = random() % (kSize - bytes) / grain * grain, lead = random() % 3 * 512 + random() % 2;
    if (random() % 2) {
      for (size_t i = 0; i < bytes; i++) memory[lead + i] = static_cast<uint8_t>(random());
      writes = direct.write(memory.data() + lead, bytes, offset) == 0;
      memcpy(expected.data() + offset, memory.data() + lead, bytes);
    } else {
      reads = direct.read(memory.data() + lead, bytes, offset) == 0 && memcmp(memory.data() + lead, expected.data() + offset, bytes) == 0;
    }
  }
  ok(reads, "what is read at any offset is what is there");
  ok(writes && pread(look.get(), seen.data(), kSize, 0) == static_cast<ssize_t>(kSize) && seen == expected,
     "a write at any offset leaves its neighbours as they were");
}

void refusal_tests() {
  Fd file = memory_file(1u << 20);
  DeviceOptions options;
  options.direct = true;
  const auto refused = open_device(path_of(file), options);
  ok(!refused.ok() && refused.status.error == EOPNOTSUPP, "a file in memory is refused: " + refused.status.message);
  options.direct = false;
  ok(open_device(path_of(file), options).ok(), "and taken without direct");
}

// Where there is O_DIRECT: a file that ends inside of a unit keeps its length.
void odd_end_tests() {
  char path[] = "/var/tmp/understudy-direct-XXXXXX";
  Fd file(mkostemp(path, O_CLOEXEC));
  constexpr uint64_t kSize = (64u << 10) + 777;
  DeviceOptions options;
  options.direct = true;
  if (!file || ftruncate(file.get(), kSize) != 0) abort();
  auto device = open_device(path, options);
  unlink(path);
  if (!device.ok()) return ok(true, "an odd end is written # skip needs a disk with O_DIRECT");
  std::vector<uint8_t> expected(kSize, 5), seen(kSize), cached(kSize);
  bool good = device.value->write(expected.data(), kSize, 0) == 0;
  for (const uint64_t at : {kSize - 1, kSize - 700, kSize - 5000}) {
    memset(expected.data() + at, static_cast<int>(at), kSize - at);
    good = good && device.value->write(expected.data() + at, kSize - at, at) == 0;
  }
  good = good && device.value->zero(kSize - 9000, 8500, ZeroHow::kPunch, false) == 0 && device.value->flush() == 0;
  memset(expected.data() + kSize - 9000, 0, 8500);
  struct stat info{};
  ok(good && fstat(file.get(), &info) == 0 && static_cast<uint64_t>(info.st_size) == kSize, "an odd end is written, and the file grows no longer");
  ok(device.value->read(seen.data(), kSize, 0) == 0 && seen == expected &&
         pread(file.get(), cached.data(), kSize, 0) == static_cast<ssize_t>(kSize) && cached == expected,
     "and read back, past the page cache and through it");
}

// As FileDevice is with O_DIRECT on a disk with sectors of 4096 bytes, and slow between reading a unit and writing it.
class SlowUnits final : public Device {
 public:
  explicit SlowUnits(uint64_t bytes) : bytes_(bytes) {
    traits_.size_bytes = bytes;
    traits_.direct = true;
    traits_.unit_bytes = kUnit;
  }
  int read(void *data, size_t bytes, uint64_t offset) override {
    memcpy(data, bytes_.data() + offset, bytes);
    return 0;
  }
  int write(const void *data, size_t bytes, uint64_t offset) override {
    const uint64_t start = offset / kUnit * kUnit, end = (offset + bytes + kUnit - 1) / kUnit * kUnit;
    std::vector<uint8_t> units(bytes_.begin() + static_cast<ptrdiff_t>(start), bytes_.begin() + static_cast<ptrdiff_t>(end));
    most_at_once = std::max<int>(most_at_once, ++at_once_);
    usleep(500);
    memcpy(units.data() + (offset - start), data, bytes);
    memcpy(bytes_.data() + start, units.data(), units.size());
    at_once_--;
    return 0;
  }
  int zero(uint64_t, uint64_t, ZeroHow, bool) override { return EIO; }
  int flush() override { return 0; }
  std::atomic<int> most_at_once{0};

 private:
  static constexpr uint64_t kUnit = 4096;
  std::atomic<int> at_once_{0};
  std::vector<uint8_t> bytes_;
};

// Two pieces of each of 64 units are written without waiting for a reply: both are there afterwards.
void neighbour_tests() {
  constexpr uint32_t kUnits = 64, kPiece = 512;
  WorkPool pool(4);
  auto made = std::make_unique<SlowUnits>(kUnits * 4096);
  SlowUnits &device = *made;
  std::vector<std::unique_ptr<Volume>> volumes;
  volumes.push_back(std::make_unique<Volume>("v", 0, std::move(made)));
  GroupOptions options;
  options.capture = {77, 2u << 20, false, nullptr};
  options.durability = Durability::kAsync;
  Group group(options, std::move(volumes), pool, nullptr, [](const Event &) {});
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) abort();
  auto theirs = std::make_shared<Fd>(sockets[1]);
  group.post([&group, theirs] { group.adopt(1, {std::move(*theirs)}, *group.volumes()[0]); });
  std::thread sender([&] {
    for (uint32_t number = 0; number < kUnits * 2; number++) {  // all first pieces, then all second ones would not meet
      const uint32_t place = number / 2 * 4096 + number % 2 * kPiece;
      struct {
        nbd::Request request;
        uint8_t payload[kPiece];
      } message;
      message.request = {htobe32(nbd::kRequestMagic), 0, htobe16(nbd::kWrite), htobe64(number), htobe64(place), htobe32(kPiece)};
      memset(message.payload, static_cast<int>(number + 1), kPiece);
      if (send(sockets[0], &message, sizeof message, MSG_NOSIGNAL) != sizeof message) return;
    }
  });
  bool answered = true;
  for (uint32_t number = 0; number < kUnits * 2 && answered; number++) {
    nbd::SimpleReply reply;
    answered = recv(sockets[0], &reply, sizeof reply, MSG_WAITALL) == sizeof reply && reply.error == 0;
  }
  sender.join();
  ok(answered, "many small writes at once are answered");
  std::vector<uint8_t> seen(kUnits * 4096);
  (void)device.read(seen.data(), seen.size(), 0);
  uint32_t lost = 0;
  for (uint32_t number = 0; number < kUnits * 2; number++)
    lost += seen[number / 2 * 4096 + number % 2 * kPiece + kPiece - 1] != static_cast<uint8_t>(number + 1);
  ok(lost == 0, "no write takes back what its neighbour in the same unit wrote (" + std::to_string(lost) + " lost)");
  close(sockets[0]);
}

// A read in the background gets its turn, whatever the clients write.
void wish_tests() {
  FlightTable flights(4096);
  const uint64_t first = flights.add(100, 200, true);
  ok(flights.conflicts(3000, 3001, false, 0) && !flights.conflicts(4096, 4097, true, 0), "who touches the same unit waits, its neighbour does not");
  constexpr uint64_t kMs = 1'000'000;
  ok(!flights.may_read(0, 65536, 10 * kMs), "a read waits for a write under way");
  ok(flights.conflicts(60000, 60001, true, 11 * kMs) && !flights.conflicts(60000, 60001, false, 11 * kMs),
     "writes that come wait behind it, reads do not");
  ok(!flights.conflicts(60000, 60001, true, 500 * kMs), "and not for ever, if it is not asked again");
  flights.remove(first);
  ok(flights.may_read(0, 65536, 12 * kMs) && !flights.conflicts(60000, 60001, true, 12 * kMs), "when that has ended it may begin");
}

}  // namespace

int main(int count, char **arguments) {
  const unsigned seed = count > 1 ? static_cast<unsigned>(atoi(arguments[1])) : std::random_device()();
  printf("# seed %u\n", seed);
  unaligned_tests(seed);
  refusal_tests();
  odd_end_tests();
  neighbour_tests();
  wish_tests();
  printf("1..%d\n", g_tests);
  return g_failures != 0;
}
