// Segment: one file of the standby's log.
//
//   | header page (4 KiB) | record | record | ... | zeroes up to what was preallocated |
//                         ^ log offset `base`     ^ log offset `end`: all before it is on stable storage
//
// A log offset counts the bytes of all records ever taken by this replica, so it names a byte for good, whichever file
// holds it. Records never cross from one segment to the next. Bytes past `end` are no part of the log: zeroes, or what a
// file that is written over held before. segment-log.h says why that is never taken for records.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/fd.h"
#include "core/status.h"
#include "replay/log-piece.h"
#include "wire/record.h"

namespace understudy::replay {

inline constexpr uint64_t kSegmentMagic = 0x31304745'53445355;  // "USDSEG01"
inline constexpr uint32_t kSegmentVersion = 1;
inline constexpr uint64_t kSegmentHeaderBytes = 4096;

struct SegmentHeader {
  uint64_t magic;
  uint32_t version;
  uint32_t header_crc32c;  // over this struct with 0 here
  uint64_t index;          // also the file's name; never reused
  uint64_t base;           // log offset of the first record
  wire::Position last;     // the last sequenced record before `base`: the chain goes on from there
};
static_assert(sizeof(SegmentHeader) == 48);

class Segment final : public LogPiece {
 public:
  // Makes the file with its header page, and its name durable. Nothing is left behind on failure.
  static Result<std::shared_ptr<Segment>> create(const std::string &directory, uint64_t index, uint64_t base,
                                                 wire::Position last, uint64_t preallocate_bytes);
  // EBADMSG: the header is not one (a file whose making was interrupted, or damage). end() is `base` at first.
  static Result<std::shared_ptr<Segment>> open(const std::string &directory, uint64_t index);
  // One that the history keeps, under another name, to be read. EBADMSG as well when it does not reach to `end`.
  static Result<std::shared_ptr<Segment>> open_kept(const std::string &path, uint64_t index, uint64_t end);
  // Makes one of a file that was set_aside(): its blocks are there already. Its old name is gone in either case.
  static Result<std::shared_ptr<Segment>> write_over(const std::string &set_aside, const std::string &directory,
                                                     uint64_t index, uint64_t base, wire::Position last,
                                                     uint64_t preallocate_bytes);
  static std::string path_of(const std::string &directory, uint64_t index);
  // Where path_of() goes when the log needs the records no more. Recovery does not look into it, and removes it.
  static std::string set_aside_path_of(const std::string &directory, uint64_t index);

  uint64_t index() const { return header_.index; }
  uint64_t base() const override { return header_.base; }
  wire::Position last_before() const { return header_.last; }
  uint64_t end() const override { return end_.load(std::memory_order_acquire); }
  uint64_t bytes() const { return kSegmentHeaderBytes + end() - base(); }
  const std::string &path() const { return path_; }

  // Logger thread: writes at end() and syncs; end() moves only when both worked. 0 or an errno.
  int append(const void *data, size_t bytes);
  // Gives back what lies beyond end().
  int trim();
  // All its records are of one incarnation, there is no kBegin among them, and this is the last: what may be written over.
  void ends_plainly_at(wire::Position last) { plain_end_ = last; }
  std::optional<wire::Position> plain_end() const { return plain_end_; }  // when it is not written any more
  // Recovery: what was read and proven up to `end` is the log from now on; makes it durable.
  int settle(uint64_t end);
  void set_end(uint64_t end) { end_.store(end, std::memory_order_release); }
  // Any thread. *done may be short at the end of the file.
  int read(void *data, size_t bytes, uint64_t log_offset, size_t *done) const override;

 private:
  Segment(Fd fd, std::string path, const SegmentHeader &header, uint64_t written_bytes, uint64_t allocated_bytes)
      : fd_(std::move(fd)),
        path_(std::move(path)),
        header_(header),
        end_(header.base),
        written_bytes_(written_bytes),
        allocated_bytes_(allocated_bytes) {}
  static Result<std::shared_ptr<Segment>> of_file(Fd fd, const std::string &path, uint64_t index);
  void write_zeroes_ahead(uint64_t from);
  uint64_t file_offset(uint64_t log_offset) const { return kSegmentHeaderBytes + log_offset - header_.base; }

  Fd fd_;
  std::string path_;
  SegmentHeader header_;
  std::atomic<uint64_t> end_;
  uint64_t written_bytes_, allocated_bytes_;  // of the file, from its start: blocks that hold data or zeroes; that are there
  std::optional<wire::Position> plain_end_;
};

}  // namespace understudy::replay
