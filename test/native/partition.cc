// sources: native/partition/partitions.cc native/partition/table-areas.cc native/core/core.cc  libs: -lblkid
// Tables written by sfdisk and sgdisk into sparse images, and by hand where the tools are too well behaved.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>

#include "core/fd.h"
#include "partition/partitions.h"

using understudy::Fd;
using understudy::partition::kTableArea;
using understudy::partition::Partition;
using understudy::partition::read_partitions;

namespace {

constexpr uint64_t kMiB = 1u << 20;
int tests = 0, failures = 0;
std::string directory;

void ok(bool good, const std::string &title) {
  printf("%sok %d - %s\n", good ? "" : "not ", ++tests, title.c_str());
  failures += !good;
}

std::string image(const char *name, uint64_t bytes) {
  const std::string path = directory + "/" + name;
  Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd || ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) abort();
  return path;
}

void poke(const std::string &path, uint64_t offset, const void *data, size_t bytes) {
  Fd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (pwrite(fd.get(), data, bytes, static_cast<off_t>(offset)) != static_cast<ssize_t>(bytes)) abort();
}

void sfdisk(const std::string &path, const std::string &script, const std::string &options = "") {
  const std::string command = "printf '" + script + "' | PATH=$PATH:/usr/sbin sfdisk -q " + options + " " + path + " >/dev/null 2>&1";
  if (system(command.c_str()) != 0) fprintf(stderr, "# sfdisk failed: %s\n", command.c_str());
}

std::vector<Partition> read(const std::string &path, uint32_t sector_bytes = 0) {
  auto found = read_partitions(path, sector_bytes);
  if (!found.ok()) printf("# %s\n", found.status.message.c_str());
  for (const Partition &p : found.value) {
    printf("# %u %llu+%llu %s %s %s %s\n", p.number, static_cast<unsigned long long>(p.offset),
           static_cast<unsigned long long>(p.size_bytes), p.type.c_str(), p.name.c_str(), p.uuid.c_str(), p.scheme.c_str());
  }
  return std::move(found.value);
}

const Partition *find(const std::vector<Partition> &list, uint32_t number) {
  for (const Partition &p : list) {
    if (p.number == number) return &p;
  }
  return nullptr;
}

bool at(const Partition *p, uint64_t offset, uint64_t size_bytes) {
  return p && p->offset == offset && p->size_bytes == size_bytes;
}

bool covers(const std::vector<Partition> &list, uint64_t offset, uint64_t bytes) {
  for (const Partition &p : list) {
    if (p.number == kTableArea && p.offset <= offset && offset + bytes <= p.offset + p.size_bytes) return true;
  }
  return false;
}

void gpt() {
  const std::string path = image("gpt.img", 64 * kMiB);
  sfdisk(path, "label: gpt\\nstart=2048,size=8MiB,name=boot,uuid=AAAAAAAA-0000-4000-8000-000000000001\\nstart=20480,size=20MiB,name=data\\n");
  auto list = read(path);
  const Partition *one = find(list, 1);
  ok(at(one, kMiB, 8 * kMiB) && at(find(list, 2), 10 * kMiB, 20 * kMiB), "a GPT's partitions have their numbers, offsets and sizes");
  ok(one && one->scheme == "gpt" && one->name == "boot" && one->uuid == "aaaaaaaa-0000-4000-8000-000000000001" &&
         one->type == "0fc63daf-8483-4772-8e79-3d69d8477de4",
     "a GPT's partition tells type, name and uuid");
  ok(covers(list, 0, 34 * 512) && covers(list, 64 * kMiB - 33 * 512, 33 * 512), "both copies of a GPT are table areas");

  char zeroes[512] = {};
  poke(path, 512, zeroes, sizeof zeroes);
  list = read(path);
  ok(at(find(list, 2), 10 * kMiB, 20 * kMiB) && covers(list, 0, 34 * 512), "a GPT whose primary header is gone is read from its backup");
  if (truncate(path.c_str(), static_cast<off_t>(96 * kMiB)) != 0) abort();
  ok(read(path).empty(), "a protective MBR with no GPT to be found is no table");
}

void gpt_grown() {
  const std::string path = image("grown.img", 64 * kMiB);
  sfdisk(path, "label: gpt\\nstart=2048,size=8MiB\\n");
  if (truncate(path.c_str(), static_cast<off_t>(96 * kMiB)) != 0) abort();
  const auto list = read(path);
  ok(at(find(list, 1), kMiB, 8 * kMiB) && covers(list, 64 * kMiB - 33 * 512, 33 * 512) && covers(list, 96 * kMiB - 33 * 512, 33 * 512),
     "on a device that was grown, the old backup and the place of the new one are both table areas");
}

