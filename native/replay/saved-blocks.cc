#include "replay/saved-blocks.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/check.h"
#include "core/crc32c.h"
#include "core/on-disk.h"
#include "core/zeroes.h"
#include "replay/file-io.h"

namespace understudy::replay {
namespace {

constexpr uint64_t kPageBytes = kViewBlockBytes;
constexpr uint64_t kHeaderMagic = 0x31305641'53445355;  // "USDSAV01"
constexpr uint64_t kFooterMagic = 0x31305446'53445355;  // "USDSFT01"
constexpr uint32_t kBatchMagic = 0x54414253;            // "SBAT"
constexpr uint32_t kClonedMagic = 0x4E4C4353;           // "SCLN"
constexpr uint32_t kVersion = 1, kVersionCloned = 2;  // of the footer: 2 is an epoch whose images were cloned

struct HeaderPage {
  uint64_t magic;
  uint32_t version, crc32c;  // of the page, with 0 here
  uint64_t number, log_offset, incarnation, sequence, time_ns;
  uint64_t volume_count, volume_bytes;
  uint8_t zeroes[kPageBytes - 72];
};
struct FooterPage {
  uint64_t magic;
  uint32_t version, crc32c;
  uint64_t number, index_page, index_pages, run_count;
  EpochRun runs[kEpochRunsMax];
  uint64_t changed_bytes;
  uint8_t zeroes[kPageBytes - 56 - sizeof(EpochRun) * kEpochRunsMax];
};
constexpr size_t kIndexEntries = (kPageBytes - 16) / sizeof(SavedBlock);
struct IndexPage {
  uint32_t crc32c, count;
  uint64_t zero;
  SavedBlock entries[kIndexEntries];
};
constexpr size_t kPagesAtOnce = 64;
struct BatchHead {
  uint32_t magic, crc32c;  // of this and the entries, with 0 here
  uint64_t number;         // of the epoch: what a file held before it was this one is no batch
  uint32_t count, pages;   // entries; pages of blocks behind them
};
static_assert(sizeof(HeaderPage) == kPageBytes && sizeof(FooterPage) == kPageBytes && sizeof(IndexPage) == kPageBytes);
static_assert(sizeof(BatchHead) == 24);

template <typename Page>
uint32_t checksum(Page page) {
  page.crc32c = 0;
  return crc32c(0, &page, sizeof page);
}
template <typename Page>
int read_page(int fd, uint64_t page, Page *to) {
  size_t done = 0;
  if (const int error = read_at(fd, to, kPageBytes, page * kPageBytes, &done)) return error;
  return done == kPageBytes && to->crc32c == checksum(*to) ? 0 : EBADMSG;
}
uint64_t pages_for(uint64_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes; }
uint64_t head_pages(uint64_t count) { return pages_for(sizeof(BatchHead) + count * sizeof(SavedBlock)); }
uint64_t sum(const std::vector<uint64_t> &values) {
  uint64_t total = 0;
  for (uint64_t value : values) total += value;
  return total;
}
bool by_key(const SavedBlock &a, const SavedBlock &b) { return a.key < b.key; }

}  // namespace

std::string SavedBlocks::path_of(const std::string &directory, uint64_t number) {
  char name[32];
  snprintf(name, sizeof name, "/%016llx.saved", static_cast<unsigned long long>(number));
  return directory + name;
}

Result<std::shared_ptr<SavedBlocks>> SavedBlocks::create(const std::string &directory, const EpochStart &start,
                                                         const std::vector<uint64_t> &volume_bytes) {
  const std::string path = path_of(directory, start.number);
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) return Status::failed(errno, "create " + path);
  HeaderPage header{};
  header.magic = kHeaderMagic;
  header.version = kVersion;
  header.number = start.number;
  header.log_offset = start.log_offset;
  header.incarnation = start.point.position.incarnation;
  header.sequence = start.point.position.sequence;
  header.time_ns = start.point.time_ns;
  header.volume_count = volume_bytes.size();
  header.volume_bytes = sum(volume_bytes);
  header.crc32c = checksum(header);
  int error = write_at(fd.get(), &header, sizeof header, 0);
  if (!error && fdatasync(fd.get()) != 0) error = errno;
  if (!error) error = sync_directory(directory);
  if (error) {
    unlink(path.c_str());
    return Status::failed(error, "create " + path);
  }
  auto made = std::shared_ptr<SavedBlocks>(new SavedBlocks(std::move(fd)));
  made->start_ = start;
  made->volume_bytes_ = volume_bytes;
  made->end_ = made->synced_end_ = kPageBytes;
  made->make_maps();
  return made;
}

