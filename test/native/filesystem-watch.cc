// sources: native/filesystem/*.cc native/partition/*.cc native/core/core.cc native/core/crc32c.cc  libs: -lblkid -lext2fs -lcom_err
// What a watch says to the writes of a client: which ranges may still be left out.
#include "filesystem-support.h"

#include "filesystem/ext-io.h"
#include "filesystem/watch.h"

using namespace filesystem_test;

namespace {

void put(const std::string &image, uint64_t offset, const std::string &bytes) {
  Fd fd = open_image(image, O_WRONLY);
  must(pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes.size()), "write " + image);
}

void swap_areas() {
  {
    Fd fd = open_image("swap.img", O_RDWR | O_CREAT | O_TRUNC);
    must(ftruncate(fd.get(), 4 * kMiB) == 0, "ftruncate");
  }
  shell("mkswap -q swap.img");
  Fd fd = open_image("swap.img");
  auto found = find_filesystems(fd.get());
  auto listing = list_files(found.value.at(0), {});
  const auto make = [&](uint8_t out) { return make_watch(found.value.at(0), listing.value, {out}, {}); };
  auto watch = make(1);
  ok(watch.ok() && watch.value->ranges().size() == 1 && watch.value->ranges()[0].offset == 4096 && watch.value->ranges()[0].bytes == 4 * kMiB - 4096 && watch.value->start().kind == Verdict::kNothing,
     "a swap area is left out but for its first page");
  ok(make(0).value->ranges().empty(), "or not at all, when no rule says so");
  put("swap.img", 4096, std::string(8192, 's'));
  ok(watch.value->wrote(4096, 8192).kind == Verdict::kNothing && watch.value->wrote(0, 8192).kind == Verdict::kNothing, "what is swapped out, and the same header again, changes nothing");
  auto late = make(1);
  shell("mkswap -q swap.img");
  ok(watch.value->wrote(0, 4096).kind == Verdict::kStale && watch.value->wrote(0, 4096).kind == Verdict::kNothing, "mkswap over it: stale, once");
  ok(late.value->start().kind == Verdict::kStale, "and before the watch has started");
}

// An ext4 that is in use, and a client's kernel, which debugfs plays: what a command changes is worked out on a copy, and
// the blocks that differ become a transaction of the journal. Nothing comes to its place before checkpoint().
class Client {
 public:
  Client(const std::string &options, const std::string &tree, uint64_t block_bytes, const std::string &journal) : block_(block_bytes), journal_(journal) {
    static std::map<std::string, std::string> made;  // most cases begin with the same one
    std::string &base = made[options + journal_ + std::to_string(block_bytes)];
    if (base.empty()) {
      base = "base-" + std::to_string(made.size());
      const bool with_journal = options.find("^has_journal") == std::string::npos;
      shell("truncate -s " + std::to_string(32 * kMiB) + " " + base + " && mke2fs -q -F -t ext4 " + std::string(with_journal ? "-J size=4 -b " : "-b ") + std::to_string(block_bytes) + " " + options + " -d " + tree + " " + base);
      // As when it is mounted: in use, the log is empty.
      shell("printf 'jo " + journal_ + "\\njc\\n' > commands; debugfs -w -f commands " + base + " >output 2>&1");
      if (with_journal) shell("debugfs -w -R 'feature needs_recovery' " + base);
      shell("debugfs -R 'blocks <8>' " + base + " 2>/dev/null | tr ' ' '\\n' > journal-of-" + base);
    }
    shell("cp --sparse=always " + base + " fs.img; cp fs.img after.img; cp journal-of-" + base + " journal-blocks");
    fd_ = open_image("fs.img");
    found_ = find_filesystems(fd_.get()).value;
  }

  // One transaction. `more` are commands of debugfs.
  void commit(const std::string &more, const std::string &revoke = "") {
    shell("printf '" + more + "' | debugfs -w -f - after.img");
    write("-b " + changed() + (revoke.empty() ? "" : " -r " + revoke));
  }
  void commit_nothing_but(const std::string &options) { write(options); }
  // All that was committed comes to its place, as the kernel writes it back.
  void checkpoint() {
    for (const auto &[block, bytes] : committed_) put("fs.img", block * block_, bytes);
  }

