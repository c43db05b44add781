// Real file systems for the tests of native/filesystem: made by mke2fs from a tree of files, changed by debugfs, without mounting.
//
// Each regular file has a tag, and every sector of its content begins with it. So the image itself says which sectors
// are a file's data: what a listing tells can be held against it, byte for byte.
#pragma once
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/fd.h"
#include "filesystem/filesystem.h"

namespace filesystem_test {
using namespace understudy::filesystem;
using understudy::Fd;

inline constexpr uint64_t kMiB = 1u << 20, kSector = 512;
inline int tests = 0, failures = 0;
inline std::string directory;  // scratch

inline void ok(bool good, const std::string &title) {
  printf("%sok %d - %s\n", good ? "" : "not ", ++tests, title.c_str());
  fflush(stdout);
  failures += !good;
}

inline void must(bool good, const std::string &what) {
  if (good) return;
  fprintf(stderr, "# %s: errno %d\n", what.c_str(), errno);
  abort();
}

inline std::string shell(const std::string &command) {
  FILE *pipe = popen(("PATH=$PATH:/usr/sbin:/sbin; cd " + directory + " && { " + command + "; } 2>&1").c_str(), "r");
  must(pipe, "popen");
  std::string output;
  char part[4096];
  for (size_t n; (n = fread(part, 1, sizeof part, pipe)) > 0;) output.append(part, n);
  if (pclose(pipe) != 0) fprintf(stderr, "# failed: %s\n%s", command.c_str(), output.c_str());
  return output;
}

inline Fd open_image(const std::string &name, int flags = O_RDONLY) {
  Fd fd(open((directory + "/" + name).c_str(), flags | O_CLOEXEC, 0600));
  must(static_cast<bool>(fd), "open " + name);
  return fd;
}

// A sector of a file with this tag.
inline std::string sector_of(uint32_t tag, uint64_t number) {
  char text[kSector];
  memset(text, 'a' + static_cast<int>(tag % 26), sizeof text);
  memset(text, 0, 64);
  snprintf(text, 64, "understudy file %u %llu", tag, static_cast<unsigned long long>(number));
  return std::string(text, sizeof text);
}
inline bool tag_of(const char *sector, uint32_t &tag) { return sscanf(sector, "understudy file %u ", &tag) == 1; }

// Writes `bytes` (whole sectors) of the tag's content at `offset`; with a step, a block of `bytes` every `step` up to `end`.
inline void put_file(const std::string &path, uint32_t tag, uint64_t bytes, uint64_t offset = 0, uint64_t step = 0, uint64_t end = 0) {
  Fd fd = open_image(path, O_WRONLY | O_CREAT);
  for (uint64_t at = offset; at == offset || (step && at < end); at += step ? step : 1) {
    std::string content;
    for (uint64_t i = 0; i < bytes; i += kSector) content += sector_of(tag, (at + i) / kSector);
    must(pwrite(fd.get(), content.data(), content.size(), static_cast<off_t>(at)) == static_cast<ssize_t>(content.size()), "write " + path);
    if (!step) break;
  }
}

inline std::string path_of(const Listing &listing, uint32_t name_start, uint32_t name_end, uint32_t directory) {
  std::string path = listing.names.substr(name_start, name_end - name_start);
  for (uint32_t at = directory;; at = listing.directories[at].parent) {
    const Directory &one = listing.directories[at];
    if (at == 0) return "/" + path;
    path = listing.names.substr(one.name_start, one.name_end - one.name_start) + "/" + path;
  }
}

inline std::string path_of(const Listing &listing, const Link &link) { return path_of(listing, link.name_start, link.name_end, link.directory); }
inline std::string path_of(const Listing &listing, const Directory &one) { return path_of(listing, one.name_start, one.name_end, one.parent); }

inline std::vector<Extent> extents_of(const Listing &listing, const std::string &path) {
  std::vector<Extent> found;
  for (const Link &link : listing.links)
    if (path_of(listing, link) == path)
      for (const Extent &extent : listing.extents)
        if (extent.file == link.file) found.push_back(extent);
  return found;
}

// The file that has this path; null: none.
inline const File *file_at(const Listing &listing, const std::string &path) {
  for (const Link &link : listing.links)
    if (path_of(listing, link) == path) return &listing.files[link.file];
  return nullptr;
}
inline uint32_t held(const Listing &listing, const std::string &path) {
  const File *file = file_at(listing, path);
  return file ? file->held : UINT32_MAX;
}

// Every sector of the image that carries a tag lies in an extent of the file `tags` names for it, unless the file is held
// or not named; and every sector of an extent carries its file's tag, or is zero. Empty: so it is.
inline std::string differs(const std::string &image, const Listing &listing, const std::map<uint32_t, std::string> &tags) {
  Fd fd = open_image(image);
  struct stat info;
  must(fstat(fd.get(), &info) == 0, "fstat");
  const auto sectors = static_cast<uint64_t>(info.st_size) / kSector;
  std::vector<uint32_t> owner(sectors, UINT32_MAX);
  for (const Extent &extent : listing.extents) {
    const uint64_t whole = (extent.bytes + kSector - 1) / kSector;  // a file may end within its last one
    if (extent.offset % kSector || extent.bytes == 0) return "an extent that does not begin with a sector";
    if (extent.offset / kSector + whole > sectors) return "an extent outside of the image";
    for (uint64_t i = 0; i < whole; i++) {
      if (owner[extent.offset / kSector + i] != UINT32_MAX) return "extents overlap at " + std::to_string(extent.offset);
      owner[extent.offset / kSector + i] = extent.file;
    }
  }
  std::map<uint32_t, const File *> files;
  for (const auto &[tag, path] : tags) files[tag] = file_at(listing, path);
  std::string block(1u << 16, '\0');
  const std::string zero(kSector, '\0');
  for (uint64_t at = 0; at < sectors; at += block.size() / kSector) {
    const ssize_t n = pread(fd.get(), block.data(), block.size(), static_cast<off_t>(at * kSector));
    for (ssize_t i = 0; i + static_cast<ssize_t>(kSector) <= n; i += kSector) {
      const uint64_t sector = at + static_cast<uint64_t>(i) / kSector;
      const File *listed = owner[sector] == UINT32_MAX ? nullptr : &listing.files[owner[sector]];
      uint32_t tag;
      const bool tagged = tag_of(&block[static_cast<size_t>(i)], tag);
      const std::string where = " in sector " + std::to_string(sector);
      if (!tagged && listed && memcmp(&block[static_cast<size_t>(i)], zero.data(), kSector) != 0) return "left out though it is nobody's data:" + where;
      if (!tagged) continue;
      const File *truth = files.count(tag) ? files[tag] : nullptr;
      if (listed && listed != truth) return "left out for another file than that of tag " + std::to_string(tag) + where;
      if (!listed && truth && !truth->held) return "data of tag " + std::to_string(tag) + " that no extent names" + where;
    }
  }
  for (const Extent &extent : listing.extents)
    if (listing.files[extent.file].held) return "an extent of a file that is held";
  return "";
}

inline std::string content_of(const std::string &image) {
  Fd fd = open_image(image);
  struct stat info;
  must(fstat(fd.get(), &info) == 0, "fstat");
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  must(pread(fd.get(), bytes.data(), bytes.size(), 0) == info.st_size, "read " + image);
  return bytes;
}
inline void put_bytes(const std::string &image, uint64_t offset, std::string_view bytes) {
  Fd fd = open_image(image, O_WRONLY | O_CREAT);
  must(pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes.size()), "write " + image);
}
inline void make_empty(const std::string &image, uint64_t bytes) {
  Fd fd = open_image(image, O_RDWR | O_CREAT | O_TRUNC);
  must(ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0, "ftruncate");
}
template <typename Number>
void set(std::string &bytes, size_t at, Number value) {
  memcpy(&bytes[at], &value, sizeof value);
}
template <typename Number>
Number get(const std::string &bytes, size_t at) {
  Number value;
  memcpy(&value, &bytes[at], sizeof value);
  return value;
}

