#include "filesystem/ext-watch.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <thread>

#include "filesystem/ext-examine.h"
#include "filesystem/ext-free.h"
#include "filesystem/ext-inodes.h"
#include "filesystem/ext-io.h"
#include "filesystem/recent-writes.h"

namespace understudy::filesystem {
namespace {

constexpr auto kPause = std::chrono::milliseconds(100);
constexpr uint64_t kSuperblockOffset = 1024;
constexpr size_t kInPlaceMax = 8192;  // watched blocks that one write may touch

Status refused(const std::string &why) { return {ENOTSUP, "watch the file system: " + why}; }

class ExtWatch final : public Watch {
 public:
  explicit ExtWatch(const Space &space) : space_(space) {}

  // On a worker. EAGAIN: something changed meanwhile.
  Status read(const Listing &listing, const std::vector<uint8_t> &left_out, const std::vector<uint8_t> &whole, Budget &budget) {
    if (auto status = space_.read(kSuperblockOffset, &super_, sizeof super_); !status.ok()) return status;
    if (auto status = read_layout(budget); !status.ok()) return status;
    if (auto status = read_state(committed_, space_, listing, left_out, whole, budget, state_); !status.ok()) return status;
    Findings findings;
    Examination(state_, [&](uint64_t block, uint8_t *data) { return committed_.read_block(block, data).ok(); }, Examination::Of::kTransaction, building_, findings).complete();
    catch_up(findings);
    if (!findings.stale.empty()) return {EAGAIN, "watch the file system: " + findings.stale};
    for (const auto &[start, run] : state_.left_out) map(start, run.blocks, ranges_);
    std::sort(ranges_.begin(), ranges_.end(), [](const ByteRange &a, const ByteRange &b) { return a.offset < b.offset; });
    return Status::good();
  }

  std::vector<ByteRange> ranges() const override {
    std::vector<ByteRange> joined;
    for (const ByteRange &one : ranges_) {
      if (joined.empty() || joined.back().offset + joined.back().bytes < one.offset) joined.push_back(one);
      else joined.back().bytes = std::max(joined.back().bytes, one.offset + one.bytes - joined.back().offset);
    }
    return joined;
  }

  Verdict start(const Watch *before) override {
    Findings findings;
    catch_up(findings);
    const auto *old = dynamic_cast<const ExtWatch *>(before);
    if (old && !old->spent_ && old->state_.geometry.identity == state_.geometry.identity) recent_ = old->recent_;
    else recent_.add_all();
    committed_.nobody_writes();
    committed_.forget_before(committed_.journal.head().sequence);
    building_ = false;
    return verdict(findings, false);
  }

  Verdict wrote(uint64_t offset, uint64_t bytes) override {
    if (spent_ || bytes == 0) return {};
    bool super = false, head = false, log = false;
    in_place_.clear(), log_pieces_.clear(), torn_ = false;
    const uint64_t size = state_.geometry.block_bytes;
    space_.unmap(offset, bytes, [&](uint64_t at, uint64_t run) {
      const uint64_t first = at / size, last = (at + run - 1) / size;
      const auto holds = [&](uint64_t block) { return first <= block && block <= last; };
      recent_.add(first, last);
      super = super || (at < kSuperblockOffset + sizeof super_ && at + run > kSuperblockOffset);
      head = head || holds(committed_.journal.place(0));
      if (committed_.cursor.at != 0 && committed_.journal.spans(first, last)) log = touches_log(at, run) || log, log_pieces_.push_back({at, run});
      for (uint64_t block = first; block <= last;) {
        if (!state_.may_watch(block)) {
          block = (block / ExtState::kChunkBlocks + 1) * ExtState::kChunkBlocks;
          continue;
        }
        if (state_.watches(block) && in_place_.size() <= kInPlaceMax) in_place_.push_back(block);
        block++;
      }
    });
    if (!super && !head && !log && in_place_.empty()) return glance_at_log(), Verdict{};
    Findings findings;
    const uint32_t before = committed_.cursor.sequence;
    if (in_place_.size() > kInPlaceMax) findings.stale = "more metadata than is looked at was written at once";
    if (super) look_at_superblock(findings);
    if (head) look_at_head(findings), log = true;
    if (!in_place_.empty() && findings.goes_on()) examine_in_place(findings);
    if (log && findings.goes_on()) read_log(findings);
    if (findings.goes_on()) glance_at_log();
    Verdict said = verdict(findings, true);
    said.committed = committed_.cursor.sequence != before;
    if (said.committed) recent_.clear();
    return said;
  }

