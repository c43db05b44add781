#include "replay/packed-segment.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/check.h"
#include "core/crc32c.h"
#include "replay/file-io.h"

namespace understudy::replay {
namespace {

constexpr uint64_t kMagic = 0x31304b50'53445355;  // "USDSPK01"
constexpr uint32_t kVersion = 1;
constexpr uint64_t kHeaderBytes = 4096;
constexpr uint64_t kFrameBytes = 256u << 10;
constexpr size_t kFramesMax = 32;  // that are remembered: 8 MiB
constexpr uint64_t kSamples = 16, kSampleBytes = 64u << 10;

struct Header {
  uint64_t magic;
  uint32_t version, crc32c;  // of this, with 0 here
  uint64_t index;
  uint64_t base, end;  // log offsets
  uint64_t frames_at;  // the index, in the file
  uint32_t frame_bytes, frames_crc32c;
};
static_assert(sizeof(Header) == 56);

uint32_t checksum(Header header) {
  header.crc32c = 0;
  return crc32c(0, &header, sizeof header);
}
uint64_t frames_in(uint64_t bytes) { return (bytes + kFrameBytes - 1) / kFrameBytes; }

int read_whole(const Segment &segment, std::vector<uint8_t> &to, uint64_t log_offset) {
  size_t done = 0;
  if (const int error = segment.read(to.data(), to.size(), log_offset, &done)) return error;
  return done == to.size() ? 0 : EBADMSG;
}

}  // namespace

FrameCache::Frame FrameCache::find(uint64_t segment_index, uint64_t number) {
  std::lock_guard lock(mutex_);
  for (auto at = entries_.begin(); at != entries_.end(); ++at) {
    if (at->segment_index != segment_index || at->number != number) continue;
    entries_.splice(entries_.begin(), entries_, at);
    return at->frame;
  }
  return nullptr;
}

FrameCache::Frame FrameCache::expand(uint64_t segment_index, uint64_t number, std::vector<uint8_t> packed, size_t raw_bytes) {
  std::lock_guard lock(mutex_);
  if (packed.size() != raw_bytes) {
    std::vector<uint8_t> raw(raw_bytes);
    if (!codec_->expand(packed, raw.data(), raw_bytes)) return nullptr;
    packed.swap(raw);
  }
  entries_.push_front({segment_index, number, std::make_shared<const std::vector<uint8_t>>(std::move(packed))});
  if (entries_.size() > kFramesMax) entries_.pop_back();
  return entries_.front().frame;
}

std::string PackedSegment::path_of(const std::string &directory, uint64_t index) {
  char name[32];
  snprintf(name, sizeof name, "/%016llx.keptz", static_cast<unsigned long long>(index));
  return directory + name;
}

Result<std::shared_ptr<PackedSegment>> PackedSegment::open(const std::string &path, uint64_t index, uint64_t end,
                                                           std::shared_ptr<FrameCache> cache) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Status::failed(errno, "open segment " + path);
  auto segment = std::shared_ptr<PackedSegment>(new PackedSegment(std::move(fd)));
  if (!segment->load(index)) return Status::failed(EBADMSG, "read segment " + path + ": bad header or index");
  if (end < segment->base_ || end > segment->packed_end_)
    return Status::failed(EBADMSG, "open segment " + path + ": it does not reach to log offset " + std::to_string(end));
  segment->end_ = end;
  segment->cache_ = std::move(cache);
  return segment;
}

bool PackedSegment::load(uint64_t index) {
  Header header{};
  struct stat info {};
  size_t done = 0;
  if (fstat(fd_.get(), &info) != 0 || read_at(fd_.get(), &header, sizeof header, 0, &done) != 0) return false;
  if (done != sizeof header || header.magic != kMagic || header.version != kVersion || header.crc32c != checksum(header) ||
      header.index != index || header.end < header.base || header.frame_bytes != kFrameBytes)
    return false;
  frames_.resize(frames_in(header.end - header.base));
  const size_t bytes = frames_.size() * sizeof(Frame);
  bytes_ = header.frames_at + bytes;
  if (static_cast<uint64_t>(info.st_size) != bytes_) return false;
  if (read_at(fd_.get(), frames_.data(), bytes, header.frames_at, &done) != 0 || done != bytes) return false;
  index_ = index;
  base_ = header.base;
  packed_end_ = header.end;
  return crc32c(0, frames_.data(), bytes) == header.frames_crc32c;
}

