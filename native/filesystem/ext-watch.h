// The watch of an ext4 file system with a journal.
//
// What makes it safe is the order in which jbd2 writes: a block that is freed by a transaction is not used by anybody
// else before that transaction has committed; metadata come to their places only after their commit.
//
//   commit block passes -> the blocks of its transaction that are watched are looked at, as the journal has them
//     bitmaps                    what is left out and free now lapses
//     inodes and extent trees    of files that are left out: what they had and have no longer must have been freed
//     directories                above such files: each name must still be there, or the file be gone
//   a watched block is written in its place (a checkpoint, or a tool without a journal) -> it is looked at in the same way
//   superblocks                  of the file system and of the journal: another size, another life: stale
//
// Guarantees, of blocks that ranges() told and no verdict took away: as of the last commit each belongs to a file that is left
// out by all of its names; nothing else may have been written to it. Where the kernel does not keep to the order (data=writeback frees
// at once), a block has another owner in the transaction that takes it from the file: a step before that is visible; or it is
// free in that one, and its next owner, in the one behind it, has written already: recent-writes.h.
// Does not follow (these files are replicated): files without extents, or with more than kNodesMax blocks of them; files in directories that are inline.
#pragma once
#include "filesystem/watch.h"

namespace understudy::filesystem {
Result<std::unique_ptr<Watch>> watch_ext(const Space &space, const Listing &listing, const std::vector<uint8_t> &left_out, const std::vector<uint8_t> &whole,
                                         const Limits &limits);
}
