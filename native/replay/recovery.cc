#include "replay/recovery.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "replay/commit-tracker.h"
#include "replay/file-io.h"

namespace understudy::replay {
namespace {

Result<std::vector<uint64_t>> list_indices(const std::string &directory, std::vector<uint64_t> *set_aside) {
  DIR *listing = opendir(directory.c_str());
  if (!listing) return Status::failed(errno, "list " + directory);
  std::vector<uint64_t> indices;
  while (dirent *entry = readdir(listing)) {
    char *end = nullptr;
    const uint64_t index = strtoull(entry->d_name, &end, 16);
    if (end == entry->d_name + 16 && strcmp(end, ".seg") == 0) indices.push_back(index);
    if (end == entry->d_name + 16 && strcmp(end, ".old") == 0) set_aside->push_back(index);
  }
  closedir(listing);
  std::sort(indices.begin(), indices.end());
  return indices;
}

// One segment's records from `offset` on; reads in large pieces.
class Scan {
 public:
  Scan(const Segment &segment, uint64_t offset, uint64_t limit) : segment_(segment), at_(offset), limit_(limit) {}

  // Moves over the good records, at most to the limit; where it stopped is at().
  Status run(wire::Chain &chain, const NoteRecord &note) {
    for (;;) {
      bool enough = false;
      if (Status status = have(sizeof(wire::RecordHeader), &enough); !status.ok() || !enough) return status;
      const wire::RecordHeader header = load_header(buffer_.data() + skipped_);
      if (check_header(header) != wire::RecordFault::kNone || !chain.follows(header)) return Status::good();
      const uint64_t bytes = record_bytes(header);
      if (Status status = have(bytes, &enough); !status.ok() || !enough) return status;
      const uint8_t *record = buffer_.data() + skipped_;
      if (check_payload(header, record + sizeof header) != wire::RecordFault::kNone) return Status::good();
      chain.advance(header);
      note(record, bytes, at_);
      at_ += bytes;
      skipped_ += bytes;
    }
  }
  uint64_t at() const { return at_; }

 private:
  // *enough: the buffer holds `bytes` from at() on.
  Status have(uint64_t bytes, bool *enough) {
    *enough = bytes <= limit_ - at_;
    if (!*enough || filled_ - skipped_ >= bytes) return Status::good();
    memmove(buffer_.data(), buffer_.data() + skipped_, filled_ - skipped_);
    filled_ -= skipped_;
    skipped_ = 0;
    const uint64_t wanted = std::min(std::max(bytes, kPieceBytes), limit_ - at_);
    if (buffer_.size() < wanted) buffer_.resize(wanted);
    size_t done = 0;
    if (int error = segment_.read(buffer_.data() + filled_, wanted - filled_, at_ + filled_, &done))
      return Status::failed(error, "recover: read segment " + std::to_string(segment_.index()));
    filled_ += done;
    *enough = filled_ >= bytes;
    return Status::good();
  }

