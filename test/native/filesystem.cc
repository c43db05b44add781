// sources: native/filesystem/*.cc native/partition/*.cc native/core/core.cc native/core/crc32c.cc  libs: -lblkid -lext2fs -lcom_err
// ext2/3/4 as mke2fs and debugfs make them: what is listed as a file's is that file's data, and all of it; everything
// else is left to be replicated.
#include "filesystem-support.h"

using namespace filesystem_test;

namespace {

// A tree with what makes blocks hard to tell, and the path of each tag.
std::map<uint32_t, std::string> make_tree() {
  shell("mkdir -p tree/var/tmp/deep tree/srv/db tree/many");
  put_file("tree/srv/db/table", 1, 300 * 1024);
  put_file("tree/var/tmp/big", 2, 3 * kMiB);
  put_file("tree/var/tmp/holes", 3, 4096, 8192, 12288, 4 * kMiB);  // 341 extents: a tree of more than one level
  put_file("tree/var/tmp/far", 4, 8192, 70 * kMiB);                // the third level of indirect blocks, at 1 KiB
  put_file("tree/var/tmp/deep/tail", 5, 5 * kSector);
  put_file("tree/linked", 6, 40 * 1024);
  shell("ln tree/linked tree/var/tmp/other-name; ln -s linked tree/symlink; ln -s $(printf 'x%.0s' $(seq 200)) tree/long-symlink; : > tree/empty; mkfifo tree/fifo");
  std::map<uint32_t, std::string> tags = {{1, "/srv/db/table"}, {2, "/var/tmp/big"}, {3, "/var/tmp/holes"}, {4, "/var/tmp/far"}, {5, "/var/tmp/deep/tail"}, {6, "/linked"}};
  for (uint32_t i = 0; i < 300; i++) {  // a directory of several blocks
    const std::string name = "a-name-that-is-not-short-" + std::to_string(i);
    put_file("tree/many/" + name, 100 + i, kSector);
    tags[100 + i] = "/many/" + name;
  }
  return tags;
}

void make(const std::string &image, const std::string &options, uint64_t bytes = 32 * kMiB) {
  Fd fd = open_image(image, O_RDWR | O_CREAT | O_TRUNC);
  must(ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0, "ftruncate");
  shell("mke2fs -q -F -d tree " + options + " " + image);
}

void layouts(const std::map<uint32_t, std::string> &tags) {
  const struct {
    const char *name, *options;
  } all[] = {
      {"ext4, blocks of 4 KiB", "-t ext4 -b 4096"},
      {"ext4, blocks of 1 KiB", "-t ext4 -b 1024"},
      {"ext2, blocks of 1 KiB: indirect blocks of three levels", "-t ext2 -b 1024"},
      {"ext3, blocks of 4 KiB: indirect blocks and a journal", "-t ext3 -b 4096"},
      {"bigalloc, clusters of 16 KiB", "-t ext4 -b 4096 -O bigalloc -C 16384"},
      {"inline data", "-t ext4 -b 4096 -I 1024 -O inline_data"},
      {"meta_bg, sparse_super2, small groups, no flex_bg, no checksums", "-t ext4 -b 1024 -g 2048 -O meta_bg,sparse_super2,^flex_bg,^resize_inode,^metadata_csum,^64bit"},
      {"quota and an orphan file", "-t ext4 -b 4096 -O quota,project,orphan_file"},
  };
  for (const auto &one : all) {
    make("fs.img", one.options);
    const Listing listing = read_one("fs.img");
    const std::string difference = differs("fs.img", listing, tags);
    if (!difference.empty()) printf("# %s\n", difference.c_str());
    uint64_t regular = 0, holding = 0;
    for (const File &file : listing.files) regular += file.link_count > 0, holding += file.held != 0 && file.held != kInline;
    // The inode of the resized group table, the journal and quota files are regular and have no names.
    ok(difference.empty() && regular == tags.size() + 1 && holding == listing.nameless_files && listing.problems == 0 && !listing.journal_pending,
       std::string(one.name) + ": extents are exactly the data of their files");
    const File *linked = file_at(listing, "/var/tmp/other-name");
    ok(linked && linked == file_at(listing, "/linked") && linked->link_count == 2 && !linked->held, std::string(one.name) + ": a file has all of its names");
  }
  make("fs.img", "-t ext4 -b 4096 -I 1024 -O inline_data");
  const Listing listing = read_one("fs.img");
  ok(held(listing, tags.at(100)) == kInline && held(listing, "/srv/db/table") == 0, "a file whose data lie in its inode is replicated");
  ok(shell("e2fsck -fn fs.img").find("ERROR") == std::string::npos, "nothing was written: e2fsck finds nothing");
}

// debugfs writes what a client's kernel might have.
Listing changed(const std::string &options, const std::string &commands) {
  make("fs.img", options);
  shell("printf '" + commands + "' > commands; debugfs -w -f commands fs.img >output");
  return read_one("fs.img");
}

void hard_cases(const std::map<uint32_t, std::string> &tags) {
  auto without = tags;
  Listing listing = changed("-t ext4 -b 4096", "fallocate /var/tmp/deep/tail 100 299\\nfallocate /empty 0 7\\n");
  const File *tail = file_at(listing, "/var/tmp/deep/tail"), *empty = file_at(listing, "/empty");
  ok(differs("fs.img", listing, tags).empty() && tail && tail->unwritten_bytes == 200 * 4096 && empty && empty->data_bytes == 8 * 4096 && !tail->held,
     "extents that were reserved and never written are the file's, and told apart");

  listing = changed("-t ext4 -b 4096", "rm /var/tmp/big\\n");
  without.erase(2);
  ok(differs("fs.img", listing, without).empty() && !file_at(listing, "/var/tmp/big") && listing.problems == 0 && listing.nameless_files == 0, "blocks of a deleted file are nobody's");

  listing = changed("-t ext4 -b 4096", "sif /var/tmp/big links_count 0\\nunlink /var/tmp/big\\n");
  ok(differs("fs.img", listing, without).empty() && listing.nameless_files == 1 && listing.problems == 0,
     "a file that was deleted while it is open has no name, and no extent");

  listing = changed("-t ext4 -b 4096", "unlink /var/tmp/other-name\\n");
  ok(held(listing, "/linked") == kNamesMissing && differs("fs.img", listing, tags).empty(), "a file with a name that is not found is replicated");

  listing = changed("-t ext4 -b 4096", "sif /var/tmp/big flags 0x80800\\nsif /var/tmp/far flags 0x180000\\nsif /srv/db/table flags 0x84000\\nsif /linked flags 0x80004\\n");
  ok(held(listing, "/var/tmp/big") == kEncrypted && held(listing, "/var/tmp/far") == kVerity && held(listing, "/srv/db/table") == kJournaledData && held(listing, "/linked") == kCompressed &&
         differs("fs.img", listing, tags).empty(),
     "encrypted, verity, data-journalled and compressed files are replicated");

  make("fs.img", "-t ext2 -b 1024");
  const std::string block = shell("debugfs -R 'blocks /srv/db/table' fs.img 2>/dev/null | cut -d ' ' -f 3 | tr -d '\\n'");
  listing = changed("-t ext2 -b 1024", "sif /var/tmp/big block[3] " + block + "\\n");
  ok(held(listing, "/var/tmp/big") == kShared && held(listing, "/srv/db/table") == kShared && held(listing, "/linked") == 0,
     "files that share a block are replicated, both; the others are not touched by it");
  const std::string inode_table = shell("dumpe2fs fs.img 2>/dev/null | sed -n 's/.*Inode table at \\([0-9]*\\)-.*/\\1/p' | head -1 | tr -d '\\n'");
  listing = changed("-t ext2 -b 1024", "sif /var/tmp/big block[3] " + inode_table + "\\n");
  ok(held(listing, "/var/tmp/big") == kShared, "so is one that claims a block of an inode table");
  listing = changed("-t ext2 -b 1024", "sif /var/tmp/big block[3] 4000000\\n");
  ok(held(listing, "/var/tmp/big") == kDamaged && listing.problems == 1, "blocks outside of the file system: a problem, which is told");

  listing = changed("-t ext4 -b 4096", "feature needs_recovery\\n");
  ok(listing.journal_pending && differs("fs.img", listing, tags).empty(), "a journal that was not replayed is told");
}

void damage() {
  make("fs.img", "-t ext4 -b 4096");
  const std::string table = shell("debugfs -R 'imap /var/tmp/holes' fs.img 2>/dev/null | sed -n 's/.*located at block \\([0-9]*\\), offset \\(0x[0-9a-f]*\\)/\\1 \\2/p'");
  unsigned long long block = 0, offset = 0;
  must(sscanf(table.c_str(), "%llu %llx", &block, &offset) == 2, "imap: " + table);
  put_bytes("fs.img", block * 4096 + offset + 4, "????");
  Listing listing = read_one("fs.img");
  ok(listing.problems > 0 && !file_at(listing, "/var/tmp/holes"), "an inode whose checksum is wrong is a problem: what it owns is not known");

  make("fs.img", "-t ext4 -b 4096");
  put_bytes("fs.img", 1024 + 56, "??");
  Fd fd = open_image("fs.img");
  auto found = find_filesystems(fd.get());
  ok(found.ok() && found.value.size() == 1 && found.value[0].kind == "unknown" && !found.value[0].unread.empty() && !list_files(found.value[0], {}).ok(),
     "without a superblock it is unknown, and cannot be listed");

  make("fs.img", "-t ext4 -b 4096");
  must(truncate((directory + "/fs.img").c_str(), 16 * kMiB) == 0, "truncate");
  fd = open_image("fs.img");
  found = find_filesystems(fd.get());
  ok(found.ok() && found.value.size() == 1 && (!found.value[0].unread.empty() || !list_files(found.value[0], {}).ok()), "one that is larger than its place is not read");

  make("fs.img", "-t ext4 -b 4096");
  fd = open_image("fs.img");
  found = find_filesystems(fd.get());
  const std::atomic<bool> cancelled = true;
  ok(list_files(found.value[0], {.time_max = std::chrono::milliseconds(0)}).status.error == ETIMEDOUT &&
         list_files(found.value[0], {.memory_bytes_max = 20'000}).status.error == EOVERFLOW &&
         list_files(found.value[0], {.cancelled = &cancelled}).status.error == ECANCELED,
     "time, memory and whoever wants to leave end the reading");
}

}  // namespace

int main() {
  begin();
  const auto tags = make_tree();
  layouts(tags);
  hard_cases(tags);
  damage();
  return finish();
}
