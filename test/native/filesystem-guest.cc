// sources: native/filesystem/*.cc native/partition/*.cc native/core/core.cc native/core/crc32c.cc  libs: -lblkid -lext2fs -lcom_err
// timeout: 200
// The watch under a real kernel: a user-mode-linux guest mounts an ext4 that this program serves (NBD), and changes it at
// random. Each write goes to the master's image, then to the watch, then to the standby's image, less what is left out.
// At the commits the two are compared: they may differ in files that the rules leave out, and in blocks that are nobody's.
//
//   filesystem-guest [ROUNDS [SEED]]      more layouts and kinds of mounts, with so many operations in each
#include "filesystem-support.h"

#include <endian.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "filesystem/ext-inodes.h"
#include "filesystem/watch.h"

using namespace filesystem_test;
using understudy::Status;

namespace {

constexpr uint64_t kBytes = 40 * kMiB;
constexpr uint64_t kGrain = 1024;  // what the model knows of: the smallest block

bool is_left_out(const std::string &path) { return path.rfind("/tmp/", 0) == 0; }

// An image as of its last commit, as a recovery would find it.
class State {
 public:
  explicit State(const Space &space) : space_(space), matters_(kBytes / kGrain) {
    Ext fs;
    must(open_ext(space_, budget_, fs) == 0, "open");
    block_ = fs->blocksize;
    committed_ = Committed(space_, block_);
    auto journal = find_journal(fs.get(), space_, budget_);
    if (ext2fs_has_feature_journal_needs_recovery(fs->super)) {
      must(committed_.open(std::move(journal.value)).ok(), "journal");
      fs.reset();
      must(open_ext(space_, budget_, fs, &committed_) == 0, "open");
    }
    Problems problems;
    Claims claims(budget_, 1);
    Inodes inodes;
    must(claim_metadata(fs.get(), claims, problems) == 0 && scan_inodes(fs.get(), budget_, inodes, claims, problems) == 0, "inodes");
    for (const Claim &claim : claims.all()) set(claim.start, claim.blocks, true);
    for (ext2_ino_t number = 11; number <= fs->super->s_inodes_count; number++) {
      struct ext2_inode inode;
      if (ext2fs_read_inode(fs.get(), number, &inode) != 0 || !LINUX_S_ISREG(inode.i_mode) || !(inode.i_flags & EXT4_EXTENTS_FL)) continue;
      ext2_extent_handle_t handle;
      if (ext2fs_extent_open2(fs.get(), number, &inode, &handle) != 0) continue;
      struct ext2fs_extent extent;
      for (errcode_t error = ext2fs_extent_get(handle, EXT2_EXTENT_ROOT, &extent); error == 0; error = ext2fs_extent_get(handle, EXT2_EXTENT_NEXT, &extent))
        if (extent.e_flags & EXT2_EXTENT_FLAGS_LEAF && (extent.e_flags & EXT2_EXTENT_FLAGS_UNINIT || inode.i_links_count == 0)) set(extent.e_pblk, extent.e_len, false);
      ext2fs_extent_free(handle);
    }
  }
  bool matters(uint64_t at) const { return matters_[at / kGrain]; }
  std::string content(uint64_t at) const {
    std::string bytes(kGrain, '\0');
    must(committed_.read(at, bytes.data(), kGrain).ok(), "read");
    return bytes;
  }

