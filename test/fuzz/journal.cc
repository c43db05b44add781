// sources: native/filesystem/*.cc native/partition/*.cc native/core/core.cc native/core/crc32c.cc  libs: -lblkid -lext2fs -lcom_err
// The journal of an ext4 that a client writes as it likes, and the watch over it: images of mke2fs with transactions of
// debugfs in their logs, mutated before they are read and while they are watched. Whatever lies there, each step ends,
// and what a watch tells lies in its place: ranges are of the listing's files, what is freed was left out before.
#include "filesystem/watch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "core/check.h"
#include "fuzz.h"

using namespace understudy::filesystem;

namespace {
constexpr size_t kImageBytes = 4u << 20, kBlockBytes = 1024;

struct Seed {
  fuzz::Bytes image;
  uint32_t log_start = 0, log_end = 0;  // blocks of the log that are used
  std::vector<uint32_t> places;         // worth changing: blocks of the log and of metadata that are not empty
};

// Three transactions: a file, a directory with files and a revocation, a deletion.
Seed make_seed(const std::string &options, const std::string &journal) {
  char directory[] = "/tmp/fuzz-journal-XXXXXX";
  CHECK(mkdtemp(directory) != nullptr);
  const std::string at = directory;
  const std::string script = "cd " + at + " && export PATH=$PATH:/usr/sbin && mkdir -p tree/a/b && for i in 1 2 3 4 5 6 7 8; do head -c $((i * 3000)) /dev/zero | tr '\\0' x >tree/a/f$i; done; " +
                             "for i in 0 2 4 6 8 10 12 14 16 18 20 22; do dd if=/dev/zero of=tree/a/holes bs=1024 seek=$i count=1 conv=notrunc status=none; done; " +
                             "mke2fs -q -F -t ext4 -b 1024 -N 64 -J size=1 " + options + " -d tree image 4M && printf 'jo " + journal + "\\njc\\n' >c && debugfs -w -f c image && debugfs -w -R 'feature needs_recovery' image && " +
                             "cp image after && cp image before && for step in 'write tree/a/f8 /new' 'rm /a/f3' 'ln /a/f4 /moved\\nunlink /a/f4\\nrm /a/holes'; do printf \"$step\\n\" >c; debugfs -w -f c after; " +
                             "cmp -l before after | awk '{print int(($1 - 1) / 1024)}' | uniq | grep -vx 1 >list; for b in $(cat list); do dd if=after bs=1024 skip=$b count=1 status=none; done >blocks; " +
                             "printf \"jo " + journal + "\\njw -b $(paste -sd, list) -r 3000 blocks\\njc\\n\" >c; debugfs -w -f c image; cp after before; done";
  CHECK(system(("{ " + script + "; } >/dev/null 2>&1").c_str()) == 0);
  Seed seed{.image = fuzz::Bytes(kImageBytes)};
  const int fd = open((at + "/image").c_str(), O_RDONLY | O_CLOEXEC);
  CHECK(read(fd, seed.image.data(), seed.image.size()) == static_cast<ssize_t>(seed.image.size()));
  close(fd);
  CHECK(system(("rm -r " + at).c_str()) == 0);
  const uint8_t magic[] = {0xc0, 0x3b, 0x39, 0x98, 0, 0, 0};
  for (uint32_t block = 1; block < kImageBytes / kBlockBytes; block++) {
    const uint8_t *const begin = &seed.image[block * kBlockBytes];
    if (memcmp(begin, magic, sizeof magic) != 0) continue;
    if (begin[7] == 4) seed.log_start = block + 1;
    if (begin[7] == 2) seed.log_end = block + 1;
  }
  CHECK(seed.log_start > 1 && seed.log_end > seed.log_start);
  for (uint32_t place = 1024; place + 32 < seed.image.size(); place += 16) {
    const auto begin = seed.image.begin() + place;
    const bool data = begin[0] == 'x' && begin[1] == 'x';
    if (!data && std::any_of(begin, begin + 16, [](uint8_t byte) { return byte != 0; })) seed.places.push_back(place);
  }
  return seed;
}

const std::vector<Seed> &seeds() {
  static const std::vector<Seed> all = {make_seed("-O ^metadata_csum,^64bit", ""), make_seed("-O 64bit,^metadata_csum", ""), make_seed("", "-c -v 3"),
                                        make_seed("-O ^metadata_csum,bigalloc -C 4096", "")};
  return all;
}

// Returns where.
uint32_t change(fuzz::Bytes &image, fuzz::Random &random, const std::vector<uint32_t> &places) {
  const uint32_t at = places[random.below(places.size())] + static_cast<uint32_t>(random.below(16));
  switch (random.below(4)) {
    case 0: image[at] ^= static_cast<uint8_t>(1u << random.below(8)); break;
    case 1: image[at] = static_cast<uint8_t>(random.below(256)); break;
    case 2: std::copy_n(image.begin() + random.below(kImageBytes / kBlockBytes) * kBlockBytes, kBlockBytes, image.begin() + at / kBlockBytes * kBlockBytes); break;
    default: {
      const uint64_t value = random.one_in(2) ? random.odd() : random.below(kImageBytes / kBlockBytes);
      memcpy(&image[at], &value, random.one_in(2) ? 4 : 2);
    }
  }
  return at;
}

void put(int fd, const fuzz::Bytes &image, uint64_t offset, uint64_t bytes) {
  CHECK(pwrite(fd, &image[offset], bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes));
}

// By block: left out. What of a file that is left out has come since the listing is, too; but nothing that the listing gives
// to a file that is not.
std::vector<bool> check(const Watch &watch, const Listing &listing, const std::vector<uint8_t> &left_out) {
  std::vector<bool> out(kImageBytes / kBlockBytes);
  std::vector<bool> replicated(kImageBytes / kBlockBytes);
  for (const Extent &extent : listing.extents)
    for (uint64_t at = extent.offset; at < extent.offset + extent.bytes; at += kBlockBytes) replicated[at / kBlockBytes] = !left_out[extent.file];
  uint64_t end = 0;
  for (const ByteRange &range : watch.ranges()) {
    CHECK(range.bytes > 0 && range.offset >= end && range.offset % kBlockBytes == 0 && range.bytes % kBlockBytes == 0);
    end = range.offset + range.bytes;
    CHECK(end <= kImageBytes);
    for (uint64_t at = range.offset; at < end; at += kBlockBytes) CHECK(!replicated[at / kBlockBytes]), out[at / kBlockBytes] = true;
  }
  return out;
}

void take(const Verdict &verdict, std::vector<bool> &out) {
  CHECK(verdict.why.empty() == (verdict.kind == Verdict::kNothing || verdict.kind == Verdict::kFreed));
  CHECK((verdict.kind == Verdict::kFreed) == !verdict.freed.empty());
  for (const ByteRange &range : verdict.freed)
    for (uint64_t at = range.offset; at < range.offset + range.bytes; at += kBlockBytes) CHECK(out[at / kBlockBytes]), out[at / kBlockBytes] = false;
  for (const ByteRange &range : verdict.left_out)
    for (uint64_t at = range.offset; at < range.offset + range.bytes; at += kBlockBytes) CHECK(at < kImageBytes), out[at / kBlockBytes] = true;
}
}  // namespace

