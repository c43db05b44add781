// sources: native/partition/*.cc native/core/core.cc  libs: -lblkid
// Partition tables, which a client writes as it likes: whatever lies on the device, every range that is told lies in it,
// and areas of the table come sorted and apart.
#include "partition/partitions.h"

#include <sys/mman.h>
#include <unistd.h>

#include "core/check.h"
#include "fuzz.h"

using namespace understudy::partition;

namespace {
constexpr uint64_t kSector = 512;

uint32_t crc32(const uint8_t *data, size_t bytes) {  // of GPT
  uint32_t crc = ~0u;
  for (size_t i = 0; i < bytes; i++) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
  }
  return ~crc;
}

template <typename Number>
void put(fuzz::Bytes &image, uint64_t at, Number value) {
  if (at + sizeof value <= image.size()) memcpy(image.data() + at, &value, sizeof value);
}

void put_mbr_entry(fuzz::Bytes &image, uint64_t sector, int number, uint8_t type, uint32_t start, uint32_t sectors) {
  const uint64_t at = sector * kSector + 446 + static_cast<uint64_t>(number) * 16;
  put<uint8_t>(image, at + 4, type);
  put<uint32_t>(image, at + 8, start);
  put<uint32_t>(image, at + 12, sectors);
  put<uint16_t>(image, sector * kSector + 510, 0xaa55);
}

void put_gpt(fuzz::Bytes &image, fuzz::Random &random) {
  const uint64_t sectors = image.size() / kSector;
  put_mbr_entry(image, 0, 0, 0xee, 1, static_cast<uint32_t>(sectors - 1));
  constexpr uint32_t kEntries = 128, kEntryBytes = 128;
  for (uint64_t i = 0; i < 4; i++) {
    const uint64_t at = 2 * kSector + i * kEntryBytes;
    if (at + kEntryBytes > image.size()) break;
    memset(image.data() + at, static_cast<int>(1 + i), 32);
    const uint64_t start = 34 + random.below(sectors);
    put<uint64_t>(image, at + 32, start);
    put<uint64_t>(image, at + 40, start + random.below(sectors));
  }
  for (const uint64_t lba : {uint64_t{1}, sectors - 1}) {
    fuzz::Bytes header(92);
    memcpy(header.data(), "EFI PART", 8);
    put<uint32_t>(header, 8, 0x10000), put<uint32_t>(header, 12, 92);
    put<uint64_t>(header, 24, lba), put<uint64_t>(header, 32, lba == 1 ? sectors - 1 : 1);
    put<uint64_t>(header, 40, 34), put<uint64_t>(header, 48, sectors - 34);
    put<uint64_t>(header, 72, random.one_in(8) ? random.odd() : 2);
    put<uint32_t>(header, 80, random.one_in(8) ? static_cast<uint32_t>(random.odd()) : kEntries);
    put<uint32_t>(header, 84, random.one_in(8) ? static_cast<uint32_t>(random.odd()) : kEntryBytes);
    if (2 * kSector + kEntries * kEntryBytes <= image.size())
      put<uint32_t>(header, 88, crc32(image.data() + 2 * kSector, kEntries * kEntryBytes));
    put<uint32_t>(header, 16, crc32(header.data(), header.size()));
    if (lba * kSector + header.size() <= image.size()) memcpy(image.data() + lba * kSector, header.data(), header.size());
  }
}

void put_mbr(fuzz::Bytes &image, fuzz::Random &random) {
  const auto sectors = static_cast<uint32_t>(image.size() / kSector);
  const auto some = [&] { return static_cast<uint32_t>(random.one_in(10) ? random.odd() : random.below(sectors)); };
  for (int i = 0; i < 3; i++) put_mbr_entry(image, 0, i, 0x83, some(), some());
  const uint32_t extended = some();
  put_mbr_entry(image, 0, 3, random.one_in(2) ? 0x05 : 0x0f, extended, some());
  uint32_t offset = 0;
  for (uint64_t links = random.below(6); links; links--) {
    const uint32_t next = some();
    put_mbr_entry(image, uint64_t{extended} + offset, 0, 0x83, 1, some());
    put_mbr_entry(image, uint64_t{extended} + offset, 1, 0x05, next, some());
    offset = next;
  }
}
}  // namespace

void fuzz::round(fuzz::Random &random) {
  fuzz::Bytes image(random.one_in(8) ? random.below(4096) : (64u << 10) + random.below(64) * 1024);
  if (image.size() >= 8192) random.one_in(2) ? put_gpt(image, random) : put_mbr(image, random);
  if (random.one_in(2)) {
    fuzz::mutate(image, random);
    for (uint64_t count = random.below(8); count && image.size() > 2048; count--) image[random.below(2048)] = static_cast<uint8_t>(random.below(256));
  }
  const int fd = memfd_create("fuzz", MFD_CLOEXEC);
  CHECK(pwrite(fd, image.data(), image.size(), 0) == static_cast<ssize_t>(image.size()));
  const auto found = read_partitions(fd, random.one_in(4) ? 4096 : 0);
  close(fd);
  if (!found.ok()) return;
  uint64_t offset = 0, area_end = 0;
  for (const Partition &one : found.value) {
    CHECK(one.size_bytes != 0 && one.offset < image.size() && one.size_bytes <= image.size() - one.offset);
    CHECK(one.offset >= offset);
    offset = one.offset;
    if (one.number != kTableArea) continue;
    CHECK(area_end == 0 || one.offset > area_end);
    area_end = one.offset + one.size_bytes;
  }
}