  Listing list() { return std::move(list_files(found_.at(0), {}).value); }
  // Of the files whose path begins so.
  understudy::Result<std::unique_ptr<Watch>> watch(const std::string &prefix) { return watch(list(), prefix); }
  understudy::Result<std::unique_ptr<Watch>> watch(const Listing &listing, const std::string &prefix, bool all_below = false) {
    std::vector<uint8_t> out(listing.files.size());
    for (const Link &link : listing.links) out[link.file] |= path_of(listing, link).rfind(prefix, 0) == 0;
    std::vector<uint8_t> whole(listing.directories.size());
    for (size_t i = 1; i < whole.size(); i++) whole[i] = all_below && (path_of(listing, listing.directories[i]) + "/").rfind(prefix, 0) == 0;
    auto watch = make_watch(found_.at(0), listing, out, {}, whole);
    if (!watch.ok()) printf("# %s\n", watch.status.message.c_str());
    return watch;
  }
  // What the watch says to the journal's blocks as they are written, one after the other.
  Verdict logged(Watch &watch) {
    is_journal(0);
    Verdict all;
    for (const uint64_t block : own_) {
      Verdict verdict = watch.wrote(block * block_, block_);
      if (!verdict.why.empty()) printf("# %s\n", verdict.why.c_str());
      all.look |= verdict.look;
      all.freed.insert(all.freed.end(), verdict.freed.begin(), verdict.freed.end());
      all.left_out.insert(all.left_out.end(), verdict.left_out.begin(), verdict.left_out.end());
      all.written.insert(all.written.end(), verdict.written.begin(), verdict.written.end());
      all.kind = std::max(all.kind, verdict.kind);
    }
    return all;
  }
  // The last transaction once more, from when the image was `before`, in the order and the pieces of `how`.
  Verdict logged_as(Watch &watch, const std::string &before, const std::string &how) {
    const std::string now = read("fs.img");
    is_journal(0);
    std::vector<uint64_t> blocks;
    for (const uint64_t block : own_)
      if (now.compare(block * block_, block_, before, block * block_, block_) != 0) blocks.push_back(block);
    for (const uint64_t block : blocks) put("fs.img", block * block_, before.substr(block * block_, block_));
    Verdict all;
    // What lay in the place of a logged block before.
    const auto home = [&](uint64_t block) {
      for (const auto &[place, bytes] : committed_)
        if (now.compare(block * block_, block_, bytes) == 0) return before.substr(place * block_, block_);
      return now.substr(block * block_, block_);
    };
    const auto piece = [&](uint64_t offset, uint64_t bytes, const std::string &other = "") {
      put("fs.img", offset, other.empty() ? now.substr(offset, bytes) : other);
      const Verdict verdict = watch.wrote(offset, bytes);
      if (!verdict.why.empty()) printf("# %s\n", verdict.why.c_str());
      all.freed.insert(all.freed.end(), verdict.freed.begin(), verdict.freed.end());
      all.kind = std::max(all.kind, verdict.kind);
    };
    // The journal's superblock comes first, the commit last.
    piece(blocks.front() * block_, block_);
    const std::vector<uint64_t> log(blocks.begin() + 1, blocks.end() - 1);
    const uint64_t commit = blocks.back(), half = block_ / 2;
    if (how == "backwards")
      for (size_t i = log.size(); i-- > 0;) piece(log[i] * block_, block_);
    if (how == "in halves" || how == "in halves, the second one first")
      for (const uint64_t block : log)
        for (const uint64_t into : how == "in halves" ? std::vector<uint64_t>{0, half} : std::vector<uint64_t>{half, 0}) piece(block * block_ + into, half);
    if (how == "twice, as they were before first")
      for (const uint64_t block : log) {
        const std::string first = home(block);
        if (now.compare(block * block_, block_, first) != 0) piece(block * block_, block_, first);
        piece(block * block_, block_);
      }
    if (how == "as one write") piece(log.front() * block_, (commit + 1 - log.front()) * block_);
    else if (how.find("halves") != std::string::npos) piece(commit * block_, half), piece(commit * block_ + half, half);
    else piece(commit * block_, block_);
    return all;
  }
  Verdict written_back(Watch &watch) {
    Verdict all;
    for (const auto &[block, bytes] : committed_) all.kind = std::max(all.kind, watch.wrote(block * block_, block_).kind);
    return all;
  }

  static constexpr uint64_t kBytes = 32 * kMiB;
  static std::string read(const std::string &image) {
    Fd fd = open_image(image);
    std::string bytes(32 * kMiB, '\0');
    must(pread(fd.get(), bytes.data(), kBytes, 0) == static_cast<ssize_t>(kBytes), "read " + image);
    return bytes;
  }

 private:
  bool is_journal(uint64_t block) {
    if (own_.empty()) {
      FILE *file = fopen((directory + "/journal-blocks").c_str(), "r");
      for (unsigned long long one; fscanf(file, "%llu", &one) == 1;) own_.insert(one);
      fclose(file);
    }
    return own_.count(block) || block == 1024 / block_;
  }
  // As the last transaction left it.
  std::map<uint64_t, std::string> committed_;
  std::string changed() {
    const std::string after = read("after.img"), image = read("fs.img");
    std::string list;
    Fd blocks = open_image("blocks", O_RDWR | O_CREAT | O_TRUNC);
    for (uint64_t block = 0; block < kBytes / block_; block++) {
      if (is_journal(block)) continue;
      const std::string_view now(&after[block * block_], block_);
      const auto before = committed_.find(block);
      if (now == (before == committed_.end() ? std::string_view(&image[block * block_], block_) : std::string_view(before->second))) continue;
      committed_[block] = now;
      list += (list.empty() ? "" : ",") + std::to_string(block);
      must(::write(blocks.get(), now.data(), now.size()) == static_cast<ssize_t>(now.size()), "write blocks");
    }
    return list;
  }
  void write(const std::string &options) {
    shell("printf 'jo " + journal_ + "\\njw " + options + " blocks\\njc\\n' > commands; debugfs -w -f commands fs.img");
  }