 private:
  void set(uint64_t start, uint64_t blocks, bool matters) {
    for (uint64_t at = start * block_; at < (start + blocks) * block_; at += kGrain) matters_[at / kGrain] = matters;
  }
  const Space space_;
  Budget budget_{Limits{}};
  uint32_t block_;
  Committed committed_;
  std::vector<bool> matters_;
};

class Model {
 public:
  ~Model() { munmap(standby_, kBytes); }
  explicit Model(const std::string &image) : fd_(open_image(image, O_RDWR)), standby_fd_(open_image("standby.img", O_RDWR | O_CREAT | O_TRUNC)), out_(kBytes / kGrain) {
    must(ftruncate(standby_fd_.get(), kBytes) == 0, "ftruncate");
    standby_ = static_cast<char *>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, standby_fd_.get(), 0));
    must(standby_ != MAP_FAILED, "mmap");
    must(pread(fd_.get(), standby_, kBytes, 0) == static_cast<ssize_t>(kBytes), "read");
    found_ = find_filesystems(fd_.get()).value;
    read_again();
  }

  void trim(uint64_t offset, uint64_t bytes) {
    trims++;
    write(offset, std::string(bytes, '\0').data(), bytes);
  }
  void write(uint64_t offset, const char *data, uint64_t bytes) {
    must(pwrite(fd_.get(), data, bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes), "write");
    writes++;
    Verdict verdict;
    if (watch_) verdict = watch_->wrote(offset, bytes);
    freed += verdict.freed.size();
    for (const ByteRange &one : verdict.freed) mark(one, false);
    leave_out(verdict);
    for (const ByteRange &one : verdict.written) must(pread(fd_.get(), &standby_[one.offset], one.bytes, static_cast<off_t>(one.offset)) == static_cast<ssize_t>(one.bytes), "read");
    look_ = look_ || verdict.look;
    if (verdict.kind == Verdict::kStep || verdict.kind == Verdict::kStale) {
      (verdict.kind == Verdict::kStep ? steps : stales)++;
      if (getenv("VERBOSE")) printf("# %llu %s\n", static_cast<unsigned long long>(writes), verdict.why.c_str());
      next_ = {};
      listing_at_ = 0;
      read_again();
    }
    for (uint64_t at = offset; at < offset + bytes;) {
      const uint64_t end = std::min(offset + bytes, (at / kGrain + 1) * kGrain);
      if (!out_[at / kGrain]) memcpy(&standby_[at], data + (at - offset), end - at);
      else dropped += end - at;
      at = end;
    }
    background();
    if (verdict.look || verdict.kind != Verdict::kNothing || writes % 64 == 0) compare();
  }

  void compare() {
    if (!why.empty()) return;
    compared++;
    const auto read = list_files(found_.at(0), {.attempts = 1});
    if (!read.ok() || read.value.problems) return unread++, void();
    const Listing &listing = read.value;
    std::vector<uint8_t> master(kBytes);
    must(pread(fd_.get(), master.data(), kBytes, 0) == static_cast<ssize_t>(kBytes), "read");
    std::vector<uint8_t> may(kBytes / kGrain);  // 1: a file that is left out
    for (const Link &link : listing.links)
      if (!is_left_out(path_of(listing, link))) chosen_.insert(link.file);
    for (const Extent &extent : listing.extents)
      if (!chosen_.count(extent.file) && listing.files[extent.file].link_count)
        for (uint64_t at = extent.offset; at < extent.offset + extent.bytes; at += kGrain) may[at / kGrain] = 1;
    chosen_.clear();
    std::unique_ptr<State> ours, theirs;
    for (uint64_t at = 0; at < kBytes; at += kGrain) {
      if (memcmp(&master[at], &standby_[at], kGrain) == 0) continue;
      const bool zero = std::all_of(&standby_[at], &standby_[at] + kGrain, [](char byte) { return byte == 0; });
      if (may[at / kGrain] && zero) continue;
      if (!ours) ours = std::make_unique<State>(found_.at(0).space), theirs = std::make_unique<State>(Space(standby_fd_.get(), 0, kBytes));
      // Of nobody as of the last commit, reserved and not written yet, of a file that is open and has no name, or in the journal.
      if (!ours->matters(at) || ours->content(at) == theirs->content(at)) continue;
      why = "after write " + std::to_string(writes) + ": byte " + std::to_string(at) + (zero ? " is missing" : " is another") + (out_[at / kGrain] ? ", left out" : "") + (may[at / kGrain] ? ", of a file that is" : "");
      return;
    }
  }

  uint64_t at_once = 0;  // bytes, at a commit
  uint64_t writes = 0, trims = 0, freed = 0, steps = 0, stales = 0, dropped = 0, compared = 0, unread = 0, readings = 0, refused = 0;
  std::string why;

 private:
  void mark(const ByteRange &range, bool out) {
    for (uint64_t at = range.offset; at < range.offset + range.bytes; at += kGrain) out_[at / kGrain] = out;
  }

  void leave_out(const Verdict &verdict) {
    for (const ByteRange &one : verdict.left_out) mark(one, true), memset(&standby_[one.offset], 0, one.bytes), at_once += one.bytes;
  }
  std::vector<uint8_t> whole(const Listing &listing) {
    std::vector<uint8_t> whole(listing.directories.size());
    for (size_t i = 1; i < whole.size(); i++) whole[i] = is_left_out(path_of(listing, listing.directories[i]) + "/");
    return whole;
  }
  std::vector<uint8_t> rules(const Listing &listing) {
    std::vector<uint8_t> out(listing.files.size(), 1);
    for (const Link &link : listing.links)
      if (!is_left_out(path_of(listing, link))) out[link.file] = 0;
    for (size_t i = 0; i < out.size(); i++)
      if (listing.files[i].held || listing.files[i].link_count == 0) out[i] = 0;
    return out;
  }

  // Comes into force: what is new in it is emptied, what is not any more is copied.
  bool install(Watch &watch) {
    const Verdict verdict = watch.start(watch_.get());
    if (verdict.kind == Verdict::kStep || verdict.kind == Verdict::kStale) return false;
    const std::vector<bool> before = std::exchange(out_, std::vector<bool>(kBytes / kGrain));
    for (const ByteRange &one : watch.ranges()) mark(one, true);
    for (const ByteRange &one : verdict.freed) mark(one, false);
    leave_out(verdict);
    settle(before);
    return true;
  }
  void settle(const std::vector<bool> &before) {
    for (uint64_t i = 0; i < out_.size(); i++) {
      if (out_[i] && !before[i]) memset(&standby_[i * kGrain], 0, kGrain);
      if (!out_[i] && before[i]) must(pread(fd_.get(), &standby_[i * kGrain], kGrain, static_cast<off_t>(i * kGrain)) == static_cast<ssize_t>(kGrain), "read");
    }
  }

  void read_again() {
    readings++;
    auto listing = list_files(found_.at(0), {.attempts = 1});
    if (listing.ok()) {
      auto made = make_watch(found_.at(0), listing.value, rules(listing.value), {.attempts = 1}, whole(listing.value));
      if (made.ok() && install(*made.value)) return watch_ = std::move(made.value), void();
      if (getenv("VERBOSE")) printf("# refused: %s\n", made.status.message.c_str());
    }
    refused++;
    watch_ = nullptr;
    const auto before = std::exchange(out_, std::vector<bool>(kBytes / kGrain));
    settle(before);
    look_ = true;
  }

  // A reading that takes its time, while the client goes on.
  void background() {
    if (listing_at_ == 0 && look_ && writes % 97 == 0) {
      listing_ = list_files(found_.at(0), {.attempts = 1}).value;
      listing_at_ = writes, look_ = false, readings++;
    }
    if (listing_at_ && !next_ && writes == listing_at_ + listing_at_ % 37 * 3) {
      auto made = make_watch(found_.at(0), listing_, rules(listing_), {.attempts = 1}, whole(listing_));
      if (made.ok()) next_ = std::move(made.value);
      else listing_at_ = 0, refused++, look_ = true;
    }
    if (next_ && writes >= listing_at_ + 150) {
      if (install(*next_)) watch_ = std::move(next_);
      else refused++, look_ = true;
      next_ = nullptr, listing_at_ = 0;
    }
  }

  Fd fd_, standby_fd_;
  std::vector<FileSystem> found_;
  std::unique_ptr<Watch> watch_, next_;
  Listing listing_;
  uint64_t listing_at_ = 0;
  bool look_ = true;
  std::set<uint32_t> chosen_;
  std::vector<bool> out_;
  char *standby_;
};