Result<std::shared_ptr<SavedBlocks>> SavedBlocks::open(const std::string &directory, uint64_t number,
                                                       const std::vector<uint64_t> &volume_bytes) {
  const std::string path = path_of(directory, number);
  Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return Status::failed(errno, "open " + path);
  if (const int error = read_from_disk(fd.get())) return Status::failed(error, "sync " + path);
  auto found = std::shared_ptr<SavedBlocks>(new SavedBlocks(std::move(fd)));
  if (Status status = found->load(path, number, volume_bytes); !status.ok()) return status;
  return found;
}

Status SavedBlocks::load(const std::string &path, uint64_t number, const std::vector<uint64_t> &volume_bytes) {
  HeaderPage header{};
  if (const int error = read_page(fd_.get(), 0, &header)) return Status::failed(error, "read " + path + ": header");
  if (header.magic != kHeaderMagic || header.version != kVersion || header.number != number ||
      header.volume_count != volume_bytes.size() || header.volume_bytes != sum(volume_bytes))
    return Status::failed(EBADMSG, "read " + path + ": it is not of this store");
  start_ = {number, header.log_offset, {{header.incarnation, header.sequence}, header.time_ns}};
  volume_bytes_ = volume_bytes;
  if (load_footer()) return Status::good();
  make_maps();
  if (const int error = load_batches()) return Status::failed(error, "read " + path);
  return Status::good();
}

bool SavedBlocks::load_footer() {
  struct stat info {};
  FooterPage footer{};
  if (fstat(fd_.get(), &info) != 0 || info.st_size % static_cast<off_t>(kPageBytes) != 0) return false;
  const auto pages = static_cast<uint64_t>(info.st_size) / kPageBytes;
  if (pages < 2 || read_page(fd_.get(), pages - 1, &footer) != 0) return false;
  if (footer.magic != kFooterMagic || (footer.version != kVersion && footer.version != kVersionCloned) || footer.number != start_.number ||
      footer.index_page + footer.index_pages + 1 != pages || footer.run_count > kEpochRunsMax)
    return false;
  is_closed_ = true;
  is_cloned_ = footer.version == kVersionCloned;
  index_page_ = footer.index_page;
  index_pages_ = footer.index_pages;
  changed_bytes_ = footer.changed_bytes;
  runs_.assign(footer.runs, footer.runs + footer.run_count);
  end_ = pages * kPageBytes;
  return true;
}

bool SavedBlocks::fits(const SavedBlock &entry) const {
  const uint64_t volume = entry.key >> kBlockBits, block = entry.key & ((uint64_t{1} << kBlockBits) - 1);
  return volume < volume_bytes_.size() && block * kViewBlockBytes < volume_bytes_[volume];
}

// Whole batches, one behind the other. Of the blocks of each the checksums too: the last may be torn.
int SavedBlocks::load_batches() {
  end_ = kPageBytes;
  std::vector<uint8_t> bytes;
  for (;;) {
    BatchHead head{};
    size_t done = 0;
    if (const int error = read_at(fd_.get(), &head, sizeof head, end_, &done)) return error;
    const bool is_cloned = head.magic == kClonedMagic;
    if (done != sizeof head || (head.magic != kBatchMagic && !is_cloned) || head.number != start_.number || head.pages > head.count ||
        head.count > (64u << 20) / sizeof(SavedBlock))
      return 0;
    const uint64_t start = head_pages(head.count) * kPageBytes, all = start + uint64_t{head.pages} * kPageBytes;
    bytes.resize(all);
    if (const int error = read_at(fd_.get(), bytes.data(), all, end_, &done)) return error;
    if (done != all) return 0;
    const uint32_t expected = head.crc32c;
    memset(bytes.data() + offsetof(BatchHead, crc32c), 0, sizeof head.crc32c);
    if (crc32c(0, bytes.data(), sizeof head + head.count * sizeof(SavedBlock)) != expected) return 0;
    std::vector<SavedBlock> batch(head.count);
    memcpy(batch.data(), bytes.data() + sizeof head, head.count * sizeof(SavedBlock));
    for (const SavedBlock &entry : batch) {
      if (!fits(entry)) return 0;
      if (!entry.page) continue;
      const uint64_t at = uint64_t{entry.page} * kPageBytes - end_;
      if (at < start || at + kPageBytes > all || crc32c(0, bytes.data() + at, kPageBytes) != entry.crc32c) return 0;
    }
    end_ += all;
    accept(batch);
    if (is_cloned) is_cloned_ = true;
  }
}