  const uint64_t block_;
  const std::string journal_;
  std::set<uint64_t> own_;
  Fd fd_;
  std::vector<FileSystem> found_;
};

bool within(const std::vector<ByteRange> &ranges, const Listing &listing, const std::string &path, bool all) {
  const File *file = file_at(listing, path);
  for (const Extent &extent : listing.extents) {
    if (&listing.files[extent.file] != file) continue;
    bool in = false;
    for (const ByteRange &range : ranges) in |= range.offset <= extent.offset && extent.offset + extent.bytes <= range.offset + range.bytes;
    if (in != all) return false;
  }
  return file && file->data_bytes > 0;
}

void make_tree() {
  shell("mkdir -p tree/tmp/deep tree/tmp/short tree/srv/moved; : >tree/empty");
  for (uint32_t i = 0; i < 10; i++) put_file("tree/tmp/short/" + std::to_string(i), 10 + i, 4096);
  put_file("tree/tmp/big", 1, 1 * kMiB);
  put_file("tree/tmp/holes", 2, 4096, 8192, 16384, 4 * kMiB);
  put_file("tree/tmp/deep/small", 3, 16384);
  put_file("tree/srv/table", 4, 256 * 1024);
}

void journal_layouts() {
  const struct {
    const char *name, *options;
    uint64_t block;
    const char *journal;
  } all[] = {
      {"blocks of 4 KiB, checksums of version 3", "", 4096, "-c -v 3"},
      {"blocks of 1 KiB, no checksums, 32 bits", "-O ^metadata_csum,^64bit,^metadata_csum_seed", 1024, ""},
      {"checksums of version 2", "", 1024, "-c -v 2"},
      {"bigalloc", "-O bigalloc -C 16384", 4096, "-c -v 3"},
      {"groups of 1 MiB, a journal in pieces", "-g 1024 -O ^flex_bg,^resize_inode", 1024, "-c -v 3"},
      {"meta_bg, quota, an orphan file, inodes of 128 bytes", "-I 128 -O meta_bg,^resize_inode,orphan_file,quota", 4096, "-c -v 3"},
  };
  for (const auto &one : all) {
    const std::string name = std::string(one.name) + ": ";
    Client client(one.options, "tree", one.block, one.journal);
    auto watch = client.watch("/tmp/");
    if (!watch.ok()) {
      ok(false, name + "watched");
      continue;
    }
    const Listing before = client.list();
    ok(within(watch.value->ranges(), before, "/tmp/holes", true) && within(watch.value->ranges(), before, "/tmp/big", true) && within(watch.value->ranges(), before, "/tmp/deep/small", true) &&
           within(watch.value->ranges(), before, "/srv/table", false) && watch.value->start().kind == Verdict::kNothing,
       name + "what the rules leave out is watched, and nothing else");
    client.commit("write tree/tmp/deep/small /srv/new\\n");
    Verdict verdict = client.logged(*watch.value);
    const Listing grown = client.list();
    ok(verdict.kind == Verdict::kNothing && grown.journal_pending && grown.journal_unread.empty() && grown.problems == 0 && file_at(grown, "/srv/new"),
       name + "a transaction that is not in its place yet is read, and leaves the ranges as they are");
    client.commit("rm /tmp/big\\n");
    verdict = client.logged(*watch.value);
    ok(verdict.kind == Verdict::kFreed && within(verdict.freed, before, "/tmp/big", true) && within(verdict.freed, before, "/tmp/holes", false) && !file_at(client.list(), "/tmp/big"),
       name + "what a deleted file had lapses at the commit");
    client.checkpoint();
    ok(client.written_back(*watch.value).kind == Verdict::kNothing, name + "what comes to its place is what was committed");
    auto again = client.watch("/tmp/");
    ok(again.ok() && again.value->start().kind == Verdict::kNothing && within(again.value->ranges(), before, "/tmp/holes", true) && within(again.value->ranges(), before, "/tmp/big", false),
       name + "another reading begins behind what is in the log");
  }
}

