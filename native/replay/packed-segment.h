// PackedSegment: a segment that the history keeps, compressed.
//
//   INDEX.keptz   | header page | frame | frame | ...  | index |     frame: 256 KiB of records, compressed by itself
//                                                                    index: where each lies, and its CRC32C
//
// Guarantees: reading a record expands only the frames it lies in; of all segments of a history together so many
// frames are remembered. What comes out is what went in, or EBADMSG (G8); the records' own checksums are checked by
// who reads them, as those of any segment.
#pragma once
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/fd.h"
#include "core/status.h"
#include "link/codec.h"
#include "replay/log-piece.h"
#include "replay/segment.h"

namespace understudy::replay {

// The last frames that were expanded, and what expands them.
class FrameCache {
 public:
  using Frame = std::shared_ptr<const std::vector<uint8_t>>;
  Frame find(uint64_t segment_index, uint64_t frame);
  // Null: it is none.
  Frame expand(uint64_t segment_index, uint64_t frame, std::vector<uint8_t> packed, size_t raw_bytes);

 private:
  struct Entry {
    uint64_t segment_index, number;
    Frame frame;
  };
  std::mutex mutex_;
  std::list<Entry> entries_;  // the one used last first
  const std::unique_ptr<link::Codec> codec_ = link::Codec::make(link::Compression::kZstd);
};

class PackedSegment final : public LogPiece {
 public:
  static std::string path_of(const std::string &directory, uint64_t index);
  // EBADMSG: it is none, or does not reach to log offset `end`.
  static Result<std::shared_ptr<PackedSegment>> open(const std::string &path, uint64_t index, uint64_t end,
                                                     std::shared_ptr<FrameCache> cache);

  // What a sample of it says: it saves a tenth at least.
  static bool is_worth_it(const Segment &segment);
  // Makes the file, synced, of what the segment holds. Asks after each frame; ECANCELED if it shall not go on. Nothing is
  // left behind on failure. Gives the bytes of the file.
  static Result<uint64_t> pack(const Segment &segment, const std::string &path, const std::function<bool()> &goes_on);

  uint64_t base() const override { return base_; }
  uint64_t end() const override { return end_; }
  int read(void *data, size_t bytes, uint64_t log_offset, size_t *done) const override;
  uint64_t bytes() const { return bytes_; }  // of the file

 private:
  struct Frame {
    uint64_t offset;         // in the file
    uint32_t bytes, crc32c;  // as it lies there; as many bytes as it expands to: it is not compressed
  };
  explicit PackedSegment(Fd fd) : fd_(std::move(fd)) {}
  bool load(uint64_t index);
  FrameCache::Frame frame(uint64_t number, int *error) const;
  uint64_t raw_bytes(uint64_t number) const;

  Fd fd_;
  uint64_t index_ = 0, base_ = 0, end_ = 0, packed_end_ = 0, bytes_ = 0;
  std::vector<Frame> frames_;
  std::shared_ptr<FrameCache> cache_;
};

}  // namespace understudy::replay