  // Not while it is not mounted: a tool takes blocks without a commit.
  void nobodys(uint64_t offset, uint64_t bytes, const std::function<void(uint64_t, uint64_t)> &visit) override {
    if (spent_ || building_ || bytes == 0 || committed_.cursor.at == 0) return;
    const uint64_t size = state_.geometry.block_bytes;
    space_.unmap(offset, bytes, [&](uint64_t at, uint64_t run) {
      free_.within(state_, committed_, at / size, (at + run - 1) / size, [&](uint64_t start, uint64_t blocks) {
        const uint64_t from = std::max(at, start * size), to = std::min(at + run, (start + blocks) * size);
        space_.map(from, to - from, [&](uint64_t place, uint64_t length) { visit(place, length); });
      });
    });
  }

 private:
  Status read_layout(Budget &budget) {
    Ext fs;
    if (errcode_t error = open_ext(space_, budget, fs)) return budget.error() ? Status::failed(budget.error(), "watch the file system") : Status{EAGAIN, "watch the file system: " + ext_error(error)};
    auto journal = find_journal(fs.get(), space_, budget);
    if (!journal.ok()) return journal.status;
    committed_ = Committed(space_, fs->blocksize);
    if (is_mounted(super_)) {
      if (auto status = committed_.open(std::move(journal.value)); !status.ok()) return status;
      fs.reset();
      if (errcode_t error = open_ext(space_, budget, fs, &committed_)) return {EAGAIN, "watch the file system: " + ext_error(error)};
    } else {
      const auto head = journal.value.read_head();
      if (!head.ok()) return head.status;
      if (head.value.start != 0) return refused("its journal has not been replayed");
      journal.value.adopt(head.value);
      committed_.journal = std::move(journal.value), committed_.cursor = {0, head.value.sequence};
    }
    at_ = committed_.cursor;
    state_.geometry = read_geometry(fs.get());
    if (auto status = read_fixed(fs.get(), budget); !status.ok()) return status;
    if (fs->group_desc_count == 0 || !fits()) return refused("its layout is odd");
    return Status::good();
  }
  Status read_fixed(ext2_filsys fs, Budget &budget) {
    Problems problems;
    Claims claims(budget, 1);
    if (errcode_t error = claim_metadata(fs, claims, problems)) return {EAGAIN, "watch the file system: " + ext_error(error)};
    for (const Claim &claim : claims.all()) state_.fixed.push_back({claim.start, static_cast<uint32_t>(claim.blocks)});
    std::sort(state_.fixed.begin(), state_.fixed.end(), [](const Run &a, const Run &b) { return a.start < b.start; });
    std::vector<Run> joined;
    for (const Run &one : state_.fixed) {
      const uint64_t end = joined.empty() ? 0 : joined.back().start + joined.back().blocks;
      if (one.start > end || joined.empty() || one.start + one.blocks - joined.back().start > UINT32_MAX) joined.push_back(one);
      else if (one.start + one.blocks > end) joined.back().blocks = static_cast<uint32_t>(one.start + one.blocks - joined.back().start);
    }
    state_.fixed = std::move(joined);
    return Status::good();
  }
  // One group's bitmap is one block.
  bool fits() const {
    const Geometry &geometry = state_.geometry;
    const auto inside = [&](uint64_t block) { return block < geometry.blocks; };
    const uint64_t groups = geometry.bitmaps.size();
    return geometry.blocks_per_group / geometry.cluster_blocks <= geometry.block_bytes * 8 && geometry.block_bytes % geometry.inode_bytes == 0 &&
           geometry.inodes <= groups * geometry.inodes_per_group && std::all_of(geometry.bitmaps.begin(), geometry.bitmaps.end(), inside) &&
           std::all_of(geometry.inode_tables.begin(), geometry.inode_tables.end(), inside);
  }