// What one transaction says to a watch over /tmp.
void hard_cases() {
  using enum Verdict::Kind;
  const struct {
    const char *title, *commands;
    Verdict::Kind kind;
    const char *freed;  // "": nothing
  } all[] = {
      {"renamed out of the rules", "ln /tmp/big /srv/big\\nunlink /tmp/big\\n", kStep, ""},
      {"renamed inside of them (nobody knows)", "ln /tmp/big /tmp/other\\nunlink /tmp/big\\n", kStep, ""},
      // Inode and name were mixed by XOR once: of ten such files only four were known.
      {"one of many with short names renamed", "ln /tmp/short/4 /srv/4\\nunlink /tmp/short/4\\n", kStep, ""},
      {"another of them", "ln /tmp/short/8 /srv/8\\nunlink /tmp/short/8\\n", kStep, ""},
      {"a hard link elsewhere", "ln /tmp/big /srv/big\\nsif /tmp/big links_count 2\\n", kStep, ""},
      {"a directory above it renamed", "ln /tmp/deep /srv/deep\\nunlink /tmp/deep\\n", kStep, ""},
      {"the directory above all renamed", "ln /tmp /temporary\\nunlink /tmp\\n", kStep, ""},
      {"blocks that became another file's without having been free", "copy_inode /tmp/big /srv/table\\ncopy_inode /tmp/deep/small /tmp/big\\n", kStep, ""},
      {"exchanged with a file that is not left out", "ln /tmp/big /srv/big\\nunlink /tmp/big\\nln /srv/table /tmp/big\\nunlink /srv/table\\nln /srv/big /srv/table\\nunlink /srv/big\\n", kStep, ""},
      {"its inode is another's", "sif /tmp/big generation 77\\n", kStep, ""},
      {"its data go through the journal from now on", "sif /tmp/big flags 0x84000\\n", kStep, ""},
      {"a file that is not left out is deleted, renamed, written", "rm /srv/table\\nwrite tree/tmp/big /srv/new\\nmkdir /srv/more\\n", kNothing, ""},
      {"a new file beside it", "write tree/tmp/deep/small /tmp/new\\n", kNothing, ""},
      {"a hole punched into it", "punch /tmp/big 0 255\\n", kFreed, "/tmp/big"},
      {"truncated", "punch /tmp/big 0 1000\\nsif /tmp/big size 0\\n", kFreed, "/tmp/big"},
      {"blocks reserved for it that are not written yet", "fallocate /tmp/big 256 300\\n", kNothing, ""},
      {"made immutable, another owner, another time", "sif /tmp/big flags 0x80010\\nsif /tmp/big uid 7\\nsif /tmp/big mtime 7\\n", kNothing, ""},
      {"renamed into the rules", "ln /srv/table /tmp/table\\nunlink /srv/table\\n", kNothing, ""},
      {"all below a directory deleted, and the directory", "rm /tmp/deep/small\\nrmdir /tmp/deep\\n", kFreed, "/tmp/deep/small"},
  };
  for (const auto &one : all) {
    Client client("", "tree", 4096, "-c -v 3");
    const Listing before = client.list();
    auto watch = client.watch(before, "/tmp/");
    if (!watch.ok() || watch.value->start().kind != kNothing) {
      ok(false, one.title);
      continue;
    }
    client.commit(one.commands);
    const Verdict verdict = client.logged(*watch.value);
    bool good = verdict.kind == one.kind;
    for (const char *path : {"/tmp/big", "/tmp/holes", "/tmp/deep/small"})
      good = good && within(verdict.freed, before, path, std::string(path) == one.freed);
    ok(good, one.title);
    if (one.kind == kStep) {
      // The same before it has started: nothing is in force yet, so that it is given up.
      Client late("", "tree", 4096, "-c -v 3");
      const Listing listing = late.list();
      auto one_more = late.watch(listing, "/tmp/");
      late.commit(one.commands);
      const Verdict start = one_more.value->start();
      const auto after = late.watch(listing, "/tmp/");
      const char *const lost = strstr(one.commands, "/tmp/short/4") ? "/tmp/short/4" : strstr(one.commands, "/tmp/short/8") ? "/tmp/short/8" : "/tmp/big";
      const bool directory = strstr(one.title, "directory") != nullptr;
      ok((directory ? start.kind == kStale : start.kind == kFreed && within(start.freed, listing, lost, true) && within(start.freed, listing, "/tmp/holes", false)) &&
             (directory || strstr(one.title, "inode") || (after.ok() && within(after.value->ranges(), listing, lost, false))),
         std::string(one.title) + ", before it has started");
    }
  }
}

void deleted_in_steps() {
  Client client("", "tree", 4096, "-c -v 3");
  const Listing before = client.list();
  auto watch = client.watch(before, "/tmp/");
  watch.value->start();
  const uint32_t inode = before.file_inodes.at(static_cast<size_t>(file_at(before, "/tmp/big") - before.files.data()));
  client.commit("sif /tmp/big links_count 0\\nunlink /tmp/big\\n");
  ok(client.logged(*watch.value).kind == Verdict::kNothing, "deleted while it is open: its blocks are still its own");
  client.commit("kill_file <" + std::to_string(inode) + ">\\n");
  const Verdict verdict = client.logged(*watch.value);
  ok(verdict.kind == Verdict::kFreed && within(verdict.freed, before, "/tmp/big", true), "and lapse when it is closed");
  client.commit("write tree/tmp/big /srv/new\\n");
  ok(client.logged(*watch.value).kind == Verdict::kNothing && file_at(client.list(), "/srv/new"), "another file gets them, and the inode");

  client.commit("ln /tmp/holes /tmp/second\\nsif /tmp/holes links_count 2\\n");
  watch = client.watch("/tmp/");
  watch.value->start();
  client.commit("unlink /tmp/holes\\nsif /tmp/second links_count 1\\n");
  ok(client.logged(*watch.value).kind == Verdict::kNothing, "one of two names that are both left out goes: nothing");
}