// One client of one export (the NBD protocol's fixed newstyle handshake, then simple replies), until it leaves.
class Server {
 public:
  Server(int fd, Model &model, int image) : fd_(fd), model_(model), image_(image) {}
  void serve() {
    put64(0x4e42444d41474943), put64(0x49484156454f5054), put16(3);
    get(4);
    while (option()) {}
    while (request()) {}
  }

 private:
  bool option() {
    if (!get(16)) return false;
    const uint32_t kind = be32(8), bytes = be32(12);
    if (!get(bytes)) return false;
    if (kind == 1) return put64(kBytes), put16(kFlags), transmitting_ = true, false;
    const auto reply = [&](uint32_t type, uint32_t length) { put64(0x3e889045565a9), put32(kind), put32(type), put32(length); };
    if (kind != 7 && kind != 6) return reply(0x80000001, 0), true;
    reply(3, 12), put16(0), put64(kBytes), put16(kFlags);
    reply(1, 0);
    transmitting_ = kind == 7;
    return kind != 7;
  }

  bool request() {
    if (!transmitting_ || !get(28)) return false;
    const uint32_t type = be32(4) & 0xffff, bytes = be32(24);
    uint64_t handle, offset;
    memcpy(&handle, &in_[8], 8), memcpy(&offset, &in_[16], 8);
    offset = be64toh(offset);
    std::string data;
    if (type == 2) return false;
    if (type == 1) {
      if (!get(bytes)) return false;
      model_.write(offset, in_.data(), bytes);
    }
    if (type == 4) model_.trim(offset, bytes);
    if (type == 0) {
      data.resize(bytes);
      must(pread(image_, data.data(), bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes), "read");
    }
    put32(0x67446698), put32(0);
    send(&handle, 8);
    send(data.data(), data.size());
    return true;
  }

