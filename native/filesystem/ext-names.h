// The second pass over an ext2/3/4 file system: directories from the root on, for the names of the files.
#pragma once
#include "filesystem/ext-inodes.h"

namespace understudy::filesystem {

// Fills files (with their links), links, directories, names. A file whose names were not all found is held; one without a name is counted
// and owns nothing that is listed. Marks directories of `inodes` as visited.
errcode_t read_names(ext2_filsys fs, Budget &budget, Inodes &inodes, Listing &listing, Problems &problems);

}  // namespace understudy::filesystem