void odd_lives() {
  Client client("", "tree", 4096, "-c -v 3");
  auto watch = client.watch("/tmp/");
  watch.value->start();
  client.commit_nothing_but("-c -b 1");
  ok(client.logged(*watch.value).kind == Verdict::kNothing, "a transaction without its commit is none");
  {
    Client resized("", "tree", 4096, "-c -v 3");
    auto over = resized.watch("/tmp/");
    over.value->start();
    std::string super = Client::read("fs.img").substr(0, 4096);
    super[1024 + 5] = static_cast<char>(super[1024 + 5] + 1);  // s_blocks_count
    { Fd fd = open_image("blocks", O_RDWR | O_CREAT | O_TRUNC); }
    put("blocks", 0, super);
    resized.commit_nothing_but("-b 0");
    ok(resized.logged(*over.value).kind == Verdict::kStale, "resized while it is mounted: the superblock is in a transaction: stale");
  }

  const struct {
    const char *title, *command;
  } stale[] = {
      {"a tool that writes without the journal", "printf 'feature -needs_recovery\\nrm /tmp/big\\n' > commands; debugfs -w -f commands fs.img"},
      {"another life", "mke2fs -q -F -t ext4 fs.img"},
      {"another size", "cp fs.img copy.img; debugfs -w -R 'feature -needs_recovery' copy.img; e2fsck -fy copy.img; resize2fs copy.img 16M; dd if=copy.img of=fs.img conv=notrunc status=none"},
      {"a journal that is damaged", "set -- $(cat journal-blocks); dd if=/dev/urandom of=fs.img bs=4096 seek=$1 count=1 conv=notrunc status=none"},
      {"an area full of zeroes", "dd if=/dev/zero of=fs.img bs=1M count=1 conv=notrunc status=none"},
  };
  for (const auto &one : stale) {
    Client other("", "tree", 4096, "-c -v 3");
    auto over = other.watch("/tmp/");
    over.value->start();
    shell(one.command);
    ok(over.value->wrote(0, 32 * kMiB).kind == Verdict::kStale && over.value->wrote(0, 32 * kMiB).kind == Verdict::kNothing, std::string(one.title) + " is stale, once");
  }
  const struct {
    const char *title, *options, *word;
  } refused[] = {
      {"no journal", "-O ^has_journal", "no journal"},
      {"fast commits", "-O fast_commit", "fast commits"},
  };
  for (const auto &one : refused) {
    Client other(one.options, "tree", 4096, "");
    const auto none = other.watch("/tmp/");
    ok(!none.ok() && none.status.message.find(one.word) != std::string::npos, std::string(one.title) + ": refused, and told");
  }
  Client other("", "tree", 4096, "-c -v 3");
  other.commit("write tree/tmp/deep/small /srv/new\\n");
  shell("set -- $(cat journal-blocks); dd if=/dev/urandom of=fs.img bs=1 seek=$(($2 * 4096 + 100)) count=9 conv=notrunc status=none");
  const Listing torn = other.list();
  ok(torn.problems > 0, "a descriptor whose checksum is wrong: it is not read");
}

// Blocks change hands.
void handed_on() {
  Client client("", "tree", 4096, "-c -v 3");
  const Listing before = client.list();
  auto watch = client.watch(before, "/tmp/");
  watch.value->start();
  client.commit("rm /tmp/big\\n");
  ok(client.logged(*watch.value).kind == Verdict::kFreed, "a deleted file's blocks lapse");
  client.commit("write tree/tmp/big /srv/new\\nmkdir /srv/one\\nmkdir /srv/two\\n");
  const Listing reused = client.list();
  const auto meet = [&](const Listing &one, const char *path, const Listing &other, const char *other_path) {
    bool any = false;
    for (const Extent &a : one.extents)
      for (const Extent &b : other.extents)
        any |= &one.files[a.file] == file_at(one, path) && &other.files[b.file] == file_at(other, other_path) && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
    return any;
  };
  auto next = client.watch(reused, "/tmp/");
  bool metadata = false;  // the new directories', or of the new file, inside of what was left out
  for (const ByteRange &range : next.value->ranges()) metadata |= within({range}, reused, "/srv/new", true);
  ok(client.logged(*watch.value).kind == Verdict::kNothing && meet(before, "/tmp/big", reused, "/srv/new") && !metadata,
     "and a chosen file and directories get them: no reading leaves them out");
  client.commit("rm /srv/new\\nrmdir /srv/one\\nrmdir /srv/two\\n");
  ok(client.logged(*watch.value).kind == Verdict::kNothing, "the other way round: a chosen file and directories go");
  client.commit("write tree/tmp/big /tmp/again\\n");
  const Verdict verdict = client.logged(*watch.value);
  const Listing last = client.list();
  ok(verdict.kind == Verdict::kNothing && verdict.look && meet(reused, "/srv/new", last, "/tmp/again") && within(client.watch(last, "/tmp/").value->ranges(), last, "/tmp/again", true),
     "and a file that is left out gets their blocks: replicated until a reading finds it, which is asked for");

  Client damaged("", "tree", 4096, "-c -v 3");
  const Listing sound = damaged.list();
  damaged.commit("copy_inode /srv/table /tmp/big\\n");
  auto doubted = damaged.watch(sound, "/tmp/");
  ok(doubted.ok() && doubted.value->start().kind != Verdict::kStale && within(doubted.value->ranges(), sound, "/srv/table", false) && within(doubted.value->ranges(), sound, "/tmp/holes", true),
     "what a file that is left out has got since the listing, of a chosen one's: replicated");
}

