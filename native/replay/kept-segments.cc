#include "replay/kept-segments.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "replay/file-io.h"

namespace understudy::replay {
namespace {
// The newest first.
Status list(const std::string &directory, std::vector<uint64_t> *indices) {
  DIR *listing = opendir(directory.c_str());
  if (!listing) return Status::failed(errno, "list " + directory);
  while (dirent *entry = readdir(listing)) {
    char *end = nullptr;
    const uint64_t index = strtoull(entry->d_name, &end, 16);
    if (end == entry->d_name + 16 && strcmp(end, ".kept") == 0) indices->push_back(index);
  }
  closedir(listing);
  std::sort(indices->rbegin(), indices->rend());
  return Status::good();
}
}  // namespace

std::string KeptSegments::path_of(const std::string &directory, uint64_t index) {
  char name[32];
  snprintf(name, sizeof name, "/%016llx.kept", static_cast<unsigned long long>(index));
  return directory + name;
}

void KeptSegments::remove_all(const std::string &directory) {
  std::vector<uint64_t> indices;
  (void)list(directory, &indices);
  for (uint64_t index : indices) unlink(path_of(directory, index).c_str());
}

Result<uint64_t> KeptSegments::load(uint64_t log_start) {
  std::vector<uint64_t> indices;
  if (Status status = list(directory_, &indices); !status.ok()) return status;
  std::lock_guard lock(mutex_);
  uint64_t reaches_from = log_start;
  bool has_gap = false;
  for (uint64_t index : indices) {  // newest first
    const std::string path = path_of(directory_, index);
    if (!has_gap) {
      auto segment = Segment::open_kept(path, index, reaches_from);
      has_gap = !segment.ok();
      if (!has_gap) kept_.push_front({index, segment.value->base(), reaches_from});
      if (!has_gap) reaches_from = segment.value->base();
    }
    if (has_gap) unlink(path.c_str());
  }
  return uint64_t{reaches_from};
}

bool KeptSegments::rename(const std::string &directory, const Segment &segment) {
  return ::rename(segment.path().c_str(), path_of(directory, segment.index()).c_str()) == 0;
}

bool KeptSegments::keep(const Segment &segment) {
  if (!rename(directory_, segment)) return false;
  std::lock_guard lock(mutex_);
  kept_.push_back({segment.index(), segment.base(), segment.end()});
  return true;
}

void KeptSegments::drop_below(uint64_t log_offset) {
  std::lock_guard lock(mutex_);
  while (!kept_.empty() && kept_.front().end <= log_offset) {
    unlink(path_of(directory_, kept_.front().index).c_str());
    kept_.pop_front();
  }
}

Result<std::shared_ptr<Segment>> KeptSegments::open(uint64_t log_offset) const {
  std::lock_guard lock(mutex_);
  const auto after = std::upper_bound(kept_.begin(), kept_.end(), log_offset,
                                      [](uint64_t at, const Kept &kept) { return at < kept.base; });
  if (after == kept_.begin() || log_offset >= std::prev(after)->end)
    return Status::failed(ENOENT, "history: no segment holds log offset " + std::to_string(log_offset));
  const Kept &kept = *std::prev(after);
  return Segment::open_kept(path_of(directory_, kept.index), kept.index, kept.end);
}

uint64_t KeptSegments::count() const {
  std::lock_guard lock(mutex_);
  return kept_.size();
}

uint64_t KeptSegments::bytes() const {
  std::lock_guard lock(mutex_);
  uint64_t total = 0;
  for (const Kept &kept : kept_) total += kSegmentHeaderBytes + kept.end - kept.base;
  return total;
}

}  // namespace understudy::replay
