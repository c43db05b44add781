// The first pass over an ext2/3/4 file system: every inode in use, and every block that anything claims.
#pragma once
#include <string>
#include <vector>

#include "filesystem/ext-io.h"
#include "filesystem/reading.h"

namespace understudy::filesystem {

struct SeenInode {
  static constexpr uint32_t kDirectory = UINT32_MAX, kVisitedDirectory = UINT32_MAX - 1, kOther = UINT32_MAX - 2;
  uint32_t number;
  uint32_t what;  // index of a regular file, or one of the above
};

struct Inodes {
  std::vector<SeenInode> seen;        // by number
  std::vector<File> files;            // without extents and names
  std::vector<uint16_t> link_counts;  // of files, as the inode has it
  SeenInode *find(uint32_t number);
};

// An error ends the reading; what can be gone past is one of `problems`.
errcode_t claim_metadata(ext2_filsys fs, Claims &claims, Problems &problems);
errcode_t scan_inodes(ext2_filsys fs, Budget &budget, Inodes &inodes, Claims &claims, Problems &problems);

}  // namespace understudy::filesystem