// What a file and a directory look like changes; what is known of them goes along.
void growing() {
  Client client("", "tree", 4096, "-c -v 3");
  const Listing before = client.list();
  auto watch = client.watch(before, "/tmp/");
  watch.value->start();
  // The tree's first block comes from what the transaction before has freed.
  client.commit("punch /tmp/big 1 1\\npunch /tmp/big 3 3\\n");
  Verdict verdict = client.logged(*watch.value);
  std::vector<ByteRange> freed = verdict.freed;
  std::string holes;
  for (int i = 5; i < 60; i += 2) holes += "punch /tmp/big " + std::to_string(i) + " " + std::to_string(i) + "\\n";
  client.commit(holes);
  verdict = client.logged(*watch.value);
  freed.insert(freed.end(), verdict.freed.begin(), verdict.freed.end());
  ok(verdict.kind == Verdict::kFreed && freed.size() == 30 && !within(freed, before, "/tmp/big", true), "holes that make the tree of a file's extents higher free what was there, and nothing else");
  client.commit("punch /tmp/big 100 200\\n");
  verdict = client.logged(*watch.value);
  uint64_t bytes = 0;
  for (const ByteRange &range : verdict.freed) bytes += range.bytes;
  ok(verdict.kind == Verdict::kFreed && bytes == 101 * 4096, "a change in a lower block of that tree is seen");

  std::string names = "expand_dir /tmp\\nexpand_dir /tmp\\n";
  for (int i = 0; i < 40; i++) names += "symlink /tmp/a-long-name-" + std::string(180, 'x') + std::to_string(i) + " nowhere\\n";
  client.commit(names);
  ok(client.logged(*watch.value).kind == Verdict::kNothing, "a directory gets blocks");
  client.commit("ln /tmp/holes /tmp/moved\\nunlink /tmp/holes\\n");
  ok(client.logged(*watch.value).kind == Verdict::kStep, "and a name that goes from it is still seen");

  Client empty("", "tree", 4096, "-c -v 3");
  auto nothing = empty.watch("/nothing-yet/");
  nothing.value->start();
  empty.commit("mkdir /nothing-yet\\nwrite tree/tmp/big /nothing-yet/new\\n");
  ok(nothing.value->ranges().empty() && empty.logged(*nothing.value).look, "a watch over no file at all says when to look for some");

  Client inline_data("-O inline_data -I 256", "tree", 4096, "-c -v 3");
  auto none = inline_data.watch("/tmp/");
  ok(none.ok() && within(none.value->ranges(), inline_data.list(), "/tmp/big", false), "what lies below a directory whose names are in its inode is replicated");
}

// Whether it calls those blocks nobody's that libext2fs finds free, as of the last commit.
bool knows_free_blocks(Watch &watch, uint64_t block_bytes, uint64_t &free_blocks) {
  Fd fd = open_image("fs.img");
  const Space space(fd.get(), 0, 32 * kMiB);
  Budget budget({});
  Ext fs;
  must(open_ext(space, budget, fs) == 0, "open");
  auto journal = find_journal(fs.get(), space, budget);
  Committed committed(space, static_cast<uint32_t>(block_bytes));
  must(committed.open(std::move(journal.value)).ok(), "journal");
  fs.reset();
  must(open_ext(space, budget, fs, &committed) == 0 && ext2fs_read_block_bitmap(fs.get()) == 0, "bitmap");
  std::vector<bool> told(32 * kMiB / block_bytes);
  watch.nobodys(0, 32 * kMiB, [&](uint64_t offset, uint64_t bytes) {
    for (uint64_t block = offset / block_bytes; block * block_bytes < offset + bytes; block++) told[block] = true;
  });
  free_blocks = 0;
  for (uint64_t block = fs->super->s_first_data_block; block < ext2fs_blocks_count(fs->super); block++) {
    const bool free = !ext2fs_test_block_bitmap2(fs->block_map, block);
    free_blocks += free;
    if (free != told[block]) return printf("# block %lu\n", static_cast<unsigned long>(block)), false;
  }
  return true;
}

void nobodys() {
  for (const char *options : {"", "-O bigalloc -C 16384", "-b 1024 -O ^metadata_csum,^64bit,^metadata_csum_seed", "-b 1024 -g 1024", "-O ^flex_bg,^uninit_bg,^metadata_csum", "-O meta_bg,^resize_inode"}) {
    const std::string name = *options ? std::string(options) + ": " : "";
    const uint64_t size = name.find("-b 1024") != std::string::npos ? 1024 : 4096;
    Client client(options, "tree", size, "");
    auto watch = client.watch(client.list(), "/tmp/", true);
    if (!watch.ok()) {
      ok(false, name + "watched");
      continue;
    }
    watch.value->start();
    uint64_t before = 0, after = 0, freed = 0;
    client.commit("write tree/tmp/deep/small /srv/new\\n");
    (void)client.logged(*watch.value);
    bool good = knows_free_blocks(*watch.value, size, before);
    client.commit("write tree/tmp/big /tmp/new\\n");
    (void)client.logged(*watch.value);
    good = good && knows_free_blocks(*watch.value, size, after) && after < before;
    client.commit("rm /tmp/big\\n");
    (void)client.logged(*watch.value);
    good = good && knows_free_blocks(*watch.value, size, freed) && freed > after;
    client.checkpoint();
    good = good && knows_free_blocks(*watch.value, size, freed);
    ok(good, name + "nobody's are the blocks that are free as of the last commit");
    bool any = false;
    put("fs.img", 1024, std::string(1024, '\0'));
    (void)watch.value->wrote(1024, 1024);
    watch.value->nobodys(0, 32 * kMiB, [&](uint64_t, uint64_t) { any = true; });
    ok(!any, name + "none, once what has happened is not understood");
  }
}

