// sources: native/filesystem/*.cc native/partition/*.cc native/core/core.cc native/core/crc32c.cc  libs: -lblkid -lext2fs -lcom_err
// FAT12, FAT16 and FAT32 as mkfs.fat and mtools make them, exFAT as mkfs.exfat does (its files are written here, and
// fsck.exfat finds nothing wrong with them): what is listed as a file's is that file's data, up to its last byte;
// everything else is left to be replicated.
#include <algorithm>
#include <functional>

#include "exfat-image.h"

using namespace filesystem_test;

namespace {

void expect(const Listing &listing, const std::map<uint32_t, std::string> &tags, bool more, const std::string &title) {
  const std::string difference = differs("fs.img", listing, tags);
  if (!difference.empty()) printf("# %s\n", difference.c_str());
  ok(difference.empty() && more, title);
}

// Where the image has these bytes, once.
size_t find(const std::string &image, const std::string &bytes) {
  const size_t at = image.find(bytes);
  must(at != image.npos, "find " + bytes);
  return at;
}

// The image with a change, read.
Listing changed(const std::string &image, const std::function<void(std::string &)> &change) {
  std::string bytes = image;
  change(bytes);
  put_bytes("fs.img", 0, bytes);
  return read_one("fs.img", 0, {.attempts = 1});
}

std::map<uint32_t, std::string> make_tree() {
  shell("mkdir -p tree/var/tmp/deep tree/srv/db tree/many");
  put_file("tree/srv/db/table", 1, 300 * 1024);
  put_file("tree/var/tmp/big.dat", 2, kMiB);
  put_file("tree/var/tmp/deep/a tail that has a long name", 5, 5 * kSector);
  put_file("tree/\xc3\xbc-\xe2\x82\xac with a long name", 6, 3 * kSector);
  put_file("tree/CUT.DAT", 7, 8 * kSector);
  shell("mkdir more");
  put_file("more/first", 8, 200 * 1024);
  put_file("more/second", 9, 300 * 1024);
  shell("truncate -s 2500 tree/CUT.DAT; : >tree/empty");
  std::map<uint32_t, std::string> tags = {{1, "/srv/db/table"}, {2, "/var/tmp/big.dat"}, {5, "/var/tmp/deep/a tail that has a long name"}, {6, "/\xc3\xbc-\xe2\x82\xac with a long name"}, {7, "/CUT.DAT"}};
  for (uint32_t i = 0; i < 120; i++) {  // a directory of several clusters
    put_file("tree/many/a name that is not short " + std::to_string(i), 100 + i, kSector);
    tags[100 + i] = "/many/a name that is not short " + std::to_string(i);
  }
  return tags;
}

void make_fat(const std::string &options, uint64_t bytes) {
  make_empty("fs.img", bytes);
  shell("mkfs.fat --invariant -n LABEL " + options + " fs.img >/dev/null; export LC_ALL=C.UTF-8; mcopy -i fs.img -s -Q tree/* ::/");
}

void fat_layouts(const std::map<uint32_t, std::string> &tags) {
  const struct {
    const char *name, *options;
    uint64_t bytes;
  } all[] = {
      {"FAT12, clusters of 2 KiB", "-F 12 -s 4", 6 * kMiB},
      {"FAT16, clusters of 512 bytes", "-F 16 -s 1", 8 * kMiB},
      {"FAT16, clusters of 4 KiB, sectors of 1 KiB", "-F 16 -S 1024 -s 4", 24 * kMiB},
      {"FAT32, clusters of 512 bytes", "-F 32 -s 1", 40 * kMiB},
  };
  for (const auto &one : all) {
    make_fat(one.options, one.bytes);
    const Listing listing = read_one("fs.img");
    expect(listing, tags, listing.files.size() == tags.size() + 1 && listing.problems == 0 && !listing.journal_pending && listing.nameless_files == 0,
           std::string(one.name) + ": extents are exactly the data of their files");
    const auto cut = extents_of(listing, "/CUT.DAT");
    ok(cut.size() == 1 && cut[0].bytes == 2500 && held(listing, "/empty") == 0 && extents_of(listing, "/empty").empty(), std::string(one.name) + ": what is behind the end of a file is not its data");
    shell("mdel -i fs.img ::/srv/db/table ::/many/*1; mcopy -i fs.img more/* ::/");
    auto after = tags;
    std::erase_if(after, [](const auto &tag) { return tag.first == 1 || (tag.first >= 100 && tag.second.back() == '1'); });
    after[8] = "/first", after[9] = "/second";
    const Listing changed = read_one("fs.img");
    expect(changed, after, !file_at(changed, "/srv/db/table") && changed.problems == 0 && held(changed, "/first") == 0,
           std::string(one.name) + ": deleted files have nothing, and those in their place, in pieces, have all of it");
  }
}

// A FAT16 file system with clusters of 512 bytes, as it is on the disk.
struct Fat16 {
  std::string bytes;
  uint64_t table, table_bytes;
  explicit Fat16(std::string image) : bytes(std::move(image)), table(get<uint16_t>(bytes, 14) * kSector), table_bytes(get<uint16_t>(bytes, 22) * kSector) {}
  size_t entry(const std::string &name) const { return find(bytes, name); }
  uint16_t first(const std::string &name) const { return get<uint16_t>(bytes, entry(name) + 26); }
  uint16_t next(uint16_t cluster) const { return get<uint16_t>(bytes, table + cluster * 2u); }
  void link(std::string &image, uint16_t cluster, uint16_t next_one, uint32_t copies = 2) const {
    for (uint32_t copy = 0; copy < copies; copy++) set(image, table + copy * table_bytes + cluster * 2u, next_one);
  }
};

void fat_damage(const std::map<uint32_t, std::string> &tags) {
  make_fat("-F 16 -s 1", 8 * kMiB);
  const Fat16 good(content_of("fs.img"));
  const char table[] = "TABLE      ", big[] = "BIG     DAT", cut[] = "CUT     DAT", deep[] = "DEEP       ";
  const uint16_t in_table = good.next(good.first(table)), in_big = good.next(good.first(big));

  Listing listing = changed(good.bytes, [&](std::string &image) { good.link(image, in_big, in_table); });
  ok(held(listing, "/var/tmp/big.dat") == kShared && held(listing, "/srv/db/table") == kShared && held(listing, "/CUT.DAT") == 0 && differs("fs.img", listing, {}).find("overlap") == std::string::npos,
     "chains that meet: the files of both are replicated; the others are not touched by it");
  listing = changed(good.bytes, [&](std::string &image) { good.link(image, in_big, good.first(big)); });
  ok(held(listing, "/var/tmp/big.dat") == kShared, "so is a file whose chain comes back to itself");
  listing = changed(good.bytes, [&](std::string &image) { good.link(image, in_big, good.first(deep)); });
  ok(file_at(listing, "/var/tmp/big.dat") && (held(listing, "/var/tmp/big.dat") & kShared) && listing.problems > 0, "and one whose chain leads into a directory");

  listing = changed(good.bytes, [&](std::string &image) { set<uint32_t>(image, good.entry(table) + 28, 1000); });
  const auto rest = extents_of(listing, "/srv/db/table");
  ok(held(listing, "/srv/db/table") == 0 && rest.size() == 1 && rest[0].bytes == 1000, "clusters behind the end of a file are nobody's");
  listing = changed(good.bytes, [&](std::string &image) {
    set<uint32_t>(image, good.entry(table) + 28, 1000);
    good.link(image, good.first(cut), good.next(good.next(in_table)));
  });
  ok(held(listing, "/CUT.DAT") == kShared && held(listing, "/srv/db/table") == kShared, "a file that has such a cluster too is replicated");

  for (const uint16_t what : {0x0000, 0x0001, 0xfff7, 0xffff}) {
    listing = changed(good.bytes, [&](std::string &image) { good.link(image, in_big, what); });
    ok(held(listing, "/var/tmp/big.dat") == kDamaged && listing.problems == 1, "a chain that ends before its file does, with " + std::to_string(what) + ": a problem, which is told");
  }
  listing = changed(good.bytes, [&](std::string &image) { set<uint16_t>(image, good.entry(big) + 26, 0); });
  ok(held(listing, "/var/tmp/big.dat") == kDamaged && listing.problems == 1, "so is a file without clusters");
  listing = changed(good.bytes, [&](std::string &image) { good.link(image, in_big, in_table, 1); });
  ok(listing.problems > 0, "so are copies of the table that differ");
  listing = changed(good.bytes, [&](std::string &image) { set<uint16_t>(image, good.entry(deep) + 26, good.first("VAR        ")); });
  ok(listing.problems > 0 && listing.directories.size() == 7, "so is a directory that is in itself, and it is read once");
  listing = changed(good.bytes, [&](std::string &image) { image[good.entry(cut)] = 0; });
  ok(listing.problems > 0, "so are entries behind the end of a directory");
  listing = changed(good.bytes, [&](std::string &image) { image[0x25] = 1; });
  expect(listing, tags, listing.journal_pending && !listing.journal_unread.empty() && listing.problems == 0, "a file system that was not left cleanly is told");

  const std::vector<std::pair<size_t, uint8_t>> boots = {{12, 0}, {13, 3}, {13, 0}, {14, 0}, {16, 0}, {17, 0}, {22, 1}, {20, 0x7f}};
  bool all_refused = true;
  put_bytes("fs.img", 0, good.bytes);
  Fd fd = open_image("fs.img");
  FileSystem one = find_filesystems(fd.get()).value[0];
  for (const auto &[at, value] : boots) {
    std::string image = good.bytes;
    image[at] = static_cast<char>(value);
    if (at == 14 || at == 17) image[at + 1] = 0;
    put_bytes("fs.img", 0, image.substr(0, kSector));
    if (list_files(one, {.attempts = 1}).ok()) all_refused = false, printf("# byte %zu\n", at);
  }
  ok(all_refused, "a boot sector that contradicts itself, or is larger than its place, is refused");
  put_bytes("fs.img", 0, good.bytes);
  const std::atomic<bool> cancelled = true;
  ok(list_files(one, {.time_max = std::chrono::milliseconds(0)}).status.error == ETIMEDOUT && list_files(one, {.memory_bytes_max = 20'000}).status.error == EOVERFLOW &&
         list_files(one, {.cancelled = &cancelled}).status.error == ECANCELED,
     "time, memory and whoever wants to leave end the reading");
}

void in_a_partition(const std::map<uint32_t, std::string> &tags) {
  make_fat("-F 16 -s 1", 8 * kMiB);
  const std::string bytes = content_of("fs.img");
  make_empty("fs.img", 20 * kMiB);
  shell("printf 'label: dos\\nstart=1MiB,size=8MiB,type=6\\nstart=10MiB,size=8MiB,type=6\\n' | sfdisk -q fs.img");
  put_bytes("fs.img", 10 * kMiB, bytes);
  expect(read_one("fs.img", 1), tags, true, "extents count from the start of the device");

  // On two stripes of 64 KiB.
  make_empty("fs.img", 20 * kMiB);
  for (uint64_t at = 0; at < bytes.size(); at += 65536) put_bytes("fs.img", (at / 65536 % 2 ? 10 * kMiB : kMiB) + at / 131072 * 65536, bytes.substr(at, 65536));
  Fd fd = open_image("fs.img");
  Space space(fd.get());
  space.append({0, bytes.size(), 65536, {kMiB, 10 * kMiB}});
  FileSystem one;
  one.kind = "vfat", one.space = std::move(space);
  auto listing = list_files(one, {});
  expect(listing.value, tags, listing.ok() && listing.value.problems == 0, "and lie where the stripes of a logical volume do");
}

void exfat() {
  Exfat made;
  const uint32_t row = made.take();
  for (uint32_t i = 0; i < 3; i++) made.fill(i ? made.take() : row, 1, i < 2 ? 8 : 5);
  const size_t row_entry = made.add_to_root("a file that lies in a row", 0x20, 3, row, 2 * 4096 + 2200, 5000);
  std::vector<uint32_t> a, b;
  for (uint32_t i = 0; i < 10; i++) {  // two chains in turns
    auto &one = i % 2 ? b : a;
    one.push_back(made.take()), made.fill(one.back(), i % 2 ? 3 : 2);
  }
  for (const auto &one : {a, b})
    for (size_t i = 0; i < one.size(); i++) made.chain(one[i], i + 1 < one.size() ? one[i + 1] : UINT32_MAX);
  const size_t a_entry = made.add_to_root("a", 0x20, 1, a[0], 5 * 4096, 5 * 4096);
  made.add_to_root("b", 0x20, 1, b[0], 5 * 4096, 5 * 4096);
  made.add_to_root("empty", 0x20, 1, 0, 0, 0);
  const uint32_t directory = made.take(), inside = made.take();
  size_t end = made.offset(directory);
  made.fill(inside, 4);
  made.add(end, "inside", 0x20, 3, inside, 4096, 4096);
  made.add_to_root("directory", 0x10, 3, directory, 4096, 4096);
  put_bytes("fs.img", 0, made.bytes);
  const std::string found = shell("fsck.exfat -n fs.img");
  ok(found.find("clean. directories 2, files 5") != std::string::npos, "exFAT: what this test writes is a file system that fsck.exfat finds clean");
  const std::map<uint32_t, std::string> tags = {{1, "/a file that lies in a row"}, {2, "/a"}, {3, "/b"}, {4, "/directory/inside"}};
  Listing listing = read_one("fs.img");
  const auto in_a_row = extents_of(listing, tags.at(1));
  const File *file = file_at(listing, tags.at(1));
  expect(listing, tags, listing.files.size() == 5 && listing.problems == 0 && !listing.journal_pending && in_a_row.size() == 1 && in_a_row[0].bytes == 2 * 4096 + 2200 && extents_of(listing, "/a").size() == 5,
         "exFAT: extents are exactly the data of their files, up to their last byte");
  ok(file && file->unwritten_bytes == 2 * 4096 + 2200 - 5000, "exFAT: what is behind the valid data reads as zeroes, and is told apart");

  const std::string &good = made.bytes;
  const auto with_set = [&](size_t at, const std::function<void(std::string &)> &change) {
    return changed(good, [&](std::string &image) {
      std::string entries = image.substr(at, (1 + image[at + 1]) * 32u);
      change(entries), set(entries, 2, set_checksum(entries));
      image.replace(at, entries.size(), entries);
    });
  };
  listing = with_set(row_entry, [&](std::string &entries) { set(entries, 52, a[1] - 1); });
  ok(held(listing, tags.at(1)) == kShared && held(listing, "/a") == kShared && held(listing, "/b") == kShared && held(listing, "/directory/inside") == 0, "exFAT: clusters in a row that others have in chains: all of them are replicated");
  listing = with_set(row_entry, [&](std::string &entries) { set(entries, 52, made.bitmap); });
  ok(held(listing, tags.at(1)) == kShared, "exFAT: so is a file that has the clusters of the allocation bitmap");
  listing = with_set(row_entry, [&](std::string &entries) { set<uint64_t>(entries, 56, 64 * kMiB); });
  ok(held(listing, tags.at(1)) == kDamaged && listing.problems == 1, "exFAT: one that ends outside of the file system is a problem");
  listing = with_set(a_entry, [&](std::string &entries) { set<uint64_t>(entries, 40, 4096), set<uint64_t>(entries, 56, 4096); });
  ok(held(listing, "/a") == 0 && extents_of(listing, "/a").size() == 1, "exFAT: clusters behind the end of a file are nobody's");
  listing = with_set(row_entry, [&](std::string &entries) { entries[64] = '\xe1', entries[65] = 1, set(entries, 84, b[0]), set<uint64_t>(entries, 88, 4096); });
  ok(listing.problems > 0 && held(listing, "/b") == kShared, "exFAT: what has a type that is not known keeps its clusters");
  const auto with_type = [&](char type) {
    return with_set(a_entry, [&](std::string &entries) { entries[0] = type, set<uint16_t>(entries, 4, 0), entries[32] = '\xe1', entries[33] = 0, entries[64] = '\xe2', entries[65] = 0; });
  };
  listing = with_type('\xa5');
  ok(listing.problems == 0 && !file_at(listing, "/a"), "exFAT: what may be gone past is gone past");
  listing = with_type('\x87');
  ok(listing.problems > 0, "exFAT: what may not is a problem");
  listing = changed(good, [&](std::string &image) { image[a_entry + 8] ^= 1; });
  ok(listing.problems > 0 && !file_at(listing, "/a"), "exFAT: an entry whose checksum is wrong is a problem: what it owns is not known");
  listing = changed(good, [&](std::string &image) { image[106] |= 2; });
  expect(listing, tags, listing.journal_pending && listing.problems == 0, "exFAT: a file system that was not left cleanly is told");
  put_bytes("fs.img", 0, good);
  Fd fd = open_image("fs.img");
  FileSystem one = find_filesystems(fd.get()).value[0];
  put_bytes("fs.img", 100, "?");
  ok(!list_files(one, {.attempts = 1}).ok(), "exFAT: a boot sector whose checksum is wrong is refused");
}

}  // namespace

int main() {
  begin();
  const auto tags = make_tree();
  fat_layouts(tags);
  fat_damage(tags);
  in_a_partition(tags);
  exfat();
  return finish();
}