  static constexpr uint16_t kFlags = 1 | 4 | 32;
  bool get(size_t bytes) {
    in_.resize(bytes);
    for (size_t at = 0; at < bytes;) {
      const ssize_t n = recv(fd_, &in_[at], bytes - at, 0);
      if (n <= 0) return false;
      at += static_cast<size_t>(n);
    }
    return true;
  }
  uint32_t be32(size_t at) const {
    uint32_t value;
    memcpy(&value, &in_[at], 4);
    return be32toh(value);
  }
  void send(const void *data, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
      const ssize_t n = ::send(fd_, static_cast<const char *>(data) + at, bytes - at, MSG_NOSIGNAL);
      if (n <= 0) return;
      at += static_cast<size_t>(n);
    }
  }
  void put16(uint16_t value) { send(&(value = htobe16(value)), 2); }
  void put32(uint32_t value) { send(&(value = htobe32(value)), 4); }
  void put64(uint64_t value) { send(&(value = htobe64(value)), 8); }

  const int fd_;
  Model &model_;
  const int image_;
  std::string in_;
  bool transmitting_ = false;
};

std::string here() {
  std::string path(4096, '\0');
  must(getcwd(path.data(), path.size()), "getcwd");
  return path.c_str();
}

struct Case {
  const char *title, *mkfs, *options;
  uint32_t sector, seed, rounds;
};