inline Listing read_one(const std::string &image, size_t index = 0, Limits limits = {}) {
  Fd fd = open_image(image);
  auto found = find_filesystems(fd.get());
  if (!found.ok() || found.value.size() <= index) {
    printf("# %s: %s, %zu file systems\n", image.c_str(), found.status.message.c_str(), found.value.size());
    return {};
  }
  auto listing = list_files(found.value[index], limits);
  if (!listing.ok()) printf("# %s: %s\n", image.c_str(), listing.status.message.c_str());
  if (listing.value.problems) printf("# %s: problems: %llu, %s\n", image.c_str(), static_cast<unsigned long long>(listing.value.problems), listing.value.first_problem.c_str());
  return std::move(listing.value);
}

inline int finish() {
  const std::string remove = "rm -rf " + directory;
  if (system(remove.c_str()) != 0) failures++;
  printf("1..%d\n", tests);
  return failures != 0;
}

inline void begin() {
  // In memory where there is room: mke2fs waits for the disk after each image.
  struct statvfs shared;
  const bool room = statvfs("/dev/shm", &shared) == 0 && shared.f_bavail * shared.f_bsize > 256 * kMiB && access("/dev/shm", W_OK) == 0;
  std::string path = std::string(room ? "/dev/shm" : "/tmp") + "/understudy-filesystem-XXXXXX";
  must(mkdtemp(path.data()), "mkdtemp");
  directory = path;
}

}  // namespace filesystem_test
