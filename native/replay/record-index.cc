#include "replay/record-index.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/breakage.h"
#include "core/check.h"
#include "core/crc32c.h"
#include "core/on-disk.h"
#include "replay/file-io.h"

namespace understudy::replay {
namespace {

constexpr size_t kUnwrittenMax = 1024;  // 48 KiB
constexpr uint32_t kBatchMagic = 0x54414252;  // "RBAT"
struct BatchHead {
  uint32_t magic, crc32c;  // of this and the entries, with 0 here
  uint64_t from, to;       // log offsets: it says all about what lies between
  uint64_t count;
};
static_assert(sizeof(BatchHead) == 32);

uint32_t checksum(BatchHead head, const RecordEntry *entries) {
  head.crc32c = 0;
  return crc32c(crc32c(0, &head, sizeof head), entries, head.count * sizeof(RecordEntry));
}

struct Batches {
  std::vector<RecordEntry> entries;
  uint64_t to, bytes = 0;  // log offset; of the file
  // What lies at or behind a log offset is said anew.
  void cut(uint64_t log_offset) {
    while (!entries.empty() && entries.back().log_offset >= log_offset) entries.pop_back();
    to = std::min(to, log_offset);
  }
};

// All that are whole, one behind the other, in the first `bytes_max` of the file.
int read_batches(int fd, uint64_t from, uint64_t bytes_max, Batches *read) {
  std::vector<RecordEntry> batch;
  read->to = from;
  while (read->bytes < bytes_max) {
    BatchHead head{};
    size_t done = 0;
    if (const int error = read_at(fd, &head, sizeof head, read->bytes, &done)) return error;
    if (done != sizeof head || head.magic != kBatchMagic || head.from < from || head.from > read->to || head.to < head.from ||
        head.count > (head.to - head.from) / sizeof(wire::RecordHeader))
      return 0;
    batch.resize(head.count);
    const size_t bytes = head.count * sizeof(RecordEntry);
    if (const int error = read_at(fd, batch.data(), bytes, read->bytes + sizeof head, &done)) return error;
    if (done != bytes || head.crc32c != checksum(head, batch.data())) return 0;
    read->cut(head.from);
    read->entries.insert(read->entries.end(), batch.begin(), batch.end());
    read->bytes += sizeof head + bytes;
    read->to = head.to;
  }
  return 0;
}

}  // namespace

std::string RecordIndex::path_of(const std::string &directory, uint64_t number) {
  char name[32];
  snprintf(name, sizeof name, "/%016llx.records", static_cast<unsigned long long>(number));
  return directory + name;
}

Result<std::unique_ptr<RecordIndex>> RecordIndex::create(const std::string &directory, const EpochStart &start) {
  const std::string path = path_of(directory, start.number);
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd) return Status::failed(errno, "create " + path);
  return std::unique_ptr<RecordIndex>(new RecordIndex(std::move(fd), start));
}

Result<std::unique_ptr<RecordIndex>> RecordIndex::open(const std::string &directory, const EpochStart &start) {
  const std::string path = path_of(directory, start.number);
  Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return Status::failed(errno, "open " + path);
  if (const int error = read_from_disk(fd.get())) return Status::failed(error, "sync " + path);
  auto index = std::unique_ptr<RecordIndex>(new RecordIndex(std::move(fd), start));
  Batches found;
  int error = read_batches(index->fd_.get(), start.log_offset, UINT64_MAX, &found);
  index->end_ = found.bytes;
  index->written_to_ = found.to;
  index->tally_.add(found.entries, found.entries.size());
  if (!error && ftruncate(index->fd_.get(), static_cast<off_t>(index->end_)) != 0) error = errno;
  if (!error && fdatasync(index->fd_.get()) != 0) error = errno;
  if (error) return Status::failed(error, "read " + path);
  index->synced_end_ = index->end_;
  index->synced_to_ = index->written_to_;
  return index;
}