void run(const Case &one) {
  shell("rm -rf tree; mkdir -p tree/tmp/deep/er tree/srv");
  for (uint32_t i = 0; i < 20; i++) put_file("tree/tmp/file-" + std::to_string(i), i, (i + 1) * 8192);
  for (uint32_t i = 0; i < 10; i++) put_file("tree/tmp/deep/er/" + std::to_string(i), 50 + i, 4096);
  put_file("tree/tmp/holes", 90, 4096, 8192, 16384, 4 * kMiB);
  for (uint32_t i = 0; i < 10; i++) put_file("tree/srv/file-" + std::to_string(i), 100 + i, (i + 1) * 4096);
  {
    Fd fd = open_image("fs.img", O_RDWR | O_CREAT | O_TRUNC);
    must(ftruncate(fd.get(), kBytes) == 0, "ftruncate");
  }
  shell("mke2fs -q -F -t ext4 -J size=4 " + std::string(one.mkfs) + " -d tree fs.img");
  Model model("fs.img");
  Fd image = open_image("fs.img");
  const std::string path = directory + "/nbd.sock";
  unlink(path.c_str());
  const Fd listening(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{.sun_family = AF_UNIX};
  strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  must(bind(listening.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) == 0 && listen(listening.get(), 1) == 0, "listen");
  const timeval patience{.tv_sec = 100};
  setsockopt(listening.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  const std::string guest = here() + "/test/guest";
  // The guest's memory is a file that must allow execution: not all of /dev/shm do.
  std::string memory = "/tmp/understudy-guest-XXXXXX";
  must(mkdtemp(memory.data()), "mkdtemp");
  const std::string command = "cd " + directory + " && cc -O2 -shared -fPIC -o shim.so " + guest + "/xstate-ptrace.c -ldl && exec env LD_PRELOAD=" + directory + "/shim.so TMPDIR=" + memory + " " +
                              guest + "/wire.py host " + path + " -- linux.uml mem=128M root=/dev/root rootfstype=hostfs ro quiet init=" + guest + "/churn.sh here=" + guest +
                              " con=null con0=null,fd:1 uml_dir=" + memory + " umid=churn options=" + one.options + " seed=" + std::to_string(one.seed) + " rounds=" + std::to_string(one.rounds) +
                              " sector=" + std::to_string(one.sector) + " ssl0=fd:@,fd:@ >guest.log 2>&1 </dev/null";
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    _exit(127);
  }
  const Fd client(accept(listening.get(), nullptr, nullptr));
  Server(client.get(), model, image.get()).serve();
  int status = 0;
  waitpid(child, &status, 0);
  shell("rm -rf " + memory);
  model.compare();
  if (!model.why.empty()) printf("# %s\n", model.why.c_str());
  printf("# %llu writes and trims (%llu), %llu steps, %llu stale, %llu ranges freed, %llu KiB left out, %llu KiB as soon as they were somebody's; %llu readings, %llu thrown away; compared %llu times, %llu not\n",
         static_cast<unsigned long long>(model.writes), static_cast<unsigned long long>(model.trims), static_cast<unsigned long long>(model.steps), static_cast<unsigned long long>(model.stales), static_cast<unsigned long long>(model.freed),
         static_cast<unsigned long long>(model.dropped / 1024), static_cast<unsigned long long>(model.at_once / 1024), static_cast<unsigned long long>(model.readings), static_cast<unsigned long long>(model.refused),
         static_cast<unsigned long long>(model.compared), static_cast<unsigned long long>(model.unread));
  const bool ended = shell("grep -c 'GUEST: end done' guest.log || cat guest.log") == "1\n";
  if (!ended) printf("# %s\n", shell("tail -20 guest.log").c_str());
  ok(ended && model.why.empty() && model.freed > 0 && model.dropped > 0 && model.at_once > 0 && model.steps > 0 && model.compared > model.unread, one.title);
}

}  // namespace

int main(int count, char **words) {
  begin();
  const uint32_t rounds = count > 1 ? static_cast<uint32_t>(atoi(words[1])) : 120, seed = count > 2 ? static_cast<uint32_t>(atoi(words[2])) : 1;
  run({"ordered data, blocks of 4 KiB", "-b 4096", "data=ordered", 4096, seed, rounds});
  if (count > 1) {
    run({"ordered data, blocks of 1 KiB, no checksums", "-b 1024 -O ^metadata_csum,^64bit", "data=ordered", 1024, seed, rounds});
    run({"data written back whenever", "-b 4096", "data=writeback", 4096, seed, rounds});
    run({"data in the journal", "-b 4096", "data=journal", 4096, seed, rounds});
    run({"freed blocks are trimmed (discard)", "-b 4096", "discard", 4096, seed, rounds});
    run({"data written back whenever, commits every second, freed blocks are trimmed", "-b 1024", "data=writeback,commit=1,discard", 1024, seed, rounds});
    run({"bigalloc", "-b 4096 -O bigalloc -C 16384", "data=ordered", 4096, seed, rounds});
    run({"no delayed allocation, blocks of 1 KiB, commits every second", "-b 1024", "nodelalloc,commit=1", 1024, seed, rounds});
  }
  return finish();
}