  // What was committed since the reading. While others write, the oldest of it may be written over: the log is written
  // in a circle, so that all of it was there as long as the first block still is.
  void catch_up(Findings &findings) {
    struct ext2_super_block super;
    if (!space_.read(kSuperblockOffset, &super, sizeof super).ok() || identity_of(super) != state_.geometry.identity || is_mounted(super) != is_mounted(super_) ||
        (!is_mounted(super) && memcmp(&super, &super_, sizeof super) != 0)) {
      findings.stale = "its superblock has changed";
      return;
    }
    // A transaction that was being written is read again.
    restart_transaction();
    const Journal::Cursor from = committed_.cursor;
    auto head = committed_.journal.read_head();
    if (from.at == 0 && head.ok() && head.value.start != 0) {
      if (head.value.sequence != from.sequence) return stale(findings, "its journal has begun anew");
      begin(head.value);
    }
    const Journal::Cursor first = committed_.cursor;
    read_log(findings);
    if (!findings.goes_on()) return;
    head = committed_.journal.read_head();
    if (!head.ok()) return stale(findings, head.status.message);
    if (first.sequence != committed_.cursor.sequence) {
      Transaction again;
      Journal::Cursor cursor = first;
      if (const auto step = committed_.journal.step(cursor, again); step == Journal::Step::kNothing || step == Journal::Step::kBad)
        return stale(findings, "its journal is written faster than it is read");
    }
    if (head.value.start == 0 ? head.value.sequence != committed_.cursor.sequence : later(head.value.sequence, committed_.cursor.sequence) > 0)
      return stale(findings, "its journal has begun anew");
    if (head.value.start == 0) committed_.cursor.at = 0, at_ = committed_.cursor;
    committed_.journal.adopt(head.value);
  }

  static void stale(Findings &findings, const std::string &why) { findings.stale = why; }

  void begin(const JournalHead &head) {
    committed_.journal.adopt(head);
    committed_.cursor = {head.start, head.sequence};
    restart_transaction();
  }

  // A tool that writes without the journal, and the kernel when it unmounts, leave a superblock without the mark.
  void look_at_superblock(Findings &findings) {
    struct ext2_super_block super;
    if (auto status = space_.read(kSuperblockOffset, &super, sizeof super); !status.ok()) return stale(findings, status.message);
    if (identity_of(super) != state_.geometry.identity) return stale(findings, "its superblock has changed");
    if (!is_mounted(super)) return stale(findings, "it was unmounted, or a tool has written to it");
  }

  void look_at_head(Findings &findings) {
    const auto read = committed_.journal.read_head();
    if (!read.ok()) return stale(findings, read.status.message);
    const JournalHead &head = read.value, &before = committed_.journal.head();
    const Journal::Cursor &cursor = committed_.cursor;
    const int32_t ahead = later(head.sequence, cursor.sequence);
    if (head.first != before.first || head.end != before.end) return stale(findings, "its journal was made anew");
    // An empty journal begins again, perhaps with other checksums: at a mount.
    if (cursor.at == 0) {
      if (ahead < 0) return stale(findings, "its journal has begun anew");
      if (head.start != 0) begin(head);
      else committed_.journal.adopt(head), committed_.cursor.sequence = head.sequence, at_ = committed_.cursor;
      return;
    }
    constexpr uint32_t kRevokes = 1;  // said as soon as there is one
    if (head.seed != before.seed || (head.features | kRevokes) != (before.features | kRevokes)) return stale(findings, "its journal was changed");
    if (head.start == 0) {
      // One more: when it is unmounted.
      if (ahead < 0 || ahead > 1) return stale(findings, "its journal has begun anew");
      committed_.forget_before(cursor.sequence);
      committed_.journal.adopt(head);
      committed_.cursor = {0, head.sequence};
      return restart_transaction();
    }
    // Recovered: it goes on with other numbers.
    if (ahead > 0 || later(before.sequence, head.sequence) > 0 || (ahead == 0 && head.start != cursor.at)) return stale(findings, "its journal was recovered");
    committed_.journal.adopt(head);
    committed_.forget_before(head.sequence);
  }

