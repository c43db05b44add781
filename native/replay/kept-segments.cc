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
#include <map>
#include <vector>

#include "replay/file-io.h"

namespace understudy::replay {
namespace {

constexpr const char *kFresh = ".new";

struct Listed {
  bool is_raw = false, is_packed = false;
};
// By index; of packed ones whose making was interrupted, the paths.
Status list(const std::string &directory, std::map<uint64_t, Listed> *found, std::vector<std::string> *unfinished) {
  DIR *listing = opendir(directory.c_str());
  if (!listing) return Status::failed(errno, "list " + directory);
  while (dirent *entry = readdir(listing)) {
    char *end = nullptr;
    const uint64_t index = strtoull(entry->d_name, &end, 16);
    if (end != entry->d_name + 16) continue;
    if (strcmp(end, ".kept") == 0) (*found)[index].is_raw = true;
    if (strcmp(end, ".keptz") == 0) (*found)[index].is_packed = true;
    if (strcmp(end, ".keptz.new") == 0) unfinished->push_back(directory + "/" + entry->d_name);
  }
  closedir(listing);
  return Status::good();
}

void remove_files(const std::string &directory, uint64_t index) {
  unlink(KeptSegments::path_of(directory, index).c_str());
  unlink(PackedSegment::path_of(directory, index).c_str());
}

// The packed one if it is good: the raw one is what a crash has left of it.
std::optional<KeptSegments::Kept> load_one(const std::string &directory, uint64_t index, const Listed &which, uint64_t end) {
  const std::string raw_path = KeptSegments::path_of(directory, index), path = PackedSegment::path_of(directory, index);
  if (which.is_packed) {
    const auto packed = PackedSegment::open(path, index, end, nullptr);
    unlink((packed.ok() ? raw_path : path).c_str());
    if (packed.ok()) return KeptSegments::Kept{index, packed.value->base(), end, packed.value->bytes(), true};
  }
  const auto raw = Segment::open_kept(raw_path, index, end);
  if (!raw.ok()) return std::nullopt;
  return KeptSegments::Kept{index, raw.value->base(), end, raw.value->bytes()};
}

}  // namespace

std::string KeptSegments::path_of(const std::string &directory, uint64_t index) {
  char name[32];
  snprintf(name, sizeof name, "/%016llx.kept", static_cast<unsigned long long>(index));
  return directory + name;
}

void KeptSegments::remove_all(const std::string &directory) {
  std::map<uint64_t, Listed> found;
  std::vector<std::string> unfinished;
  (void)list(directory, &found, &unfinished);
  for (const auto &[index, which] : found) remove_files(directory, index);
  for (const std::string &path : unfinished) unlink(path.c_str());
}

Result<uint64_t> KeptSegments::load(uint64_t log_start) {
  std::map<uint64_t, Listed> found;
  std::vector<std::string> unfinished;
  if (Status status = list(directory_, &found, &unfinished); !status.ok()) return status;
  for (const std::string &path : unfinished) unlink(path.c_str());
  std::lock_guard lock(mutex_);
  uint64_t reaches_from = log_start;
  bool has_gap = false;
  for (auto at = found.rbegin(); at != found.rend(); ++at) {  // newest first
    const auto &[index, which] = *at;
    std::optional<Kept> kept = has_gap ? std::nullopt : load_one(directory_, index, which, reaches_from);
    has_gap = !kept;
    if (has_gap) {
      remove_files(directory_, index);
      continue;
    }
    kept_.push_front(*kept);
    add(*kept, 1);
    reaches_from = kept->base;
  }
  return uint64_t{reaches_from};
}

bool KeptSegments::rename(const std::string &directory, const Segment &segment) {
  return ::rename(segment.path().c_str(), path_of(directory, segment.index()).c_str()) == 0;
}

bool KeptSegments::keep(const Segment &segment) {
  if (!rename(directory_, segment)) return false;
  std::lock_guard lock(mutex_);
  kept_.push_back({segment.index(), segment.base(), segment.end(), segment.bytes()});
  add(kept_.back(), 1);
  return true;
}

void KeptSegments::drop_below(uint64_t log_offset) {
  std::lock_guard lock(mutex_);
  while (!kept_.empty() && kept_.front().end <= log_offset) {
    remover_.remove(path_of(directory_, kept_.front().index));
    if (kept_.front().is_packed) remover_.remove(PackedSegment::path_of(directory_, kept_.front().index));
    add(kept_.front(), -1);
    kept_.pop_front();
  }
}

Result<std::shared_ptr<LogPiece>> KeptSegments::open(uint64_t log_offset) const {
  std::lock_guard lock(mutex_);
  const auto after = std::upper_bound(kept_.begin(), kept_.end(), log_offset,
                                      [](uint64_t at, const Kept &kept) { return at < kept.base; });
  if (after == kept_.begin() || log_offset >= std::prev(after)->end)
    return Status::failed(ENOENT, "history: no segment holds log offset " + std::to_string(log_offset));
  const Kept &kept = *std::prev(after);
  if (!kept.is_packed) {
    auto raw = open_raw(kept);
    if (!raw.ok()) return raw.status;
    return std::shared_ptr<LogPiece>(std::move(raw.value));
  }
  auto frames = frames_.lock();
  if (!frames) frames_ = frames = std::make_shared<FrameCache>();
  auto packed = PackedSegment::open(PackedSegment::path_of(directory_, kept.index), kept.index, kept.end, std::move(frames));
  if (!packed.ok()) return packed.status;
  return std::shared_ptr<LogPiece>(std::move(packed.value));
}

KeptSegments::Sum KeptSegments::sum() const {
  std::lock_guard lock(mutex_);
  return sum_;
}

void KeptSegments::add(const Kept &kept, int sign) {
  const auto change = [sign](uint64_t &total, uint64_t by) { total = sign > 0 ? total + by : total - by; };
  change(sum_.count, 1);
  change(sum_.bytes, kept.bytes);
  if (!kept.is_packed) return;
  change(sum_.packed, 1);
  change(sum_.packed_bytes, kept.bytes);
  change(sum_.raw_bytes, kept.raw_bytes());
}

// ---- the packer's

std::optional<KeptSegments::Kept> KeptSegments::to_pack(uint64_t log_offset) const {
  std::lock_guard lock(mutex_);
  for (const Kept &kept : kept_) {
    if (kept.end > log_offset) break;
    if (!kept.is_packed && !kept.is_left) return kept;
  }
  return std::nullopt;
}

Result<std::shared_ptr<Segment>> KeptSegments::open_raw(const Kept &kept) const {
  return Segment::open_kept(path_of(directory_, kept.index), kept.index, kept.end);
}

std::string KeptSegments::fresh_path_of(uint64_t index) const { return PackedSegment::path_of(directory_, index) + kFresh; }

KeptSegments::Kept *KeptSegments::find(uint64_t index) {
  const auto at = std::find_if(kept_.begin(), kept_.end(), [&](const Kept &kept) { return kept.index == index; });
  return at == kept_.end() ? nullptr : &*at;
}

void KeptSegments::replace(uint64_t index, uint64_t bytes) {
  const std::string fresh = fresh_path_of(index);
  {
    std::lock_guard lock(mutex_);
    Kept *kept = find(index);
    if (!kept || ::rename(fresh.c_str(), PackedSegment::path_of(directory_, index).c_str()) != 0) {
      unlink(fresh.c_str());
      if (kept) kept->is_left = true;
      return;
    }
    add(*kept, -1);
    kept->is_packed = true;
    kept->bytes = bytes;
    add(*kept, 1);
  }
  // It is there for good before the other one goes. If that cannot be had, the next start removes it.
  if (sync_directory(directory_) == 0) unlink(path_of(directory_, index).c_str());
}

void KeptSegments::leave(uint64_t index) {
  std::lock_guard lock(mutex_);
  if (Kept *kept = find(index)) kept->is_left = true;
}

}  // namespace understudy::replay