// What is new below /tmp, where the watch knows that all is left out.
void newcomers() {
  using enum Verdict::Kind;
  for (const char *options : {"", "-O bigalloc -C 16384", "-b 1024 -O ^metadata_csum,^64bit,^metadata_csum_seed"}) {
    const std::string name = *options ? std::string(options) + ": " : "";
    const bool small = name.find("1024") != std::string::npos;
    Client client(options, "tree", small ? 1024 : 4096, small ? "" : "-c -v 3");
    auto watch = client.watch(client.list(), "/tmp/", true);
    if (!watch.ok() || watch.value->start().kind != kNothing) {
      ok(false, name + "watched");
      continue;
    }
    const auto commit = [&](const std::string &commands) {
      client.commit(commands);
      return client.logged(*watch.value);
    };
    const auto sum = [](const std::vector<ByteRange> &ranges) {
      uint64_t bytes = 0;
      for (const ByteRange &one : ranges) bytes += one.bytes;
      return bytes;
    };
    Verdict verdict = commit("write tree/tmp/deep/small /tmp/new\\nwrite tree/tmp/deep/small /srv/new\\n");
    Listing now = client.list();
    ok(verdict.kind == kNothing && verdict.look && within(verdict.left_out, now, "/tmp/new", true) && within(verdict.left_out, now, "/srv/new", false), name + "a new file is left out at the commit, and a chosen one is not");
    verdict = commit("mkdir /tmp/one\\nmkdir /tmp/one/two\\nwrite tree/tmp/deep/small /tmp/one/two/new\\nwrite tree/empty /tmp/one/empty\\nwrite tree/empty /tmp/one/none\\n");
    ok(verdict.kind == kNothing && within(verdict.left_out, client.list(), "/tmp/one/two/new", true), name + "one in directories that are new, too");
    verdict = commit("write tree/tmp/deep/small /tmp/one/two/later\\nfallocate /tmp/one/empty 0 15\\nfallocate /tmp/big 1024 1039\\n");
    now = client.list();
    ok(verdict.kind == kNothing && within(verdict.left_out, now, "/tmp/one/two/later", true) && within(verdict.left_out, now, "/tmp/one/empty", true) && sum(verdict.left_out) == 16384 + 32 * (small ? 1024 : 4096),
       name + "one that comes later, what was empty, and what has grown");
    verdict = commit("rm /tmp/one/none\\nwrite tree/tmp/deep/small /tmp/one/two/again\\nsif /tmp/one/two/again generation 7\\n");
    ok(verdict.kind == kNothing && within(verdict.left_out, client.list(), "/tmp/one/two/again", true), name + "the inode of an empty one is another's in the same transaction");
    verdict = commit("write tree/tmp/deep/small /tmp/linked\\nln /tmp/linked /srv/linked\\nsif /tmp/linked links_count 2\\n");
    ok(verdict.kind == kNothing && verdict.left_out.empty(), name + "a new file with another name elsewhere is replicated");
    verdict = commit("write tree/tmp/deep/small /tmp/both\\nln /tmp/both /tmp/one/both\\nsif /tmp/both links_count 2\\n");
    ok(verdict.kind == kNothing && within(verdict.left_out, client.list(), "/tmp/both", true), name + "with both of its names there it is not");
    verdict = commit("ln /srv/moved /tmp/moved\\nunlink /srv/moved\\nsif /tmp/moved ctime 9\\n");
    ok(verdict.kind == kNothing && verdict.left_out.empty(), name + "a directory that is moved there: what it has is replicated");
    verdict = commit("write tree/tmp/deep/small /tmp/moved/new\\n");
    ok(verdict.kind == kNothing && within(verdict.left_out, client.list(), "/tmp/moved/new", true), name + "and what comes into it is not");
    verdict = commit("mkdir /tmp/bare\\n");
    verdict = commit("ln /tmp/bare /srv/bare\\nunlink /tmp/bare\\n");
    ok(verdict.kind == kNothing, name + "one that is moved away with nothing in it");
    verdict = commit("write tree/tmp/deep/small /srv/bare/new\\n");
    ok(verdict.kind == kNothing && verdict.left_out.empty(), name + "and what comes into it is replicated");
    verdict = commit("rm /tmp/one/two/new\\nrm /tmp/one/two/again\\nrm /tmp/one/two/later\\nrmdir /tmp/one/two\\n");
    ok(verdict.kind == kFreed && sum(verdict.freed) == 3 * 16384, name + "deleted with its directory it lapses");
    verdict = commit("ln /tmp/new /srv/new2\\nunlink /tmp/new\\n");
    ok(verdict.kind == kStep, name + "renamed out of the rules: a step");
  }
  Client client("", "tree", 4096, "-c -v 3");
  const Listing listing = client.list();
  auto early = client.watch(listing, "/tmp/", true);
  client.commit("write tree/tmp/deep/small /tmp/new\\nfallocate /tmp/big 1024 1039\\n");
  auto late = client.watch(listing, "/tmp/", true);
  const Listing now = client.list();
  ok(within(early.value->start().left_out, now, "/tmp/new", true), "what comes before the watch has started is told then");
  ok(late.value->start().kind == kNothing && within(late.value->ranges(), now, "/tmp/new", true) && within(late.value->ranges(), now, "/tmp/big", true), "what comes before it is made is in its ranges");
}

