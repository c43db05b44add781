#include "filesystem/journal.h"

#include <endian.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/crc32c.h"

namespace understudy::filesystem {
namespace {

// include/linux/jbd2.h
constexpr uint32_t kMagic = 0xc03b3998;
constexpr uint32_t kDescriptor = 1, kCommit = 2, kSuperblockV1 = 3, kSuperblockV2 = 4, kRevoke = 5;
constexpr uint32_t kRevokes = 1, k64Bit = 2, kAsyncCommit = 4, kChecksumV2 = 8, kChecksumV3 = 16, kFastCommit = 32;
constexpr uint32_t kKnown = kRevokes | k64Bit | kChecksumV2 | kChecksumV3;
constexpr uint32_t kEscaped = 1, kSameUuid = 2, kDeleted = 4, kLastTag = 8;
constexpr size_t kHeaderBytes = 12, kUuidBytes = 16, kSuperblockBytes = 1024;
constexpr size_t kSuperblockUuid = 48, kSuperblockChecksum = 252, kCommitChecksum = 16;
constexpr uint8_t kCrc32c = 4;

uint32_t be32(const uint8_t *at) {
  uint32_t value;
  memcpy(&value, at, sizeof value);
  return be32toh(value);
}

// As jbd2_chksum(): not inverted at either end.
uint32_t checksum_of(uint32_t seed, const void *data, size_t bytes) { return ~crc32c(~seed, data, bytes); }

// With the checksum's own place taken for zeroes.
uint32_t checksum_without(uint32_t seed, const uint8_t *data, size_t bytes, size_t own) {
  static const uint8_t zeroes[4] = {};
  uint32_t sum = checksum_of(seed, data, own);
  sum = checksum_of(sum, zeroes, sizeof zeroes);
  return checksum_of(sum, data + own + sizeof zeroes, bytes - own - sizeof zeroes);
}

Status refused(const std::string &why) { return {ENOTSUP, "read the journal: " + why}; }

}  // namespace

Journal::Journal(Space space, std::vector<Run> runs, uint32_t block_bytes, uint64_t file_system_blocks)
    : space_(std::move(space)), runs_(std::move(runs)), block_bytes_(block_bytes), file_system_blocks_(file_system_blocks), block_(block_bytes) {
  for (const Run &run : runs_) start_ = end_ == 0 ? run.start : std::min(start_, run.start), end_ = std::max(end_, run.start + run.count);
}

uint64_t Journal::place(uint32_t block) const {
  auto run = std::upper_bound(runs_.begin(), runs_.end(), block, [](uint32_t at, const Run &one) { return at < one.first; });
  return (--run)->start + (block - run->first);
}

Status Journal::read(uint32_t block, void *data, size_t bytes) const { return space_.read(place(block) * block_bytes_, data, bytes); }

bool Journal::has_checksums() const { return head_.features & (kChecksumV2 | kChecksumV3); }

Result<JournalHead> Journal::read_head() const {
  if (runs_.empty() || runs_[0].first != 0) return refused("it has no blocks");
  uint8_t super[kSuperblockBytes];
  if (auto status = read(0, super, sizeof super); !status.ok()) return status;
  const uint32_t type = be32(super + 4);
  if (be32(super) != kMagic || (type != kSuperblockV1 && type != kSuperblockV2)) return refused("it has no superblock");
  JournalHead head;
  head.end = be32(super + 16), head.first = be32(super + 20), head.sequence = be32(super + 24), head.start = be32(super + 28);
  if (be32(super + 12) != block_bytes_) return refused("its blocks are of another size than the file system's");
  const uint64_t blocks = uint64_t{runs_.back().first} + runs_.back().count;
  if (head.first == 0 || head.first >= head.end || head.end > blocks) return refused("its size is odd");
  if (head.start != 0 && (head.start < head.first || head.start >= head.end)) return refused("its start lies outside");
  if (be32(super + 32) != 0) return refused("it was given up after an error");
  if (type == kSuperblockV2) {
    head.features = be32(super + 40);
    if (head.features & kFastCommit) return refused("it has fast commits");
    if (head.features & kAsyncCommit) return refused("its commits are asynchronous");
    if ((head.features & ~kKnown) != 0 || be32(super + 44) != 0) return refused("it has features that are not known");
    if (be32(super + 64) > 1) return refused("it is shared by several file systems");
  }
  head.seed = checksum_of(~0u, super + kSuperblockUuid, kUuidBytes);
  if (head.features & (kChecksumV2 | kChecksumV3)) {
    if ((head.features & kChecksumV2) && (head.features & kChecksumV3)) return refused("it has two kinds of checksums");
    if (super[80] != kCrc32c) return refused("its checksums are of a kind that is not known");
    if (be32(super + kSuperblockChecksum) != checksum_without(~0u, super, sizeof super, kSuperblockChecksum))
      return refused("the checksum of its superblock is wrong");
  }
  return head;
}

Journal::Step Journal::step(Cursor &cursor, Transaction &transaction) {
  if (auto status = read(cursor.at, block_.data(), block_bytes_); !status.ok()) return bad(status.message);
  if (be32(block_.data()) != kMagic || be32(block_.data() + 8) != cursor.sequence) return Step::kNothing;
  if (transaction.log_blocks++ > head_.end) return bad("a transaction that is larger than it");
  switch (be32(block_.data() + 4)) {
    case kDescriptor: return descriptor(cursor, transaction);
    case kRevoke: return revocation(cursor, transaction);
    case kCommit: return commit(cursor);
    default: return bad("a block of a kind that is not known");
  }
}

bool Journal::check_tail(const char *what) {
  if (!has_checksums()) return true;
  const size_t own = block_bytes_ - 4;
  if (be32(&block_[own]) == checksum_without(head_.seed, block_.data(), block_bytes_, own)) return true;
  bad_ = std::string("the checksum of a ") + what + " is wrong";
  return false;
}

Journal::Step Journal::descriptor(Cursor &cursor, Transaction &transaction) {
  if (!check_tail("descriptor")) return Step::kBad;
  const bool v3 = head_.features & kChecksumV3, v2 = head_.features & kChecksumV2, wide = head_.features & k64Bit;
  const size_t tag_bytes = v3 ? 16 : 8u + (v2 ? 2 : 0) + (wide ? 4 : 0), end = block_bytes_ - (has_checksums() ? 4 : 0);
  uint32_t where = after(cursor.at);
  for (size_t at = kHeaderBytes; at + tag_bytes <= end;) {
    const uint8_t *tag = &block_[at];
    const uint32_t flags = v3 ? be32(tag + 4) : be32(tag + 4) & 0xffff, checksum = v3 ? be32(tag + 12) : be32(tag + 4) >> 16;
    const uint64_t block = be32(tag) | (wide ? uint64_t{be32(tag + 8)} << 32 : 0);
    if (block >= file_system_blocks_ || flags & kDeleted) return bad("a block that is none of the file system's");
    if (transaction.blocks.size() >= head_.end) return bad("a transaction that is larger than it");
    transaction.blocks.push_back({block, where, checksum, cursor.sequence, (flags & kEscaped) != 0});
    where = after(where);
    at += tag_bytes + (flags & kSameUuid ? 0 : kUuidBytes);
    if (flags & kLastTag) break;
  }
  cursor.at = where;
  return Step::kMore;
}

Journal::Step Journal::revocation(Cursor &cursor, Transaction &transaction) {
  if (!check_tail("revocation")) return Step::kBad;
  const size_t number_bytes = head_.features & k64Bit ? 8 : 4, used = be32(&block_[kHeaderBytes]);
  if (used < kHeaderBytes + 4 || used > block_bytes_ - (has_checksums() ? 4 : 0)) return bad("a revocation whose size is odd");
  if (transaction.revoked.size() > uint64_t{head_.end} * block_bytes_ / 4) return bad("a transaction that is larger than it");
  for (size_t at = kHeaderBytes + 4; at + number_bytes <= used; at += number_bytes)
    transaction.revoked.push_back(number_bytes == 8 ? uint64_t{be32(&block_[at])} << 32 | be32(&block_[at + 4]) : be32(&block_[at]));
  cursor.at = after(cursor.at);
  return Step::kMore;
}

Journal::Step Journal::commit(Cursor &cursor) {
  if (has_checksums() && be32(&block_[kCommitChecksum]) != checksum_without(head_.seed, block_.data(), block_bytes_, kCommitChecksum))
    return bad("the checksum of a commit is wrong");
  cursor.at = after(cursor.at), cursor.sequence++;
  return Step::kCommitted;
}

Status Journal::load(const Logged &logged, uint8_t *data) const {
  if (auto status = read(logged.where, data, block_bytes_); !status.ok()) return status;
  if (has_checksums()) {
    const uint32_t sequence = htobe32(logged.sequence);
    uint32_t sum = checksum_of(head_.seed, &sequence, sizeof sequence);
    sum = checksum_of(sum, data, block_bytes_);
    if (logged.checksum != (head_.features & kChecksumV3 ? sum : sum & 0xffff)) return {EIO, "read the journal: the checksum of a block is wrong"};
  }
  const uint32_t magic = htobe32(kMagic);
  if (logged.escaped) memcpy(data, &magic, sizeof magic);
  return Status::good();
}

Status Committed::open(Journal from) {
  journal = std::move(from);
  const auto head = journal.read_head();
  if (!head.ok()) return head.status;
  journal.adopt(head.value);
  cursor = {journal.head().start, journal.head().sequence};
  if (cursor.at == 0) return Status::good();
  // No more than fits: a log in a circle would not end otherwise.
  Transaction transaction;
  Journal::Cursor at = cursor;
  for (uint32_t blocks = 0; blocks <= journal.head().end; blocks++) {
    const Journal::Step step = journal.step(at, transaction);
    if (step == Journal::Step::kNothing) return Status::good();
    if (step == Journal::Step::kBad) return {EIO, "read the journal: " + journal.bad()};
    if (step == Journal::Step::kMore) continue;
    take(transaction);
    transaction = {};
    cursor = at;
  }
  return refused("it does not end");
}

void Committed::take(const Transaction &transaction) {
  for (const Logged &one : transaction.blocks) {
    logged_[one.block] = one;
    by_age_.emplace_back(one.sequence, one.block);
  }
  for (const uint64_t block : transaction.revoked) logged_.erase(block);
}

void Committed::forget_before(uint32_t sequence) {
  for (; !by_age_.empty() && later(sequence, by_age_.front().first) > 0; by_age_.pop_front()) {
    const auto found = logged_.find(by_age_.front().second);
    if (found != logged_.end() && found->second.sequence == by_age_.front().first) logged_.erase(found);
  }
}

// While others write, a block of the log may be written over; its content is in place by then, and the superblock
// says so before that happens.
Status Committed::read(uint64_t offset, void *data, size_t bytes) const {
  if (auto status = space_.read(offset, data, bytes); !status.ok() || logged_.empty()) return status;
  std::vector<uint8_t> content(block_bytes_);
  for (uint64_t block = offset / block_bytes_; block * block_bytes_ < offset + bytes; block++) {
    const auto found = logged_.find(block);
    if (found == logged_.end()) continue;
    const uint64_t from = std::max(offset, block * block_bytes_), to = std::min(offset + bytes, (block + 1) * block_bytes_);
    uint8_t *into = static_cast<uint8_t *>(data) + (from - offset);
    const Status loaded = journal.load(found->second, content.data());
    if (others_write_) {
      const auto now = journal.read_head();
      if (!now.ok()) return now.status;
      if (now.value.start == 0 || later(now.value.sequence, found->second.sequence) > 0) {
        if (auto status = space_.read(from, into, to - from); !status.ok()) return status;
        continue;
      }
    }
    if (!loaded.ok()) return loaded;
    memcpy(into, content.data() + (from - block * block_bytes_), to - from);
  }
  return Status::good();
}

}  // namespace understudy::filesystem