// sfdisk cannot be told the sector of a file, so the table is laid by hand: PMBR, header, entries, no backup.
void gpt_4096() {
  const std::string from = image("512.img", 64 * kMiB), path = image("4096.img", 64 * kMiB * 8);
  sfdisk(from, "label: gpt\\nstart=2048,size=8MiB,name=large\\n");
  Fd fd(open(from.c_str(), O_RDONLY | O_CLOEXEC));
  char sectors[34 * 512];
  if (pread(fd.get(), sectors, sizeof sectors, 0) != static_cast<ssize_t>(sizeof sectors)) abort();
  poke(path, 0, sectors, 512);
  poke(path, 4096, sectors + 512, 512);
  poke(path, 8192, sectors + 1024, 32 * 512);
  ok(at(find(read(path, 4096), 1), 2048 * 4096, 16384ull * 4096), "a GPT in sectors of 4096 bytes is read when the sector is given");
  const auto list = read(path);
  ok(at(find(list, 1), 2048 * 4096, 16384ull * 4096) && covers(list, 0, 8192 + 16384), "and found in an image file when it is not");
  ok(read(path, 512).empty(), "but not with a sector of 512 bytes");
}

void mbr() {
  const std::string path = image("mbr.img", 128 * kMiB);
  sfdisk(path, "label: dos\\nlabel-id: 0x1a2b3c4d\\nstart=2048,size=8MiB,type=83\\nstart=20480,size=100MiB,type=5\\nstart=22528,size=4MiB,type=82\\nstart=40960,size=4MiB\\n");
  const auto list = read(path);
  const Partition *five = find(list, 5), *one = find(list, 1), *two = find(list, 2);
  ok(at(one, kMiB, 8 * kMiB) && one->type == "0x83" && one->scheme == "dos" && one->uuid == "1a2b3c4d-01", "an MBR's partition tells place, type and uuid");
  ok(at(two, 10 * kMiB, 100 * kMiB) && two->extended, "a container has its full size");
  ok(at(five, 22528 * 512, 4 * kMiB) && five->type == "0x82" && at(find(list, 6), 40960 * 512, 4 * kMiB), "logical partitions count from 5");
  size_t areas = 0;
  for (const Partition &p : list) areas += p.number == kTableArea;
  ok(covers(list, 0, 512) && covers(list, 10 * kMiB, 512) && areas == 3, "the MBR and every EBR are table areas");

  // A chain whose second link points back at the first.
  Fd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  uint64_t second = 0;
  for (const Partition &p : list) {
    if (p.number == kTableArea && p.offset > 10 * kMiB) second = p.offset;
  }
  const unsigned char loop[16] = {0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0};
  poke(path, second + 446 + 16, loop, sizeof loop);
  ok(at(find(read(path), 1), kMiB, 8 * kMiB), "a chain of EBRs that loops ends");
}

void garbage() {
  const std::string path = image("garbage.img", 16 * kMiB);
  ok(read(path).empty(), "an empty device has no table");
  unsigned char sector[512];
  memset(sector, 0xff, sizeof sector);
  sector[510] = 0x55, sector[511] = 0xaa;
  poke(path, 0, sector, sizeof sector);
  ok(read(path).empty(), "a boot sector full of ones is no table");
  memset(sector, 0, 510);
  const unsigned char beyond[32] = {0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0xff, 0xff, 0xff, 0x7f,
                                    0, 0, 0, 0, 0x83, 0, 0, 0, 0, 0, 0, 0x70, 0, 8, 0, 0};
  memcpy(sector + 446, beyond, sizeof beyond);
  poke(path, 0, sector, sizeof sector);
  const auto list = read(path);
  ok(at(find(list, 1), kMiB, 15 * kMiB) && !find(list, 2), "a partition is clipped to the device, and left out when it lies behind its end");
  srand(7);
  bool fine = true;
  for (int round = 0; round < 300; round++) {
    for (int i = 446; i < 510; i++) sector[i] = static_cast<unsigned char>(rand() % 7 ? 0 : rand());
    poke(path, 0, sector, sizeof sector);
    for (const Partition &p : read_partitions(path).value) fine &= p.size_bytes > 0 && p.offset + p.size_bytes <= 16 * kMiB;
  }
  ok(fine, "whatever an MBR says, every range lies inside the device");
  ok(read(image("tiny.img", 100)).empty(), "a device smaller than a sector has no table");
  ok(read_partitions(directory + "/missing").status.error == ENOENT, "a device that does not exist is an error that names it");
}

}  // namespace

int main() {
  char scratch[] = "/tmp/understudy-partition-XXXXXX";
  if (!mkdtemp(scratch)) return 1;
  directory = scratch;
  gpt();
  gpt_grown();
  gpt_4096();
  mbr();
  garbage();
  const std::string clean = "rm -r " + directory;
  if (system(clean.c_str()) != 0) fprintf(stderr, "# could not remove %s\n", scratch);
  printf("1..%d\n", tests);
  return failures ? 1 : 0;
}