uint64_t PackedSegment::raw_bytes(uint64_t number) const {
  return std::min(kFrameBytes, packed_end_ - base_ - number * kFrameBytes);
}

FrameCache::Frame PackedSegment::frame(uint64_t number, int *error) const {
  if (auto known = cache_->find(index_, number)) return known;
  const Frame &place = frames_[number];
  std::vector<uint8_t> packed(place.bytes);
  size_t done = 0;
  *error = place.bytes > raw_bytes(number) ? EBADMSG : read_at(fd_.get(), packed.data(), packed.size(), place.offset, &done);
  if (*error) return nullptr;
  *error = EBADMSG;
  if (done != packed.size() || crc32c(0, packed.data(), packed.size()) != place.crc32c) return nullptr;
  auto expanded = cache_->expand(index_, number, std::move(packed), raw_bytes(number));
  if (expanded) *error = 0;
  return expanded;
}

int PackedSegment::read(void *data, size_t bytes, uint64_t log_offset, size_t *done) const {
  CHECK(log_offset >= base_);
  auto *to = static_cast<uint8_t *>(data);
  for (*done = 0; *done < bytes && log_offset + *done < packed_end_;) {
    const uint64_t at = log_offset + *done - base_;
    int error = 0;
    const FrameCache::Frame from = frame(at / kFrameBytes, &error);
    if (!from) return error;
    const uint64_t within = at % kFrameBytes;
    const size_t part = std::min<uint64_t>(bytes - *done, from->size() - within);
    memcpy(to + *done, from->data() + within, part);
    *done += part;
  }
  return 0;
}

bool PackedSegment::is_worth_it(const Segment &segment) {
  const auto codec = link::Codec::make(link::Compression::kZstd);
  const uint64_t bytes = segment.end() - segment.base();
  std::vector<uint8_t> raw(std::min(kSampleBytes, bytes)), packed(raw.size());
  uint64_t taken = 0, kept = 0;
  for (uint64_t i = 0; i < kSamples && !raw.empty(); i++) {
    if (read_whole(segment, raw, segment.base() + (bytes - raw.size()) * i / (kSamples - 1)) != 0) return false;
    const size_t size = codec->compress(raw, packed.data(), packed.size());
    taken += raw.size();
    kept += size ? size : raw.size();
  }
  return kept * 10 <= taken * 9 && taken;
}

Result<uint64_t> PackedSegment::pack(const Segment &segment, const std::string &path, const std::function<bool()> &goes_on) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd) return Status::failed(errno, "create " + path);
  const auto codec = link::Codec::make(link::Compression::kZstd);
  std::vector<Frame> frames;
  std::vector<uint8_t> raw, packed(kFrameBytes);
  uint64_t at = kHeaderBytes;
  int error = 0;
  for (uint64_t offset = segment.base(); !error && offset < segment.end(); offset += raw.size()) {
    raw.resize(std::min(kFrameBytes, segment.end() - offset));
    if ((error = read_whole(segment, raw, offset))) break;
    const size_t size = codec->compress(raw, packed.data(), raw.size() - 1);
    const std::vector<uint8_t> &frame = size ? packed : raw;
    frames.push_back({at, static_cast<uint32_t>(size ? size : raw.size()), 0});
    frames.back().crc32c = crc32c(0, frame.data(), frames.back().bytes);
    error = write_at(fd.get(), frame.data(), frames.back().bytes, at);
    at += frames.back().bytes;
    if (!error && !goes_on()) error = ECANCELED;
  }
  const size_t bytes = frames.size() * sizeof(Frame);
  Header header{kMagic, kVersion, 0, segment.index(), segment.base(), segment.end(), at, kFrameBytes, crc32c(0, frames.data(), bytes)};
  header.crc32c = checksum(header);
  if (!error) error = write_at(fd.get(), frames.data(), bytes, at);
  if (!error) error = write_at(fd.get(), &header, sizeof header, 0);
  if (!error && fdatasync(fd.get()) != 0) error = errno;
  if (error) {
    unlink(path.c_str());
    return Status::failed(error, "compress segment " + path);
  }
  (void)posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);  // nobody is about to read it
  return at + bytes;
}

}  // namespace understudy::replay
