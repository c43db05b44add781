// Listing: all regular files of a file system, by name, with the bytes of the device that may be left out for each.
//
// Guarantees: an extent is data of one regular file that nothing else that was found claims, and lies inside the file
// system's space. A file for which that is not certain has no extents, and `held` says why. So whoever leaves out only
// extents never leaves out metadata, a journal, a directory, or anything whose owner is not known.
// Made for large numbers: names are kept once, paths are put together by who needs them (100 bytes a file, 24 an extent).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace understudy::filesystem {

// Why all of a file must be replicated.
enum Held : uint32_t {
  kInline = 1,         // its data lie in the inode
  kEncrypted = 2,      // its name cannot be read
  kCompressed = 4,     // no kernel of today's does that
  kVerity = 8,         // behind its data lies the tree that its reads are checked with
  kJournaledData = 16,  // its data go through the journal
  kNamesMissing = 32,  // not all of its names were found
  kShared = 64,        // something else claims a block of it
  kDamaged = 128,      // where its blocks are cannot be read
  kReparsePoint = 256,  // NTFS: what it reads as is said elsewhere (deduplicated, a link, kept by a cloud)
};

struct File {
  uint64_t size_bytes = 0;
  uint64_t data_bytes = 0;       // on the device, also of a file that is held
  uint64_t unwritten_bytes = 0;  // of these: reserved, and read as zeroes
  uint32_t held = 0;             // Held bits; 0: may be left out
  uint32_t first_link = 0, link_count = 0;
};

// Names are bytes [name_start, name_end) of Listing::names, as they are on the device: mostly UTF-8.
struct Directory {
  uint32_t parent;  // of the root: itself
  uint32_t name_start, name_end;
};
struct Link {
  uint32_t file;
  uint32_t directory;
  uint32_t name_start, name_end;
};

struct Extent {
  uint64_t offset, bytes;  // of the device
  uint32_t file;
};

// Bytes of the device.
struct Place {
  uint64_t offset, bytes;
};

struct Listing {
  std::vector<File> files;
  std::vector<Link> links;             // by file
  std::vector<Directory> directories;  // [0] is the root; a parent comes before its children
  std::string names;
  std::vector<Extent> extents;  // by offset; disjoint
  uint64_t nameless_files = 0;  // regular files without a name (deleted while open): replicated
  std::vector<uint32_t> file_inodes, directory_inodes;  // one for each; of ext2/3/4 only
  bool journal_pending = false;  // mounted, or not left cleanly: this is as of the last commit, unless
  std::string journal_unread;    // not empty: the journal cannot be read, so that it is what lies in place, and why
  // What could not be read or contradicts itself. While there is anything, something may own blocks that nobody knows of:
  // nothing of the file system may be left out.
  uint64_t problems = 0;
  std::string first_problem;
};

}  // namespace understudy::filesystem