void fuzz::round(fuzz::Random &random) {
  const Seed &seed = seeds()[random.below(seeds().size())];
  Bytes image = seed.image;
  // What is written while the watch looks on: the log from some block on.
  const uint32_t later = seed.log_start + static_cast<uint32_t>(random.below(seed.log_end - seed.log_start + 1));
  std::fill(image.begin() + later * kBlockBytes, image.begin() + seed.log_end * kBlockBytes, 0);
  if (random.one_in(2))
    for (uint64_t count = 1 + random.below(4); count; count--) change(image, random, seed.places);
  const int fd = memfd_create("fuzz", MFD_CLOEXEC);
  CHECK(write(fd, image.data(), image.size()) == static_cast<ssize_t>(image.size()));
  FileSystem one;
  one.kind = "ext4", one.size_bytes = image.size();
  one.space = Space(fd, 0, one.size_bytes);
  const Limits limits{.memory_bytes_max = 64u << 20, .time_max = std::chrono::milliseconds(2000), .attempts = 1};
  const auto listing = list_files(one, limits);
  if (listing.ok()) {
    std::vector<uint8_t> left_out(listing.value.files.size());
    for (uint8_t &file : left_out) file = !random.one_in(4);
    if (random.one_in(4)) put(fd, image, 0, change(image, random, seed.places) / kBlockBytes * kBlockBytes + kBlockBytes);
    auto watch = make_watch(one, listing.value, left_out, limits);
    if (watch.ok()) {
      std::vector<bool> out = check(*watch.value, listing.value, left_out);
      take(watch.value->start(), out);
      const bool spoilt = random.one_in(2);
      for (uint32_t block = later; block < seed.log_end; block++) {
        std::copy_n(seed.image.begin() + block * kBlockBytes, kBlockBytes, image.begin() + block * kBlockBytes);
        if (spoilt && random.one_in(3)) spoil(image, block * kBlockBytes + random.below(64), random.below(3), random);
        put(fd, image, block * kBlockBytes, kBlockBytes);
        take(watch.value->wrote(block * kBlockBytes, kBlockBytes), out);
      }
      for (uint64_t count = random.below(6); count; count--) {
        const uint32_t at = change(image, random, seed.places) / kBlockBytes * kBlockBytes;
        const uint64_t bytes = std::min<uint64_t>(kImageBytes - at, random.one_in(4) ? 1 + random.below(1u << 20) : kBlockBytes);
        put(fd, image, at, bytes);
        take(watch.value->wrote(at, bytes), out);
      }
    }
  }
  close(fd);
}