int SavedBlocks::go_on() {
  if (ftruncate(fd_.get(), static_cast<off_t>(end_)) != 0) return errno;
  return sync();
}

int SavedBlocks::append(std::vector<SavedBlock> &batch, const uint8_t *blocks) {
  CHECK(!is_closed_);
  std::vector<uint8_t> bytes(head_pages(batch.size()) * kPageBytes);
  const uint64_t first_page = (end_ + bytes.size()) / kPageBytes;
  uint64_t pages = 0;
  if (first_page + batch.size() > UINT32_MAX) return EFBIG;
  for (size_t i = 0; i < batch.size(); i++) {
    const uint8_t *block = blocks + i * kPageBytes;
    const bool is_zero = all_zero(block, kPageBytes);
    batch[i].page = is_zero ? 0 : static_cast<uint32_t>(first_page + pages++);
    batch[i].crc32c = is_zero ? 0 : crc32c(0, block, kPageBytes);
  }
  BatchHead head{kBatchMagic, 0, start_.number, static_cast<uint32_t>(batch.size()), static_cast<uint32_t>(pages)};
  memcpy(bytes.data(), &head, sizeof head);
  memcpy(bytes.data() + sizeof head, batch.data(), batch.size() * sizeof(SavedBlock));
  head.crc32c = crc32c(0, bytes.data(), sizeof head + batch.size() * sizeof(SavedBlock));
  memcpy(bytes.data(), &head, sizeof head);
  int error = write_at(fd_.get(), bytes.data(), bytes.size(), end_);
  for (size_t i = 0, next; !error && i < batch.size(); i = next) {  // what lies together, at once
    for (next = i + 1; next < batch.size() && (batch[next].page != 0) == (batch[i].page != 0);) next++;
    if (batch[i].page) error = write_at(fd_.get(), blocks + i * kPageBytes, (next - i) * kPageBytes, uint64_t{batch[i].page} * kPageBytes);
  }
  if (error) {
    (void)!ftruncate(fd_.get(), static_cast<off_t>(end_));
    return error;
  }
  end_ += bytes.size() + pages * kPageBytes;
  return 0;
}

void SavedBlocks::accept(const std::vector<SavedBlock> &batch) {
  for (const SavedBlock &entry : batch) {
    entries_.push_back(entry);
    note(entry);
  }
}

int SavedBlocks::append_cloned() {
  std::array<uint8_t, kPageBytes> page{};
  BatchHead head{kClonedMagic, 0, start_.number, 0, 0};
  head.crc32c = crc32c(0, &head, sizeof head);
  memcpy(page.data(), &head, sizeof head);
  if (const int error = write_at(fd_.get(), page.data(), page.size(), end_)) {
    (void)!ftruncate(fd_.get(), static_cast<off_t>(end_));
    return error;
  }
  end_ += page.size();
  return 0;
}

int SavedBlocks::sync() {
  if (fdatasync(fd_.get()) != 0) return errno;
  synced_end_ = end_;
  synced_entries_ = entries_.size();
  return 0;
}

void SavedBlocks::retract() {
  (void)!ftruncate(fd_.get(), static_cast<off_t>(synced_end_));
  end_ = synced_end_;
  entries_.resize(synced_entries_);
  make_maps();
  for (const SavedBlock &entry : entries_) note(entry);
}

