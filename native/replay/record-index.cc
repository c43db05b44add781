#include "replay/record-index.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/check.h"
#include "core/crc32c.h"
#include "core/on-disk.h"
#include "replay/file-io.h"

namespace understudy::replay {
namespace {

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

}  // namespace

std::string RecordIndex::path_of(const std::string &directory, uint64_t number) {
  char name[32];
  snprintf(name, sizeof name, "/%016llx.records", static_cast<unsigned long long>(number));
  return directory + name;
}

Result<std::unique_ptr<RecordIndex>> RecordIndex::create(const std::string &directory, uint64_t number, uint64_t from) {
  const std::string path = path_of(directory, number);
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd) return Status::failed(errno, "create " + path);
  return std::unique_ptr<RecordIndex>(new RecordIndex(std::move(fd), from));
}

Result<std::unique_ptr<RecordIndex>> RecordIndex::open(const std::string &directory, uint64_t number, uint64_t from) {
  const std::string path = path_of(directory, number);
  Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return Status::failed(errno, "open " + path);
  if (const int error = read_from_disk(fd.get())) return Status::failed(error, "sync " + path);
  auto index = std::unique_ptr<RecordIndex>(new RecordIndex(std::move(fd), from));
  int error = index->read_batches();
  if (!error && ftruncate(index->fd_.get(), static_cast<off_t>(index->end_)) != 0) error = errno;
  if (!error && fdatasync(index->fd_.get()) != 0) error = errno;
  if (error) return Status::failed(error, "read " + path);
  return index;
}

Result<std::vector<RecordEntry>> RecordIndex::load(const std::string &directory, uint64_t number, uint64_t from,
                                                   uint64_t to) {
  const std::string path = path_of(directory, number);
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Status::failed(errno, "open " + path);
  RecordIndex index(std::move(fd), from);
  if (const int error = index.read_batches()) return Status::failed(error, "read " + path);
  if (index.flushed_to_ < to) return Status::failed(EBADMSG, "read " + path + ": it ends too early");
  index.cut(to);
  return std::move(index.entries_);
}

int RecordIndex::read_batches() {
  std::vector<RecordEntry> batch;
  for (;;) {
    BatchHead head{};
    size_t done = 0;
    if (const int error = read_at(fd_.get(), &head, sizeof head, end_, &done)) return error;
    if (done != sizeof head || head.magic != kBatchMagic || head.from < from_ || head.from > flushed_to_ ||
        head.to < head.from || head.count > (head.to - head.from) / sizeof(wire::RecordHeader))
      return 0;
    batch.resize(head.count);
    const size_t bytes = head.count * sizeof(RecordEntry);
    if (const int error = read_at(fd_.get(), batch.data(), bytes, end_ + sizeof head, &done)) return error;
    if (done != bytes || head.crc32c != checksum(head, batch.data())) return 0;
    cut(head.from);
    entries_.insert(entries_.end(), batch.begin(), batch.end());
    end_ += sizeof head + bytes;
    flushed_to_ = head.to;
    flushed_count_ = entries_.size();
  }
}

// What lies at or behind a log offset is said anew.
void RecordIndex::cut(uint64_t log_offset) {
  while (!entries_.empty() && entries_.back().log_offset >= log_offset) entries_.pop_back();
  flushed_count_ = std::min(flushed_count_, entries_.size());
  flushed_to_ = std::min(flushed_to_, log_offset);
}

void RecordIndex::note(const RecordEntry &entry) {
  if (entry.log_offset < flushed_to_ || (!entries_.empty() && entries_.back().log_offset >= entry.log_offset))
    cut(entry.log_offset);
  begins_ += entry.type == static_cast<uint8_t>(wire::RecordType::kBegin);
  entries_.push_back(entry);
}

int RecordIndex::flush(uint64_t to) {
  CHECK(entries_.empty() || entries_.back().log_offset < to || to <= flushed_to_);
  if (to <= flushed_to_) return 0;
  BatchHead head{kBatchMagic, 0, flushed_to_, to, entries_.size() - flushed_count_};
  const RecordEntry *fresh = entries_.data() + flushed_count_;
  head.crc32c = checksum(head, fresh);
  std::vector<uint8_t> bytes(sizeof head + head.count * sizeof(RecordEntry));
  memcpy(bytes.data(), &head, sizeof head);
  if (head.count) memcpy(bytes.data() + sizeof head, fresh, head.count * sizeof(RecordEntry));
  if (const int error = write_at(fd_.get(), bytes.data(), bytes.size(), end_)) return error;
  if (fdatasync(fd_.get()) != 0) return errno;
  end_ += bytes.size();
  flushed_to_ = to;
  flushed_count_ = entries_.size();
  return 0;
}

}  // namespace understudy::replay
