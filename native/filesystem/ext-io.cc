#include "filesystem/ext-io.h"

#include <et/com_err.h>

#include <cerrno>
#include <mutex>
#include <string>

namespace understudy::filesystem {
namespace {

struct Source {
  const Space *space;
  Budget *budget;
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

// count: blocks, or bytes when it is negative.
errcode_t read_blocks(io_channel channel, unsigned long long block, int count, void *data) {
  const Source &source = static_cast<Channel *>(channel)->source;
  if (!source.budget->goes_on()) return source.budget->error();
  const auto block_bytes = static_cast<uint64_t>(channel->block_size);
  const uint64_t bytes = count < 0 ? static_cast<uint64_t>(-static_cast<int64_t>(count)) : static_cast<uint64_t>(count) * block_bytes;
  if (block > source.space->size_bytes() / block_bytes) return EXT2_ET_SHORT_READ;
  const Status status = source.space->read(block * block_bytes, data, bytes);
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

errcode_t open_ext(const Space &space, Budget &budget, Ext &opened) {
  opening = {&space, &budget};
  ext2_filsys fs = nullptr;
  const errcode_t error = ext2fs_open2("", nullptr, EXT2_FLAG_64BITS | EXT2_FLAG_SKIP_MMP, 0, 0, &the_manager(), &fs);
  opening = {};
  if (error == 0) opened.reset(fs);
  return error;
}

std::string ext_error(errcode_t error) {
  static std::once_flag once;
  std::call_once(once, initialize_ext2_error_table);
  return error_message(error);
}

}  // namespace understudy::filesystem