void SavedBlocks::make_maps() {
  maps_.clear();
  for (uint64_t bytes : volume_bytes_) maps_.push_back(std::make_unique<BlockMap>(bytes / kViewBlockBytes + 1));
}

void SavedBlocks::note(const SavedBlock &entry) {
  maps_[entry.key >> kBlockBits]->set(entry.key & ((uint64_t{1} << kBlockBits) - 1), 1);
}

int SavedBlocks::close(const std::vector<EpochRun> &runs, uint64_t changed_bytes) {
  CHECK(!is_closed_ && runs.size() <= kEpochRunsMax);
  std::sort(entries_.begin(), entries_.end(), by_key);
  FooterPage footer{};
  footer.magic = kFooterMagic;
  footer.version = is_cloned_ ? kVersionCloned : kVersion;
  footer.number = start_.number;
  footer.index_page = end_ / kPageBytes;
  footer.index_pages = (entries_.size() + kIndexEntries - 1) / kIndexEntries;
  footer.run_count = runs.size();
  std::copy(runs.begin(), runs.end(), footer.runs);
  footer.changed_bytes = changed_bytes;
  footer.crc32c = checksum(footer);
  uint64_t at = end_;
  std::vector<IndexPage> pages;  // a few at a time
  for (uint64_t i = 0; i < footer.index_pages; i++) {
    IndexPage &page = pages.emplace_back();
    page.count = static_cast<uint32_t>(std::min(kIndexEntries, entries_.size() - i * kIndexEntries));
    std::copy_n(entries_.begin() + static_cast<ptrdiff_t>(i * kIndexEntries), page.count, page.entries);
    page.crc32c = checksum(page);
    if (pages.size() < kPagesAtOnce && i + 1 < footer.index_pages) continue;
    if (const int error = write_at(fd_.get(), pages.data(), pages.size() * kPageBytes, at)) return error;
    at += pages.size() * kPageBytes;
    pages.clear();
  }
  if (const int error = write_at(fd_.get(), &footer, sizeof footer, at)) return error;
  if (const int error = sync()) return error;
  end_ = at + kPageBytes;
  index_page_ = footer.index_page;
  index_pages_ = footer.index_pages;
  runs_ = runs;
  changed_bytes_ = changed_bytes;
  is_closed_ = true;
  return 0;
}

void SavedBlocks::drop_entries() {
  CHECK(is_closed_);
  maps_.clear();
  entries_ = {};
}

int SavedBlocks::read_index_page(uint64_t page, std::vector<SavedBlock> *entries) const {
  IndexPage read{};
  if (const int error = read_page(fd_.get(), index_page_ + page, &read)) return error;
  if (read.count == 0 || read.count > kIndexEntries) return EBADMSG;
  entries->assign(read.entries, read.entries + read.count);
  return 0;
}

int SavedBlocks::find(uint64_t first_key, uint64_t count, const std::function<void(const SavedBlock &)> &found) const {
  CHECK(is_closed_);
  std::vector<SavedBlock> entries;
  uint64_t low = 0, high = index_pages_;  // the last page whose first key is not above first_key lies in [low, high)
  while (high - low > 1) {
    const uint64_t middle = (low + high) / 2;
    if (const int error = read_index_page(middle, &entries)) return error;
    (entries.front().key <= first_key ? low : high) = middle;
  }
  for (uint64_t page = low; page < index_pages_; page++) {
    if (const int error = read_index_page(page, &entries)) return error;
    if (entries.front().key >= first_key + count) return 0;
    for (const SavedBlock &entry : entries)
      if (entry.key >= first_key && entry.key < first_key + count) found(entry);
  }
  return 0;
}

int SavedBlocks::read(const SavedBlock &block, uint8_t *data) const {
  if (!block.page) return memset(data, 0, kPageBytes), 0;
  size_t done = 0;
  if (const int error = read_at(fd_.get(), data, kPageBytes, uint64_t{block.page} * kPageBytes, &done)) return error;
  return done == kPageBytes && crc32c(0, data, kPageBytes) == block.crc32c ? 0 : EBADMSG;
}

}  // namespace understudy::replay