  static constexpr uint64_t kPieceBytes = 1u << 20;
  const Segment &segment_;
  uint64_t at_;
  uint64_t limit_;
  std::vector<uint8_t> buffer_ = std::vector<uint8_t>(kPieceBytes);
  uint64_t filled_ = 0, skipped_ = 0;
};

// Opens all segments in order; stops at the first whose header is bad. `rest`: the numbers from there on.
Result<std::vector<std::shared_ptr<Segment>>> open_segments(const std::string &directory,
                                                            const std::vector<uint64_t> &indices,
                                                            std::vector<uint64_t> *rest) {
  std::vector<std::shared_ptr<Segment>> segments;
  for (size_t i = 0; i < indices.size(); i++) {
    auto opened = Segment::open(directory, indices[i]);
    if (opened.status.error == EBADMSG) {
      rest->assign(indices.begin() + static_cast<ptrdiff_t>(i), indices.end());
      return segments;
    }
    if (!opened.ok()) return opened.status;
    segments.push_back(std::move(opened.value));
  }
  return segments;
}

// The header is on stable storage before the first record is written: records behind a bad one mean damage.
bool has_record(const std::string &path) {
  Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  uint32_t magic = 0;
  size_t done = 0;
  return fd && read_at(fd.get(), &magic, sizeof magic, kSegmentHeaderBytes, &done) == 0 && magic == wire::kRecordMagic;
}

Status remove_segment(const std::string &path) {
  return unlink(path.c_str()) == 0 || errno == ENOENT ? Status::good() : Status::failed(errno, "remove " + path);
}

// Goes through the opened segments from the watermark on. Returns how many of them are part of the log.
Result<size_t> walk(const std::vector<std::shared_ptr<Segment>> &all, const Watermark &from, const NoteRecord &note,
                    uint64_t *end) {
  wire::Chain chain{from.applied};
  size_t used = 0;
  for (; used < all.size(); used++) {
    Segment &segment = *all[used];
    const bool is_last = used + 1 == all.size();
    // A segment ends where the next begins: what a failed append left behind there is no part of it.
    const uint64_t limit = is_last ? UINT64_MAX >> 2 : all[used + 1]->base();
    if (!is_last && limit <= from.log_offset) {  // wholly below the watermark
      segment.set_end(std::max(limit, segment.base()));
      continue;
    }
    if (segment.base() > *end || limit < *end) break;
    if (segment.base() == *end && segment.last_before() != chain.last) break;
    Scan scan(segment, *end, limit);
    if (Status status = scan.run(chain, note); !status.ok()) return status;
    *end = scan.at();
    segment.set_end(*end);
    if (!is_last && *end != limit) return used + 1;
  }
  return size_t{used};
}

// Cuts what is not proven off, durably, and drops what is below the watermark.
Status settle(const std::string &directory, std::vector<std::shared_ptr<Segment>> &all, size_t used,
              const Watermark &from, const std::function<bool(const Segment &)> &take, Recovered &found) {
  for (size_t i = 0; i < all.size(); i++) {
    Segment &segment = *all[i];
    if (i < used && segment.end() > segment.base() && segment.end() > from.log_offset)
      found.segments.push_back(all[i]);
    else if (i < used && segment.end() > segment.base() && take && take(segment))
      continue;
    else if (Status status = remove_segment(segment.path()); !status.ok())
      return status;
  }
  if (!found.segments.empty())
    if (int error = found.segments.back()->settle(found.end))
      return Status::failed(error, "recover: cut segment " + found.segments.back()->path());
  if (int error = sync_directory(directory)) return Status::failed(error, "sync " + directory);
  return Status::good();
}

}  // namespace

Result<Recovered> recover_segments(const std::string &directory, const Watermark &from, const NoteRecord &note,
                                   const std::function<bool(const Segment &)> &take) {
  std::vector<uint64_t> set_aside;
  auto indices = list_indices(directory, &set_aside);
  if (!indices.ok()) return indices.status;
  for (uint64_t index : set_aside)
    if (Status status = remove_segment(Segment::set_aside_path_of(directory, index)); !status.ok()) return status;
  Recovered found;
  found.end = from.log_offset;
  found.index_next = std::max<uint64_t>(from.segment_index_next, 1);
  if (!indices.value.empty()) found.index_next = std::max(found.index_next, indices.value.back() + 1);

  std::vector<uint64_t> bad;
  auto segments = open_segments(directory, indices.value, &bad);
  if (!segments.ok()) return segments.status;
  auto used = walk(segments.value, from, note, &found.end);
  if (!used.ok()) return used.status;

  found.furthest = std::max(from.durable_offset, found.end);
  for (size_t i = used.value; i < segments.value.size(); i++)
    found.furthest = std::max(found.furthest, segments.value[i]->base() + 1);
  // A file whose making was interrupted is the last one; more behind it means that it was whole once.
  if (bad.size() > 1 || (bad.size() == 1 && has_record(Segment::path_of(directory, bad[0]))))
    found.damage = "segment " + std::to_string(bad[0]) + " has lost its header";
  else if (found.furthest > found.end)
    found.damage = "the log ends at offset " + std::to_string(found.end) + " and once reached " +
                   std::to_string(found.furthest);
  for (uint64_t index : bad)
    if (Status status = remove_segment(Segment::path_of(directory, index)); !status.ok()) return status;
  if (Status status = settle(directory, segments.value, used.value, from, take, found); !status.ok()) return status;
  found.log_start = found.segments.empty() ? found.end : found.segments.front()->base();
  return found;
}

}  // namespace understudy::replay