  // Whether the log goes on with this write: at the block that comes next, or at one that was read already, as a client
  // may write a block in pieces: then the transaction is read again from where it begins.
  bool touches_log(uint64_t at, uint64_t bytes) {
    const uint64_t size = state_.geometry.block_bytes, end = at + bytes;
    const auto meets = [&](uint64_t block) { return at < (block + 1) * size && end > block * size; };
    const auto torn = [&](uint64_t block) { return at > block * size || end < (block + 1) * size; };
    const uint64_t next = committed_.journal.place(at_.at);
    if (meets(next)) return torn_ |= torn(next), true;
    for (const uint64_t block : steps_)
      if (meets(block)) return torn_ |= torn(block), restart_transaction(), true;
    return false;
  }
  void restart_transaction() { at_ = committed_.cursor, transaction_ = {}, steps_.clear(), glances_.clear(), logged_at_.clear(); }

  // What has come into the log with this write and is no descriptor.
  void glance_at_log() {
    if (logged_at_.empty()) return;
    const uint64_t size = state_.geometry.block_bytes;
    for (const ByteRange &piece : log_pieces_) {
      for (uint64_t block = piece.offset / size; block * size < piece.offset + piece.bytes; block++) {
        const auto at = logged_at_.find(block);
        if (at == logged_at_.end()) continue;
        const Logged &logged = transaction_.blocks[at->second];
        const bool whole = block * size >= piece.offset && (block + 1) * size <= piece.offset + piece.bytes;
        content_.resize(size);
        glances_[at->second] = whole ? glance(state_, logged.block, [&](uint8_t *data) { return committed_.journal.load(logged, data).ok(); }, content_) : Glance::kUnseen;
      }
    }
  }

  void read_log(Findings &findings) {
    while (findings.goes_on() && committed_.cursor.at != 0) {
      const uint64_t place = committed_.journal.place(at_.at);
      const size_t blocks_before = transaction_.blocks.size(), revoked_before = transaction_.revoked.size();
      const auto step = committed_.journal.step(at_, transaction_);
      if (step == Journal::Step::kNothing) return;
      if (step == Journal::Step::kBad && torn_) return transaction_.blocks.resize(blocks_before), transaction_.revoked.resize(revoked_before);
      if (step == Journal::Step::kBad) return stale(findings, "its journal: " + committed_.journal.bad());
      steps_.push_back(place);
      for (size_t i = glances_.size(); i < transaction_.blocks.size(); i++) {
        glances_.push_back(Glance::kUnseen);
        if (!building_) logged_at_[committed_.journal.place(transaction_.blocks[i].where)] = static_cast<uint32_t>(i);
      }
      if (step == Journal::Step::kMore) continue;
      committed_.take(transaction_), committed_.cursor = at_;
      const Transaction whole = std::move(transaction_);
      const std::vector<Glance> glances = std::exchange(glances_, {});
      restart_transaction();
      std::vector<uint64_t> blocks;
      for (const Logged &one : whole.blocks) blocks.push_back(one.block);
      free_.forget(state_, blocks);
      Examination(state_, [&](uint64_t block, uint8_t *data) { return committed_.read_block(block, data).ok(); }, Examination::Of::kTransaction, building_, findings)
          .run(blocks, glances);
    }
  }