// A transaction with several descriptors, as it may come from a client.
void orders_of_writes() {
  for (const char *journal : {"", "-c -v 3"}) {
    for (const char *how : {"backwards", "in halves", "in halves, the second one first", "twice, as they were before first", "as one write"}) {
      Client client(*journal ? "" : "-O ^metadata_csum,^64bit,^metadata_csum_seed", "tree", 1024, journal);
      const Listing listing = client.list();
      auto watch = client.watch(listing, "/tmp/");
      watch.value->start();
      const std::string before = Client::read("fs.img");
      client.commit("write tree/srv/table /srv/new\\nrm /tmp/big\\n");
      const Verdict verdict = client.logged_as(*watch.value, before, how);
      ok(verdict.kind == Verdict::kFreed && within(verdict.freed, listing, "/tmp/big", true), std::string("a transaction whose blocks come ") + how + (*journal ? ", with checksums" : "") + " is seen");
    }
  }
}

// With data=writeback a block is given away before the commit that frees it.
void given_away_early() {
  Client client("", "tree", 4096, "-c -v 3");
  const Listing before = client.list();
  const auto first = [&](const char *path) {
    const File *file = file_at(before, path);
    for (const Extent &extent : before.extents)
      if (&before.files[extent.file] == file) return extent.offset;
    return uint64_t{0};
  };
  auto watch = client.watch(before, "/tmp/");
  watch.value->start();
  client.commit("write tree/tmp/deep/small /srv/first\\n");
  client.logged(*watch.value);
  watch.value->wrote(first("/tmp/big"), 4096);
  auto next = client.watch(client.list(), "/tmp/");
  next.value->start(watch.value.get());
  client.commit("rm /tmp/big\\nrm /tmp/deep/small\\n");
  for (const auto &[name, one] : {std::pair{"", &watch}, std::pair{", also by a watch that follows another", &next}}) {
    const Verdict verdict = client.logged(*one->value);
    bool told = false, other = false;
    for (const ByteRange &range : verdict.written) {
      told |= range.offset <= first("/tmp/big") && first("/tmp/big") + 4096 <= range.offset + range.bytes;
      other |= range.offset <= first("/tmp/deep/small") && first("/tmp/deep/small") < range.offset + range.bytes;
    }
    ok(verdict.kind == Verdict::kFreed && within(verdict.freed, before, "/tmp/big", true) && told && !other,
       std::string("what was written while the commit that frees it was under way is told") + name);
  }
  auto alone = client.watch(client.list(), "/tmp/");
  alone.value->start();
  client.commit("rm /tmp/holes\\n");
  const Verdict verdict = client.logged(*alone.value);
  ok(within(verdict.written, before, "/tmp/holes", true), "and all that the first commit frees, where nobody has seen the writes before");
  ok(client.logged(*watch.value).written.empty(), "a commit after which nothing was written frees what is empty");
}

// What belongs into a block that the log holds.
void contents() {
  Client client("", "tree", 4096, "-c -v 3");
  const std::string magic = std::string("\xc0\x3b\x39\x98", 4) + std::string(4092, 'm');
  { Fd fd = open_image("blocks", O_RDWR | O_CREAT | O_TRUNC); }
  put("blocks", 0, magic);
  client.commit_nothing_but("-b 5000");
  Fd fd = open_image("fs.img");
  const Space space(fd.get(), 0, 32 * kMiB);
  const auto content = [&] {
    Budget budget({});
    Ext fs;
    must(open_ext(space, budget, fs) == 0, "open");
    auto journal = find_journal(fs.get(), space, budget);
    Committed committed(space, 4096);
    must(committed.open(std::move(journal.value)).ok(), "journal");
    std::string block(4096, '\0');
    must(committed.read_block(5000, reinterpret_cast<uint8_t *>(block.data())).ok(), "read");
    return block;
  };
  ok(content() == magic, "a block that begins with the journal's own magic number is read as it was");
  client.commit_nothing_but("-b 5001 -r 5000");
  ok(content() != magic, "a block that was revoked is not taken from the log");
}

}  // namespace

int main() {
  begin();
  swap_areas();
  make_tree();
  journal_layouts();
  hard_cases();
  deleted_in_steps();
  handed_on();
  growing();
  newcomers();
  nobodys();
  orders_of_writes();
  given_away_early();
  odd_lives();
  contents();
  return finish();
}
