#include "filesystem/ext-io.h"

#include <et/com_err.h>

#include <cerrno>
#include <mutex>
#include <string>
#include <vector>

namespace understudy::filesystem {
namespace {

struct Source {
  const Space *space;
  Budget *budget;
  const Committed *state;
};
struct_io_manager &the_manager();
// libext2fs takes a name where we have an object; it calls open() on the thread that opens.
thread_local Source opening;

struct Channel : struct_io_channel {
  Source source;
};

errcode_t open_channel(const char *, int, io_channel *channel) {
  auto *made = new Channel{};
  made->magic = EXT2_ET_MAGIC_IO_CHANNEL;
  made->manager = &the_manager();
  made->block_size = 1024;
  made->refcount = 1;
  made->source = opening;
  *channel = made;
  return 0;
}

errcode_t close_channel(io_channel channel) {
  if (--channel->refcount <= 0) delete static_cast<Channel *>(channel);
  return 0;
}

errcode_t set_block_size(io_channel channel, int bytes) {
  channel->block_size = bytes;
  return 0;
}

struct Runs {
  Budget *budget;
  std::vector<Journal::Run> runs;
  uint64_t blocks = 0, end;
  bool odd = false;
};

int visit_journal(ext2_filsys, blk64_t *block, e2_blkcnt_t position, blk64_t, int, void *data) {
  auto *found = static_cast<Runs *>(data);
  found->odd |= static_cast<uint64_t>(position) != found->blocks || *block == 0 || *block >= found->end || position > UINT32_MAX - 1;
  if (found->odd || (position % 1024 == 0 && !found->budget->goes_on())) return BLOCK_ABORT;
  if (!found->runs.empty() && found->runs.back().start + found->runs.back().count == *block) found->runs.back().count++;
  else if (found->budget->take(sizeof(Journal::Run))) found->runs.push_back({static_cast<uint32_t>(position), 1, *block});
  else return BLOCK_ABORT;
  found->blocks++;
  return 0;
}

// count: blocks, or bytes when it is negative.
errcode_t read_blocks(io_channel channel, unsigned long long block, int count, void *data) {
  const Source &source = static_cast<Channel *>(channel)->source;
  if (!source.budget->goes_on()) return source.budget->error();
  const auto block_bytes = static_cast<uint64_t>(channel->block_size);
  const uint64_t bytes = count < 0 ? static_cast<uint64_t>(-static_cast<int64_t>(count)) : static_cast<uint64_t>(count) * block_bytes;
  if (block > source.space->size_bytes() / block_bytes) return EXT2_ET_SHORT_READ;
  const Status status = source.state ? source.state->read(block * block_bytes, data, bytes) : source.space->read(block * block_bytes, data, bytes);
  return status.ok() ? 0 : status.error == EIO ? EXT2_ET_SHORT_READ : status.error;
}

errcode_t read_blocks_32(io_channel channel, unsigned long block, int count, void *data) {
  return read_blocks(channel, block, count, data);
}

errcode_t write_refused(io_channel, unsigned long, int, const void *) { return EXT2_ET_RO_FILSYS; }
errcode_t write_refused_64(io_channel, unsigned long long, int, const void *) { return EXT2_ET_RO_FILSYS; }
errcode_t nothing_to_flush(io_channel) { return 0; }

struct_io_manager &the_manager() {
  static struct_io_manager made{};
  made.magic = EXT2_ET_MAGIC_IO_MANAGER;
  made.name = "understudy";
  made.open = open_channel, made.close = close_channel, made.set_blksize = set_block_size;
  made.read_blk = read_blocks_32, made.read_blk64 = read_blocks;
  made.write_blk = write_refused, made.write_blk64 = write_refused_64, made.flush = nothing_to_flush;
  return made;
}

}  // namespace

errcode_t open_ext(const Space &space, Budget &budget, Ext &opened, const Committed *state) {
  opening = {&space, &budget, state};
  ext2_filsys fs = nullptr;
  const errcode_t error = ext2fs_open2("", nullptr, EXT2_FLAG_64BITS | EXT2_FLAG_SKIP_MMP, 0, 0, &the_manager(), &fs);
  opening = {};
  if (error == 0) opened.reset(fs);
  return error;
}

Result<Journal> find_journal(ext2_filsys fs, const Space &space, Budget &budget) {
  const auto refused = [](const std::string &why) { return Status{ENOTSUP, "read the journal: " + why}; };
  const struct ext2_super_block &super = *fs->super;
  if (!ext2fs_has_feature_journal(fs->super)) return refused("the file system has no journal");
  if (super.s_journal_inum == 0 || super.s_journal_dev != 0) return refused("it is on another device");
  if (super.s_journal_inum != EXT2_JOURNAL_INO) return refused("it has an odd place");
  if (ext2fs_has_feature_fast_commit(fs->super)) return refused("it has fast commits");
  Runs found{&budget, {}, 0, ext2fs_blocks_count(fs->super)};
  const errcode_t error = ext2fs_block_iterate3(fs, EXT2_JOURNAL_INO, BLOCK_FLAG_READ_ONLY | BLOCK_FLAG_DATA_ONLY, nullptr, visit_journal, &found);
  if (budget.error()) return Status::failed(budget.error(), "read the journal");
  if (error || found.odd) return refused(error ? ext_error(error) : "its blocks are odd");
  return Journal(space, std::move(found.runs), fs->blocksize, found.end);
}

std::string ext_error(errcode_t error) {
  static std::once_flag once;
  std::call_once(once, initialize_ext2_error_table);
  return error_message(error);
}

}  // namespace understudy::filesystem