  void examine_in_place(Findings &findings) {
    std::sort(in_place_.begin(), in_place_.end());
    const uint64_t size = state_.geometry.block_bytes;
    const LoadBlock load = [&](uint64_t block, uint8_t *data) {
      const bool here = std::binary_search(in_place_.begin(), in_place_.end(), block);
      return (here ? space_.read(block * size, data, size) : committed_.read_block(block, data)).ok();
    };
    Examination(state_, load, Examination::Of::kPlace, building_, findings).run(in_place_, {});
    if (findings.changed) std::fill(glances_.begin(), glances_.end(), Glance::kUnseen);
    findings.look = false;  // a checkpoint says nothing new
  }

  void map(uint64_t start, uint64_t blocks, std::vector<ByteRange> &into) const {
    const uint64_t size = state_.geometry.block_bytes;
    space_.map(start * size, blocks * size, [&](uint64_t offset, uint64_t bytes) { into.push_back({offset, bytes}); });
  }

  Verdict verdict(const Findings &findings, bool in_force) {
    Verdict verdict;
    verdict.look = findings.look;
    if (!findings.goes_on()) {
      verdict.kind = findings.stale.empty() ? Verdict::kStep : Verdict::kStale;
      verdict.why = findings.stale.empty() ? findings.step : findings.stale;
      spent_ = true, state_ = {}, committed_ = {};
      return verdict;
    }
    for (const Run &run : findings.freed) {
      map(run.start, run.blocks, verdict.freed);
      if (in_force) recent_.within(run.start, run.blocks, [&](uint64_t start, uint64_t blocks) { map(start, blocks, verdict.written); });
    }
    for (const Run &run : findings.taken) {
      auto at = state_.left_out.lower_bound(run.start);
      for (; at != state_.left_out.end() && at->first < run.start + run.blocks; ++at) map(at->first, at->second.blocks, verdict.left_out);
    }
    if (!verdict.freed.empty()) verdict.kind = Verdict::kFreed;
    return verdict;
  }

  const Space space_;
  struct ext2_super_block super_;  // as it was when the reading began
  Committed committed_;            // its cursor stands behind the last commit
  Journal::Cursor at_;             // in the transaction that has begun
  Transaction transaction_;
  std::vector<uint64_t> steps_;    // blocks of the file system with its descriptors
  std::vector<Glance> glances_;    // of its blocks
  std::unordered_map<uint64_t, uint32_t> logged_at_;  // block of the file system in the log -> which of its blocks
  std::vector<ByteRange> log_pieces_;                 // of the file system: what the write that is looked at has of the log
  std::vector<uint8_t> content_;
  bool torn_ = false;              // the write that is looked at is a piece of a block of the log
  RecentWrites recent_;
  FreeBlocks free_;
  ExtState state_;
  std::vector<ByteRange> ranges_;
  std::vector<uint64_t> in_place_;
  bool building_ = true;  // nothing is in force yet: what is doubtful is given up
  bool spent_ = false;
};

}  // namespace

Result<std::unique_ptr<Watch>> watch_ext(const Space &space, const Listing &listing, const std::vector<uint8_t> &left_out, const std::vector<uint8_t> &whole,
                                         const Limits &limits) {
  if (listing.problems != 0) return refused("parts of it could not be read");
  if (!listing.journal_unread.empty()) return Status{ENOTSUP, listing.journal_unread};
  const auto until = std::chrono::steady_clock::now() + limits.time_max;
  for (int attempt = 1;; attempt++) {
    Limits left = limits;
    left.time_max = std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    Budget budget(left);
    auto watch = std::make_unique<ExtWatch>(space);
    const Status status = watch->read(listing, left_out, whole, budget);
    if (status.ok()) return std::unique_ptr<Watch>(std::move(watch));
    if ((status.error != EAGAIN && status.error != EIO) || attempt >= limits.attempts) return status;
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace understudy::filesystem
