// What libext2fs reads through: a Space, never written, within a Budget; in place, or as of the last commit.
#pragma once
#include <ext2fs/ext2fs.h>

#include <memory>

#include "filesystem/budget.h"
#include "filesystem/journal.h"
#include "filesystem/space.h"

namespace understudy::filesystem {

struct FreeExt {
  void operator()(ext2_filsys fs) const { ext2fs_free(fs); }  // unlike ext2fs_close, never writes
};
using Ext = std::unique_ptr<struct struct_ext2_filsys, FreeExt>;

// What went wrong as one of libext2fs' numbers; 0: `opened` is set. Space, budget and state must outlive it.
// state: read as of that; null: what lies in place.
errcode_t open_ext(const Space &space, Budget &budget, Ext &opened, const Committed *state = nullptr);
// The journal of a file system that was opened as it lies in place. An error says why it cannot be read.
Result<Journal> find_journal(ext2_filsys fs, const Space &space, Budget &budget);
std::string ext_error(errcode_t error);

}  // namespace understudy::filesystem
