#include "filesystem/ext.h"

#include <cerrno>

#include "filesystem/ext-inodes.h"
#include "filesystem/ext-names.h"

namespace understudy::filesystem {
namespace {

constexpr uint64_t kSuperblockOffset = 1024;
constexpr uint32_t kBlocksPerGroupMin = 256;  // as mke2fs has it

Status failed(errcode_t error) { return {EIO, "read the file system: " + ext_error(error)}; }

// Whether it is worth opening: libext2fs allocates what the superblock asks for.
Status check_superblock(const Space &space, Budget &budget) {
  struct ext2_super_block super;
  if (auto status = space.read(kSuperblockOffset, &super, sizeof super); !status.ok()) return status;
  const auto bad = [](const std::string &what) { return Status{EINVAL, "read the file system: its superblock: " + what}; };
  const uint32_t incompatible = ext2fs_le32_to_cpu(super.s_feature_incompat), log_size = ext2fs_le32_to_cpu(super.s_log_block_size);
  if (ext2fs_le16_to_cpu(super.s_magic) != EXT2_SUPER_MAGIC) return bad("no signature");
  if (log_size > EXT2_MAX_BLOCK_LOG_SIZE - EXT2_MIN_BLOCK_LOG_SIZE) return bad("block size");
  const uint64_t block_bytes = uint64_t{EXT2_MIN_BLOCK_SIZE} << log_size, fits = space.size_bytes() / block_bytes;
  uint64_t blocks = ext2fs_le32_to_cpu(super.s_blocks_count);
  if (incompatible & EXT4_FEATURE_INCOMPAT_64BIT) blocks |= uint64_t{ext2fs_le32_to_cpu(super.s_blocks_count_hi)} << 32;
  if (blocks > fits) return bad(std::to_string(blocks) + " blocks, where " + std::to_string(fits) + " are");
  const uint32_t per_group = ext2fs_le32_to_cpu(super.s_blocks_per_group);
  if (per_group < kBlocksPerGroupMin) return bad("size of a block group");
  if (!budget.take((blocks / per_group + 1) * EXT2_MIN_DESC_SIZE_64BIT)) return Status::failed(budget.error(), "read the file system");
  return Status::good();
}

// A journal that is not known is told, and what lies in place is read. One that is torn is a problem.
errcode_t open_committed(const Space &space, Budget &budget, Committed &state, Ext &fs, Listing &listing, Problems &problems) {
  if (errcode_t error = open_ext(space, budget, fs)) return error;
  listing.journal_pending = ext2fs_has_feature_journal_needs_recovery(fs->super);
  if (!listing.journal_pending) return 0;
  auto journal = find_journal(fs.get(), space, budget);
  if (budget.error()) return budget.error();
  state = Committed(space, fs->blocksize);
  const Status status = journal.ok() ? state.open(std::move(journal.value)) : journal.status;
  listing.journal_unread = status.message;
  if (!status.ok() && status.error != ENOTSUP) problems.add("the journal (" + status.message + ")");
  if (!status.ok()) return 0;
  fs.reset();
  return open_ext(space, budget, fs, &state);
}

errcode_t read_once(const Space &space, Budget &budget, Listing &listing) {
  Committed state;
  Ext fs;
  Problems problems;
  if (errcode_t error = open_committed(space, budget, state, fs, listing, problems)) return error;
  Claims claims(budget, static_cast<uint32_t>(EXT2FS_CLUSTER_RATIO(fs.get())));
  Inodes inodes;
  if (errcode_t error = claim_metadata(fs.get(), claims, problems)) return budget.error() ? budget.error() : error;
  if (errcode_t error = scan_inodes(fs.get(), budget, inodes, claims, problems)) return error;
  if (errcode_t error = read_names(fs.get(), budget, inodes, listing, problems)) return error;
  if (errcode_t error = settle(claims, space, {fs->blocksize}, {}, budget, listing)) return error;
  listing.problems = problems.count, listing.first_problem = problems.first;
  return 0;
}

}  // namespace

Result<Listing> list_ext(const Space &space, const Limits &limits) {
  return read_repeatedly(limits, [&](Budget &budget, Listing &listing) {
    if (auto status = check_superblock(space, budget); !status.ok()) return status;
    const errcode_t error = read_once(space, budget, listing);
    return error ? failed(error) : Status::good();
  });
}

}  // namespace understudy::filesystem