Result<std::vector<RecordEntry>> RecordIndex::load(const std::string &directory, const EpochStart &start,
                                                   const Extent &extent) {
  const std::string path = path_of(directory, start.number);
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Status::failed(errno, "open " + path);
  Batches found;
  if (const int error = read_batches(fd.get(), start.log_offset, extent.file_bytes, &found))
    return Status::failed(error, "read " + path);
  if (found.to < extent.to) return Status::failed(EBADMSG, "read " + path + ": it ends too early");
  found.cut(extent.to);
  found.entries.insert(found.entries.end(), extent.unwritten.begin(), extent.unwritten.end());
  return std::move(found.entries);
}

void RecordIndex::note(const RecordEntry &entry) {
  int error = 0;
  if (error_ && entry.log_offset <= missing_from_) error_ = 0;  // all of it is said anew
  if (entry.log_offset < written_to_ || (!unwritten_.empty() && unwritten_.back().log_offset >= entry.log_offset))
    error = go_back(entry.log_offset);
  // Without room they stay in memory until flush(), which says it: no later than a watermark.
  if (!error && !unwritten_.empty() && unwritten_.size() % kUnwrittenMax == 0) error = write(entry.log_offset);
  if (error == ENOSPC || error == EDQUOT) error = 0;
  if (error && !error_) missing_from_ = entry.log_offset;
  if (error) error_ = error;
  if (error_) return;
  tally_.add(entry);
  unwritten_.push_back(entry);
}

// What lies at or behind a log offset is said anew.
int RecordIndex::go_back(uint64_t log_offset) {
  written_to_ = std::min(written_to_, log_offset);
  synced_to_ = std::min(synced_to_, log_offset);
  while (!unwritten_.empty() && unwritten_.back().log_offset >= log_offset) unwritten_.pop_back();
  Batches found;
  if (const int error = read_batches(fd_.get(), start_.log_offset, end_, &found)) return error;
  if (found.to < written_to_) return EBADMSG;
  found.cut(written_to_);
  tally_ = EpochTally(start_);
  tally_.add(found.entries, found.entries.size());
  tally_.add(unwritten_, unwritten_.size());
  return 0;
}

int RecordIndex::write(uint64_t to) {
  BatchHead head{kBatchMagic, 0, written_to_, to, unwritten_.size()};
  head.crc32c = checksum(head, unwritten_.data());
  std::vector<uint8_t> bytes(sizeof head + head.count * sizeof(RecordEntry));
  memcpy(bytes.data(), &head, sizeof head);
  if (head.count) memcpy(bytes.data() + sizeof head, unwritten_.data(), head.count * sizeof(RecordEntry));
  if (const int error = write_at(fd_.get(), bytes.data(), bytes.size(), end_)) return error;
  end_ += bytes.size();
  written_to_ = to;
  unwritten_.clear();
  is_synced_ = false;
  return 0;
}

int RecordIndex::flush(uint64_t to) {
  if (error_) return error_;
  CHECK(unwritten_.empty() || unwritten_.back().log_offset < to || to <= written_to_);
  if (to > written_to_)
    if (const int error = write(to)) return error;
  if (!is_synced_ && !BROKEN(kIndexTrailsImages) && fdatasync(fd_.get()) != 0) {
    const int error = errno;
    retract();
    return error;
  }
  is_synced_ = true;
  synced_end_ = end_;
  synced_to_ = written_to_;
  return 0;
}

// What a failed sync covered may be on the disk or not: a batch that is damaged there would end the index. What the page cache
// still has of it is written anew; what it has not is to be noted again.
void RecordIndex::retract() {
  Batches found;
  int error = read_batches(fd_.get(), start_.log_offset, end_, &found);
  if (!error && found.to < written_to_) error = EBADMSG;
  (void)!ftruncate(fd_.get(), static_cast<off_t>(synced_end_));
  end_ = synced_end_;
  if (!error) {
    found.cut(written_to_);
    const auto first = std::find_if(found.entries.begin(), found.entries.end(),
                                    [&](const RecordEntry &entry) { return entry.log_offset >= synced_to_; });
    unwritten_.insert(unwritten_.begin(), first, found.entries.end());
    written_to_ = synced_to_;
    return;
  }
  error_ = error;
  missing_from_ = UINT64_MAX;
  unwritten_.clear();
  (void)go_back(synced_to_);
}

}  // namespace understudy::replay
