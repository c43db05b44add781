// sources: native/filesystem/*.cc native/partition/*.cc native/core/core.cc native/core/crc32c.cc  libs: -lblkid -lext2fs -lcom_err
// File systems on a device that a client writes as it likes: mutated images of ext4, ext2, FAT, exFAT (made at the start) and
// NTFS, volume groups. Whatever lies there, the reading ends soon, every extent lies in its file system's place,
// and no byte is two files'.
#include "filesystem/filesystem.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <string>

#include "exfat-image.h"
#include "core/check.h"
#include "filesystem/lvm-text.h"
#include "fuzz.h"

using namespace understudy::filesystem;

namespace {
constexpr size_t kImageBytes = 2u << 20;

// Blocks of 1 KiB, checksums off: nothing of what is changed is refused for that.
fuzz::Bytes make_image(const char *options) {
  char directory[] = "/tmp/fuzz-filesystem-XXXXXX";
  CHECK(mkdtemp(directory) != nullptr);
  const std::string at = directory;
  const std::string script = "cd " + at + " && mkdir -p tree/a/b && for i in 1 2 3 4 5 6 7 8; do head -c $((i * 3000)) /dev/zero | tr '\\0' x >tree/a/f$i; done; ln tree/a/f1 tree/a/b/l; ln -s f1 tree/s; " +
                             "for i in 0 2 4 6 8 10 12 14 16 18 20 22; do dd if=/dev/urandom of=tree/holes bs=1024 seek=$i count=1 conv=notrunc status=none; done; " +
                             "PATH=$PATH:/usr/sbin mke2fs -q -F -b 1024 -N 64 " + options + " -d tree image 2M";
  CHECK(system(script.c_str()) == 0);
  fuzz::Bytes image(kImageBytes);
  const int fd = open((at + "/image").c_str(), O_RDONLY | O_CLOEXEC);
  CHECK(read(fd, image.data(), image.size()) == static_cast<ssize_t>(image.size()));
  close(fd);
  CHECK(system(("rm -r " + at).c_str()) == 0);
  return image;
}

// A file system in memory, which is changed and put in order again.
struct Seed {
  std::string kind;
  fuzz::Bytes image;
  std::vector<uint32_t> places;  // what is worth changing: most of an image is data
  std::vector<uint32_t> sets;    // exFAT: entries that have a checksum
  int fd = -1;
};

// Blocks that are not empty, and not a file's content.
std::vector<uint32_t> places_of(const Seed &seed) {
  std::vector<uint32_t> places;
  const fuzz::Bytes &image = seed.image;
  for (uint32_t at = seed.kind == "ext4" ? 1024 : 0; at + 32 < image.size(); at += 16) {
    const auto start = image.begin() + at;
    if (std::all_of(start, start + 16, [&](uint8_t byte) { return byte == *start; }) || (image[at] == 'x' && image[at + 1] == 'x') || memcmp(&*start, "understudy", 10) == 0) continue;
    if (seed.kind == "ntfs" && at >= 512 && memcmp(&image[at / 1024 * 1024], "FILE", 4) != 0) continue;
    places.push_back(at);
  }
  return places;
}

Seed make_seed(const std::string &kind, fuzz::Bytes image) {
  Seed seed{kind, std::move(image), {}, {}, memfd_create("fuzz", MFD_CLOEXEC)};
  seed.places = places_of(seed);
  if (kind == "exfat")
    for (uint32_t at = 32; at + 96 < seed.image.size(); at += 32)
      if (seed.image[at] == 0x85 && seed.image[at + 32] == 0xc0) seed.sets.push_back(at);
  CHECK(write(seed.fd, seed.image.data(), seed.image.size()) == static_cast<ssize_t>(seed.image.size()));
  return seed;
}

fuzz::Bytes bytes_of(const std::string &text) { return {text.begin(), text.end()}; }

std::vector<Seed> other_seeds() {
  using namespace filesystem_test;
  char *at = realpath("test/native/images/ntfs.img.gz", nullptr);
  CHECK(at != nullptr);
  begin();
  shell("mkdir -p tree/a/b; for i in 1 2 3 4 5 6 7 8; do head -c $((i * 3000)) /dev/zero | tr '\\0' x >\"tree/a/the long name of file $i\"; done; cp tree/a/*1 tree/a/b");
  std::vector<Seed> made;
  for (const auto &[options, size] : {std::pair<std::string, uint64_t>{"-F 12", kMiB}, {"-F 16 -s 1", 4 * kMiB}, {"-F 32 -s 1", 34 * kMiB}}) {
    make_empty("fs.img", size);
    shell("mkfs.fat --invariant " + options + " fs.img >/dev/null && mcopy -i fs.img -s -Q tree/* ::/");
    made.push_back(make_seed("vfat", bytes_of(content_of("fs.img"))));
  }
  Exfat exfat;
  size_t end = 0;
  const uint32_t directory = exfat.take(), row = exfat.take(), more = exfat.take(), first = exfat.take(), second = exfat.take();
  exfat.add_to_root("in a row, with a long name", 0x20, 3, row, 5000, 100), exfat.add_to_root("chain", 0x20, 1, first, 8192, 8192);
  exfat.chain(first, second), exfat.chain(second, UINT32_MAX), exfat.fill(more, 1);
  exfat.add_to_root("directory", 0x10, 3, directory, 4096, 4096);
  end = exfat.offset(directory);
  exfat.add(end, "inside", 0x20, 3, exfat.take(), 100, 100);
  made.push_back(make_seed("exfat", bytes_of(exfat.bytes)));
  shell("gunzip -c >fs.img <" + std::string(at));
  free(at);
  made.push_back(make_seed("ntfs", bytes_of(content_of("fs.img"))));
  CHECK(system(("rm -r " + filesystem_test::directory).c_str()) == 0);
  return made;
}

const std::vector<Seed> &seeds() {
  static const std::vector<Seed> all = [] {
    std::vector<Seed> made = other_seeds();
    for (const char *options : {"-t ext4 -O ^metadata_csum,^uninit_bg,^has_journal", "-t ext4 -O inline_data,^has_journal -I 256", "-t ext2", "-t ext4 -O ^metadata_csum,bigalloc,^has_journal -C 4096"})
      made.push_back(make_seed("ext4", make_image(options)));
    return made;
  }();
  return all;
}

// exFAT's checksums are made right again: nothing of what is changed is refused for them.
void sum_up(const Seed &seed, const std::function<uint8_t(size_t)> &byte, const std::function<void(size_t, const void *, size_t)> &put) {
  for (const uint32_t at : seed.sets) {
    uint16_t sum = 0;
    for (size_t i = 0; i < (1u + byte(at + 1)) * 32; i++)
      if (i != 2 && i != 3) sum = static_cast<uint16_t>((uint32_t{sum} << 15 | sum >> 1) + byte(at + i));
    put(at + 2, &sum, 2);
  }
  uint32_t sum = 0;
  for (size_t i = 0; i < 11 * 512; i++)
    if (i != 106 && i != 107 && i != 112) sum = (sum << 31 | sum >> 1) + byte(i);
  for (size_t i = 11 * 512; i < 12 * 512; i += 4) put(i, &sum, 4);
}

// Changes the image in memory and in the file; what is returned puts it back.
class Changed {
 public:
  Changed(const Seed &seed, fuzz::Random &random) : seed_(seed) {
    for (uint64_t count = 1 + random.below(6); count; count--) {
      const size_t at = seed.places[random.below(seed.places.size())] + random.below(16);
      uint64_t value = 0;
      switch (random.below(3)) {
        case 0: value = byte(at) ^ 1u << random.below(8), put(at, &value, 1); break;
        case 1: value = random.below(256), put(at, &value, 1); break;
        default: value = random.one_in(2) ? random.odd() : random.below(seed.image.size() / 1024), put(at, &value, random.one_in(2) ? 4 : 2);
      }
    }
    if (seed.kind == "exfat" && !random.one_in(16))
      sum_up(seed, [this](size_t at) { return at < seed_.image.size() ? byte(at) : uint8_t{0}; }, [this](size_t at, const void *bytes, size_t count) { put(at, bytes, count); });
  }
  ~Changed() {
    for (const auto &[at, value] : changed_) CHECK(pwrite(seed_.fd, &seed_.image[at], 1, static_cast<off_t>(at)) == 1);
  }

