// sources: native/filesystem/*.cc native/partition/*.cc native/core/core.cc native/core/crc32c.cc  libs: -lblkid -lext2fs -lcom_err
// NTFS: as mkfs.ntfs and ntfscp make it, as the driver ntfs-3g has left it (images/ntfs.img.gz), and with records of its
// file table changed: what is listed as a file's is that file's data, up to its last byte; everything else is left to be replicated.
#include <algorithm>
#include <functional>
#include <tuple>

#include "filesystem-support.h"

using namespace filesystem_test;

namespace {

constexpr size_t kRecord = 1024, kRun = 64;
std::string images;  // where they are

void expect(const Listing &listing, const std::map<uint32_t, std::string> &tags, bool more, const std::string &title) {
  const std::string difference = differs("fs.img", listing, tags);
  if (!difference.empty()) printf("# %s\n", difference.c_str());
  ok(difference.empty() && more, title);
}

std::string utf16(const std::string &name) {
  std::string text;
  for (const char c : name) text += c, text += '\0';
  return text;
}

// An image whose file table can be changed.
class Ntfs {
 public:
  explicit Ntfs(std::string image) : bytes(std::move(image)) {}
  // Where the record of the file with this name is.
  size_t record(const std::string &name) const {
    for (size_t at = 0; at + kRecord <= bytes.size(); at += 512) {
      if (bytes.compare(at, 4, "FILE") != 0 || (get<uint16_t>(bytes, at + 22) & 1) == 0) continue;
      const std::string record = bytes.substr(at, kRecord);  // a directory's index has the names of its files too
      for (size_t one = get<uint16_t>(record, 20); get<uint32_t>(record, one) <= 0x30; one += get<uint32_t>(record, one + 4))
        if (get<uint32_t>(record, one) == 0x30 && static_cast<uint8_t>(record[one + 24 + 64]) == name.size() && record.compare(one + 24 + 66, 2 * name.size(), utf16(name)) == 0) return get<uint32_t>(bytes, at + 32) ? numbered(get<uint32_t>(bytes, at + 32)) : at;
    }
    must(false, "record of " + name);
    return 0;
  }
  size_t numbered(uint32_t number) const {
    for (size_t at = 0; at + kRecord <= bytes.size(); at += 512)
      if (bytes.compare(at, 4, "FILE") == 0 && get<uint32_t>(bytes, at + 44) == number && get<uint32_t>(bytes, at + 32) == 0) return at;
    must(false, "a record");
    return 0;
  }
  // The record of another record's attributes (the last one that has it as its base).
  size_t extension_of(size_t base) const {
    size_t last = 0;
    for (size_t at = 0; at + kRecord <= bytes.size(); at += 512)
      if (bytes.compare(at, 4, "FILE") == 0 && get<uint32_t>(bytes, at + 32) == get<uint32_t>(bytes, base + 44) && get<uint32_t>(bytes, at + 32) != 0) last = at;
    must(last != 0, "an extension");
    return last;
  }
  // The offset of an attribute without a name in an opened record.
  static size_t attribute(const std::string &record, uint32_t type) {
    for (size_t at = get<uint16_t>(record, 20); get<uint32_t>(record, at) != UINT32_MAX; at += get<uint32_t>(record, at + 4))
      if (get<uint32_t>(record, at) == type && record[at + 9] == 0) return at;
    must(false, "attribute");
    return 0;
  }
  // The marks at the ends of its sectors are taken out, and put in again.
  void change(size_t at, const std::function<void(std::string &)> &change) {
    std::string record = bytes.substr(at, kRecord);
    const size_t marks = get<uint16_t>(record, 4);
    for (size_t i = 1; i <= 2; i++) record.replace(i * 512 - 2, 2, record, marks + 2 * i, 2);
    change(record);
    for (size_t i = 1; i <= 2; i++) record.replace(marks + 2 * i, 2, record, i * 512 - 2, 2), record.replace(i * 512 - 2, 2, record, marks, 2);
    bytes.replace(at, kRecord, record);
  }
  std::string bytes;
};

Listing read(const Ntfs &image) {
  put_bytes("fs.img", 0, image.bytes);
  return read_one("fs.img", 0, {.attempts = 1});
}

void made_by_mkfs() {
  std::map<uint32_t, std::string> tags;
  for (const char *options : {"-c 4096", "-c 512", "-c 65536", "-s 4096 -c 4096"}) {
    make_empty("fs.img", 8 * kMiB);
    shell("mkfs.ntfs -F -q -L label -p 0 -H 0 -S 0 " + std::string(options) + " fs.img >/dev/null");
    for (uint32_t i = 1; i < 6; i++) {
      shell("rm -f file");
      put_file("file", i, i * 10 * kSector);
      tags[i] = "/a-name-" + std::to_string(i);
      shell("ntfscp -q fs.img file a-name-" + std::to_string(i));
    }
    const Listing listing = read_one("fs.img");
    uint64_t named = 0;
    for (const File &file : listing.files) named += file.link_count > 0;
    expect(listing, tags, named == tags.size() && listing.problems == 0 && listing.nameless_files == 0 && !listing.journal_pending,
           "NTFS, mkfs.ntfs " + std::string(options) + ": extents are exactly the data of their files");
  }
}

std::map<uint32_t, std::string> tags_of_image() {
  std::map<uint32_t, std::string> tags = {{1, "/srv/db/table"}, {2, "/var/tmp/big"}, {3, "/fragments-a"}, {4, "/fragments-b"}, {5, "/var/tmp/deep/tail"}, {6, "/linked"}, {7, "/stream"}, {9, "/packed/file"}, {10, "/sparse"}, {11, "/cut"}, {99, "/many/\xc3\xbc-\xe2\x82\xac-\xf0\x9f\x98\x80"}};
  for (uint32_t i = 0; i < 40; i++) tags[100 + i] = "/many/a-name-that-is-not-short-" + std::to_string(i);
  return tags;
}

Ntfs image() {
  shell("gunzip -c >fs.img <" + images + "/ntfs.img.gz");
  return Ntfs(content_of("fs.img"));
}

void filled_by_the_driver(const std::map<uint32_t, std::string> &tags) {
  const Ntfs good = image();
  const Listing listing = read(good);
  expect(listing, tags, listing.problems == 0 && listing.nameless_files == 0 && !listing.journal_pending && !file_at(listing, "/gone"), "NTFS, filled by its driver: extents are exactly the data of their files");
  const File *linked = file_at(listing, "/linked");
  ok(linked && linked == file_at(listing, "/var/tmp/other-name") && linked->link_count == 2 && !linked->held, "a file has all of its names");
  ok(extents_of(listing, "/fragments-a").size() > 100 && extents_of(listing, "/sparse").size() == 8 && file_at(listing, "/sparse")->data_bytes == 32768, "data in very many runs, and with holes");
  const auto cut = extents_of(listing, "/cut");
  ok(cut.size() == 1 && cut[0].bytes == 5000, "what is behind the end of a file is not its data");
  ok(held(listing, "/inline") == kInline && held(listing, "/empty") == kInline && held(listing, "/packed/file") == kCompressed && held(listing, "/symlink") == (kInline | kReparsePoint) && held(listing, "/fifo") == (kInline | kReparsePoint),
     "files in their record, compressed ones and reparse points are replicated");
  bool system = false;
  for (const Link &link : listing.links) system |= path_of(listing, link)[1] == '$';
  ok(!system, "files of the system have no names here");
}

void changed_records(const std::map<uint32_t, std::string> &tags) {
  const Ntfs good = image();
  const auto changed = [&](size_t at, const std::function<void(std::string &)> &change) {
    Ntfs one = good;
    one.change(at, change);
    return read(one);
  };
  const size_t big = good.record("big"), table = good.record("table"), linked = good.record("linked"), fragments = good.record("fragments-a");

  Listing listing = changed(linked, [](std::string &record) { set<uint16_t>(record, Ntfs::attribute(record, 0x80) + 12, 0x4000); });
  ok(held(listing, "/linked") == kEncrypted, "encrypted files are replicated");
  listing = changed(linked, [](std::string &record) { set<uint16_t>(record, 18, 3); });
  ok(held(listing, "/linked") == kNamesMissing && listing.problems == 0, "so are files with a name that is not found");
  for (const uint64_t parent : {5ull << 48 | 1000000, 9ull << 48 | 5}) {
    listing = changed(linked, [&](std::string &record) { set(record, Ntfs::attribute(record, 0x30) + 24, parent); });
    const uint32_t one = held(listing, "/linked"), other = held(listing, "/var/tmp/other-name");  // which of them it was is not said
    ok(std::max(one, other) == UINT32_MAX && std::min(one, other) == kNamesMissing,
       std::string("and those with a name in a directory that is not there") + (parent >> 48 == 9 ? " any more" : ""));
  }

  // Runs of one piece: a byte that says how long the others are, its length, where it is.
  const auto run_of = [&](size_t at) {
    uint64_t cluster = 0;
    Ntfs(good).change(at, [&](std::string &record) {
      const size_t run = Ntfs::attribute(record, 0x80) + kRun;
      must((record[run] & 15) == 1 && (record[run] >> 4) == 2, "a run of one byte and two");
      cluster = get<uint16_t>(record, run + 2);
    });
    return cluster;
  };
  const auto with_run = [&](uint64_t cluster) {
    return changed(big, [&](std::string &record) { set<uint16_t>(record, Ntfs::attribute(record, 0x80) + kRun + 2, static_cast<uint16_t>(cluster)); });
  };
  listing = with_run(run_of(table) + 1);
  ok(held(listing, "/var/tmp/big") == kShared && held(listing, "/srv/db/table") == kShared && held(listing, "/linked") == 0, "files that have a cluster in common are replicated, both; the others are not touched by it");
  listing = with_run(get<uint64_t>(good.bytes, 48));
  ok(held(listing, "/var/tmp/big") == kShared, "so is one that has clusters of the file table");
  listing = with_run(0x7ff0);
  ok(listing.problems > 0 && extents_of(listing, "/var/tmp/big").empty(), "one with clusters outside of the file system is a problem");
  listing = changed(big, [](std::string &record) { set<uint64_t>(record, Ntfs::attribute(record, 0x80) + 40, 1 << 20); });
  ok(held(listing, "/var/tmp/big") == kDamaged && listing.problems == 1, "so is one with less than it says");
  listing = changed(big, [](std::string &record) { set<uint64_t>(record, Ntfs::attribute(record, 0x80) + 56, 4000); });
  ok(held(listing, "/var/tmp/big") == 0 && file_at(listing, "/var/tmp/big")->unwritten_bytes == 60 * 1024 - 4000, "what is behind the valid data reads as zeroes, and is told apart");
  listing = changed(big, [](std::string &record) { set<uint64_t>(record, Ntfs::attribute(record, 0x80) + 48, 700), set<uint64_t>(record, Ntfs::attribute(record, 0x80) + 56, 700); });
  const auto shortened = extents_of(listing, "/var/tmp/big");
  ok(shortened.size() == 1 && shortened[0].bytes == 700, "clusters behind the end of a file are nobody's");

  const size_t extension = good.extension_of(fragments);
  listing = changed(extension, [](std::string &record) { set<uint16_t>(record, 38, get<uint16_t>(record, 38) + 1); });
  ok(listing.problems > 0, "a record that belongs to another use of its base is a problem");
  listing = changed(extension, [](std::string &record) { set<uint16_t>(record, 22, 0); });
  ok(listing.problems > 0 && held(listing, "/fragments-a") == kDamaged && held(listing, "/fragments-b") == 0, "so is a file of which a record is missing");
  Ntfs torn = good;
  torn.bytes[big + 510] ^= 1;
  listing = read(torn);
  ok(listing.problems == 1 && !file_at(listing, "/var/tmp/big"), "a record that is torn is a problem: what it owns is not known");
  torn = good;
  torn.bytes[big] = 'X';
  ok(read(torn).problems == 1, "so is one that is in use and is none");
  const size_t var = good.record("var");
  const uint32_t deep = get<uint32_t>(good.bytes, good.record("deep") + 44);
  listing = changed(var, [&](std::string &record) {
    set<uint64_t>(record, Ntfs::attribute(record, 0x30) + 24, uint64_t{get<uint16_t>(good.bytes, good.record("deep") + 16)} << 48 | deep);
  });
  ok(listing.problems > 0 && !file_at(listing, "/var/tmp/big") && file_at(listing, "/srv/db/table"), "a directory that is in itself is a problem, and has no place");

  listing = changed(good.record("$Volume"), [](std::string &record) { record[Ntfs::attribute(record, 0x70) + 24 + 10] |= 1; });
  expect(listing, tags, listing.journal_pending && !listing.journal_unread.empty() && listing.problems == 0, "a file system that was not left cleanly is told");
  put_bytes("fs.img", 0, good.bytes);
  Fd fd = open_image("fs.img");
  const FileSystem one = find_filesystems(fd.get()).value[0];
  const std::atomic<bool> cancelled = true;
  ok(list_files(one, {.time_max = std::chrono::milliseconds(0)}).status.error == ETIMEDOUT && list_files(one, {.memory_bytes_max = 20'000}).status.error == EOVERFLOW &&
         list_files(one, {.cancelled = &cancelled}).status.error == ECANCELED,
     "time, memory and whoever wants to leave end the reading");
}

// As Windows does when the file table is in very many pieces: its own record names others, which say where the rest is.
void file_table_in_parts(const std::map<uint32_t, std::string> &tags) {
  Ntfs one = image();
  const size_t first = get<uint64_t>(one.bytes, 48) * kRecord;  // a cluster is as large as a record here
  std::string other;
  const uint64_t split = 20;
  one.change(first, [&](std::string &record) {
    const size_t data = Ntfs::attribute(record, 0x80), runs = data + get<uint16_t>(record, data + 32), length_bytes = record[runs] & 15;
    uint64_t length = 0, where = 0;
    memcpy(&length, &record[runs + 1], length_bytes), memcpy(&where, &record[runs + 1 + length_bytes], record[runs] >> 4);
    must(length == get<uint64_t>(record, data + 24) + 1 && length > split, "a file table in one run");
    std::string run = "\x44........";
    set(run, 1, static_cast<uint32_t>(length - split)), set(run, 5, static_cast<uint32_t>(where + split));
    std::string attribute = record.substr(data, kRun) + run;
    attribute.resize(kRun + 16);
    set<uint32_t>(attribute, 4, kRun + 16), set(attribute, 16, split), set<uint16_t>(attribute, 32, kRun);
    other = attribute;
    // A list of attributes goes in front of the name.
    set(record, data + 24, split - 1), memcpy(&record[runs + 1], &split, length_bytes);
    std::string list(24, '\0');
    for (const auto &[type, begin, number] : {std::tuple<uint32_t, uint64_t, uint64_t>{0x80, 0, 0}, {0x80, split, 15}, {0xb0, 0, 0}}) {
      std::string entry(32, '\0');
      set(entry, 0, type), set<uint16_t>(entry, 4, 32), set(entry, 8, begin), set<uint64_t>(entry, 16, number | (number ? 15ull : 1ull) << 48);
      list += entry;
    }
    set<uint32_t>(list, 0, 0x20), set<uint32_t>(list, 4, static_cast<uint32_t>(list.size())), set<uint32_t>(list, 16, static_cast<uint32_t>(list.size() - 24)), set<uint16_t>(list, 20, 24);
    record.insert(Ntfs::attribute(record, 0x30), list);
    set<uint32_t>(record, 24, get<uint32_t>(record, 24) + static_cast<uint32_t>(list.size()));
    record.resize(kRecord);
  });
  const size_t fifteen = first + 15 * kRecord;
  one.change(fifteen, [&](std::string &record) {
    const size_t begin = get<uint16_t>(record, 20);
    record.replace(begin, other.size(), other);
    set<uint32_t>(record, begin + other.size(), UINT32_MAX), set<uint32_t>(record, 24, static_cast<uint32_t>(begin + other.size() + 8));
    set<uint16_t>(record, 16, 15), set<uint16_t>(record, 22, 1), set<uint64_t>(record, 32, 1ull << 48);
  });
  Listing listing = read(one);
  expect(listing, tags, listing.problems == 0 && listing.links.size() > tags.size(), "a file table whose parts are named by a list of attributes");
  one.change(fifteen, [](std::string &record) { set<uint16_t>(record, 22, 0); });
  put_bytes("fs.img", 0, one.bytes);
  Fd fd = open_image("fs.img");
  ok(!list_files(find_filesystems(fd.get()).value[0], {.attempts = 1}).ok(), "without one of the parts it is not read");
}

}  // namespace

int main() {
  char *path = realpath("test/native/images", nullptr);
  must(path, "test/native/images");
  images = path;
  free(path);
  begin();
  const auto tags = tags_of_image();
  made_by_mkfs();
  filled_by_the_driver(tags);
  changed_records(tags);
  file_table_in_parts(tags);
  return finish();
}
