// sources: native/filesystem/*.cc native/partition/*.cc native/core/core.cc  libs: -lblkid -lext2fs -lcom_err
// File systems on a device that a client writes as it likes: mutated ext4 and ext2 images (of mke2fs, made at the start),
// swap areas, volume groups. Whatever lies there, the reading ends soon, every extent lies in its file system's place,
// and no byte is two files'.
#include "filesystem/filesystem.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

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

// Most of an image is data; what is worth changing lies in blocks that are not empty, near the beginning.
void change(fuzz::Bytes &image, fuzz::Random &random, const std::vector<uint32_t> &places) {
  for (uint64_t count = 1 + random.below(6); count; count--) {
    const size_t at = places[random.below(places.size())] + random.below(16);
    switch (random.below(3)) {
      case 0: image[at] ^= static_cast<uint8_t>(1u << random.below(8)); break;
      case 1: image[at] = static_cast<uint8_t>(random.below(256)); break;
      default: {
        const uint64_t value = random.one_in(2) ? random.odd() : random.below(kImageBytes / 1024);
        memcpy(&image[at], &value, random.one_in(2) ? 4 : 2);
      }
    }
  }
}

std::vector<uint32_t> places_of(const fuzz::Bytes &image) {
  std::vector<uint32_t> places;
  for (uint32_t at = 1024; at + 32 < image.size(); at += 16) {
    const bool data = image[at] == 'x' && image[at + 1] == 'x';
    if (!data && std::any_of(image.begin() + at, image.begin() + at + 16, [](uint8_t byte) { return byte != 0; })) places.push_back(at);
  }
  return places;
}

struct Seed {
  fuzz::Bytes image;
  std::vector<uint32_t> places;
};

const std::vector<Seed> &seeds() {
  static const std::vector<Seed> all = [] {
    std::vector<Seed> made;
    for (const char *options : {"-t ext4 -O ^metadata_csum,^uninit_bg,^has_journal", "-t ext4 -O inline_data,^has_journal -I 256", "-t ext2", "-t ext4 -O ^metadata_csum,bigalloc,^has_journal -C 4096"}) {
      Seed seed{make_image(options), {}};
      seed.places = places_of(seed.image);
      made.push_back(std::move(seed));
    }
    return made;
  }();
  return all;
}

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
  Bytes image = seed.image;
  change(image, random, seed.places);
  const int fd = memfd_create("fuzz", MFD_CLOEXEC);
  CHECK(write(fd, image.data(), image.size()) == static_cast<ssize_t>(image.size()));
  FileSystem one;
  one.kind = "ext4", one.size_bytes = random.one_in(8) ? random.below(image.size()) : image.size();
  one.space = Space(fd, 0, one.size_bytes);
  const auto listing = list_files(one, {.memory_bytes_max = 64u << 20, .time_max = std::chrono::milliseconds(2000), .attempts = 1});
  if (listing.ok()) check(one, listing.value);
  if (random.one_in(16)) (void)find_filesystems(fd);
  close(fd);
}