 private:
  uint8_t byte(size_t at) const {
    const auto found = changed_.find(at);
    return found == changed_.end() ? seed_.image[at] : found->second;
  }
  void put(size_t at, const void *bytes, size_t count) {
    for (size_t i = 0; i < count && at + i < seed_.image.size(); i++) {
      const uint8_t value = static_cast<const uint8_t *>(bytes)[i];
      if (byte(at + i) == value) continue;
      changed_[at + i] = value;
      CHECK(pwrite(seed_.fd, &value, 1, static_cast<off_t>(at + i)) == 1);
    }
  }
  const Seed &seed_;
  std::map<size_t, uint8_t> changed_;
};

void check(const FileSystem &one, const Listing &listing) {
  uint64_t end = 0;
  for (const Extent &extent : listing.extents) {
    CHECK(extent.bytes > 0 && extent.offset >= end && extent.file < listing.files.size());
    CHECK(listing.files[extent.file].held == 0 && listing.files[extent.file].link_count > 0);
    end = extent.offset + extent.bytes;
    CHECK(end <= one.size_bytes);
  }
  for (const Link &link : listing.links) CHECK(link.file < listing.files.size() && link.directory < listing.directories.size() && link.name_start <= link.name_end && link.name_end <= listing.names.size());
  for (size_t i = 1; i < listing.directories.size(); i++) CHECK(listing.directories[i].parent < i && listing.directories[i].name_end <= listing.names.size());
  for (const File &file : listing.files) CHECK(uint64_t{file.first_link} + file.link_count <= listing.links.size());
}
}  // namespace

void fuzz::round(fuzz::Random &random) {
  if (random.one_in(8)) {
    std::string text = "vg { id = \"x\" seqno = 1 a { b = [\"c\", 1] # d\n } }";
    Bytes bytes(text.begin(), text.end());
    mutate(bytes, random);
    (void)parse_lvm({reinterpret_cast<const char *>(bytes.data()), bytes.size()});
    return;
  }
  const Seed &seed = seeds()[random.below(seeds().size())];
  const Changed changed(seed, random);
  FileSystem one;
  one.kind = seed.kind, one.size_bytes = random.one_in(8) ? random.below(seed.image.size()) : seed.image.size();
  one.space = Space(seed.fd, 0, one.size_bytes);
  const auto listing = list_files(one, {.memory_bytes_max = 64u << 20, .time_max = std::chrono::milliseconds(2000), .attempts = 1});
  if (listing.ok()) check(one, listing.value);
  if (random.one_in(16)) (void)find_filesystems(seed.fd);
}
