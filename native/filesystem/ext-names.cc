#include "filesystem/ext-names.h"

#include <algorithm>

namespace understudy::filesystem {
namespace {

struct Walk {
  Budget *budget;
  Inodes *inodes;
  Listing *listing;
  Problems *problems;
  std::vector<uint32_t> numbers;  // inode of each of listing->directories
  uint32_t current = 0;           // the directory that is being read
  errcode_t error = 0;
};

int visit_entry(ext2_ino_t, int, struct ext2_dir_entry *entry, int, int, char *, void *data) {
  auto *walk = static_cast<Walk *>(data);
  Listing &listing = *walk->listing;
  const auto bytes = static_cast<size_t>(ext2fs_dirent_name_len(entry));
  const std::string_view name(entry->name, bytes);
  if (entry->inode == 0 || name == "." || name == "..") return 0;
  const auto here = [&] { return "an entry of the directory with inode " + std::to_string(walk->numbers[walk->current]); };
  SeenInode *seen = walk->inodes->find(entry->inode);
  if (!seen || !is_name(name) || seen->what == SeenInode::kVisitedDirectory) return walk->problems->add(here()), 0;
  if (seen->what == SeenInode::kOther) return 0;
  Name added;
  if (!add_name(listing, *walk->budget, name, std::max(sizeof(Link), sizeof(Directory) + 4), added)) {
    walk->error = walk->budget->error();
    return DIRENT_ABORT;
  }
  if (seen->what != SeenInode::kDirectory) {
    listing.links.push_back({seen->what, walk->current, added.start, added.end});
    return 0;
  }
  seen->what = SeenInode::kVisitedDirectory;
  listing.directories.push_back({walk->current, added.start, added.end});
  walk->numbers.push_back(entry->inode);
  return 0;
}

}  // namespace

errcode_t read_names(ext2_filsys fs, Budget &budget, Inodes &inodes, Listing &listing, Problems &problems) {
  Walk walk{&budget, &inodes, &listing, &problems, {}, 0, 0};
  SeenInode *root = inodes.find(EXT2_ROOT_INO);
  if (!root || root->what != SeenInode::kDirectory) return EXT2_ET_NO_DIRECTORY;
  root->what = SeenInode::kVisitedDirectory;
  listing.directories.push_back({0, 0, 0});
  walk.numbers.push_back(EXT2_ROOT_INO);
  for (; walk.current < walk.numbers.size(); walk.current++) {
    const uint32_t number = walk.numbers[walk.current];
    const errcode_t error = ext2fs_dir_iterate2(fs, number, 0, nullptr, visit_entry, &walk);
    if (walk.error || budget.error()) return walk.error ? walk.error : budget.error();
    if (error) problems.add("the directory with inode " + std::to_string(number) + " (" + ext_error(error) + ")");
  }

  listing.files = std::move(inodes.files);
  if (!budget.take((listing.files.size() + walk.numbers.size()) * sizeof(uint32_t))) return budget.error();
  for (const SeenInode &one : inodes.seen)
    if (one.what < listing.files.size()) listing.file_inodes.push_back(one.number);
  listing.directory_inodes = std::move(walk.numbers);
  give_links_to_files(listing);
  for (size_t i = 0; i < listing.files.size(); i++) {
    File &file = listing.files[i];
    if (file.link_count == 0) listing.nameless_files++;
    if (file.link_count == 0 || file.link_count != inodes.link_counts[i]) file.held |= kNamesMissing;
  }
  return 0;
}

}  // namespace understudy::filesystem
