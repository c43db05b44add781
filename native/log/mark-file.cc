#include "log/mark-file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "core/check.h"
#include "core/crc32c.h"
#include "core/on-disk.h"

namespace understudy::log {
namespace {

constexpr uint64_t kMagic = 0x31304b52'414d5355;  // "USMARK01"
constexpr size_t kSlotBytes = 4096, kBodyBytes = MarkFile::kBlockWords * 8;

struct HeaderBody {
  uint64_t size_bytes;
  uint32_t region_bytes, reserved;
  uint64_t incarnation, durable;
  char uuid[64];
};

int write_all(int fd, const void *data, size_t bytes, uint64_t offset) {
  auto *at = static_cast<const char *>(data);
  while (bytes) {
    const ssize_t n = pwrite(fd, at, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    at += n, offset += static_cast<uint64_t>(n), bytes -= static_cast<size_t>(n);
  }
  return 0;
}

int sync_directory_of(const std::string &path) {
  const size_t slash = path.rfind('/');
  Fd fd(open(slash == std::string::npos ? "." : path.substr(0, slash + 1).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return fd && fsync(fd.get()) == 0 ? 0 : errno;
}

}  // namespace

struct MarkFile::Slot {
  uint64_t magic;
  uint64_t generation;  // its parity is the slot's number
  uint32_t number;      // of the block
  uint32_t crc;         // over the slot with 0 here
  uint64_t reserved;
  uint8_t body[kBodyBytes];

  uint32_t checksum() const {
    Slot copy = *this;
    copy.crc = 0;
    return crc32c(0, &copy, sizeof copy);
  }
};

uint64_t MarkFile::blocks_of(uint64_t size_bytes) {
  const uint64_t covered = kBlockWords * 64 * DirtyMap::kRegion;
  return (size_bytes + covered - 1) / covered;
}

MarkFile::MarkFile(std::string path, const Owner &owner)
    : path_(std::move(path)), owner_(owner), generations_(1 + blocks_of(owner.size_bytes)) {
  static_assert(sizeof(Slot) == kSlotBytes && sizeof(HeaderBody) <= kBodyBytes);
}

Result<std::unique_ptr<MarkFile>> MarkFile::create(const std::string &path, const Owner &owner, const Floor &floor) {
  std::unique_ptr<MarkFile> file(new MarkFile(path, owner));
  const std::string scratch = path + ".new";
  file->fd_ = Fd(::open(scratch.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file->fd_) return Status::failed(errno, "create dirty map " + scratch);
  // All of its space at once, so that no mark fails later because a disk is full.
  const off_t bytes = static_cast<off_t>(file->generations_.size() * 2 * kSlotBytes);
  int error = fallocate(file->fd_.get(), 0, 0, bytes) == 0 ? 0 : errno;
  if (error == EOPNOTSUPP) error = 0;
  uint8_t body[kBodyBytes] = {};
  file->body_of_header(floor, body);
  for (uint64_t generation : {1, 2})
    if (!error) error = file->write_slot(0, generation, body, sizeof body);
  if (error) return Status::failed(error, "create dirty map " + scratch);
  return file;
}

void MarkFile::body_of_header(const Floor &floor, uint8_t *body) const {
  HeaderBody header{owner_.size_bytes, DirtyMap::kRegion, 0, floor.incarnation, floor.durable, {}};
  owner_.uuid.copy(header.uuid, sizeof header.uuid - 1);
  memcpy(body, &header, sizeof header);
}

Result<MarkFile::Opened> MarkFile::open(const std::string &path, const Owner &owner, DirtyMap &dirty) {
  Opened opened;
  opened.file.reset(new MarkFile(path, owner));
  MarkFile &file = *opened.file;
  file.fd_ = Fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!file.fd_) return Status::failed(errno, "read dirty map " + path);
  if (const int error = read_from_disk(file.fd_.get())) return Status::failed(error, "sync dirty map " + path);
  file.published_ = true;
  std::vector<Slot> slots(2);
  bool whole = false;
  if (!file.read_block(0, slots.data(), &whole))
    return Status::failed(EINVAL, "read dirty map " + path + ": its header is damaged");
  HeaderBody header, expected;
  uint8_t body[kBodyBytes] = {};
  memcpy(&header, slots[0].body, sizeof header);
  opened.floor = {header.incarnation, header.durable};
  file.body_of_header(opened.floor, body);
  memcpy(&expected, body, sizeof expected);
  if (memcmp(&header, &expected, sizeof header) != 0)
    return Status::failed(EINVAL, "read dirty map " + path + ": it is of another volume");
  const uint64_t words = dirty.words();
  for (uint64_t block = 0; block + 1 < file.generations_.size(); block++) {
    const uint64_t first = block * kBlockWords, count = std::min<uint64_t>(kBlockWords, words - first);
    const bool readable = file.read_block(block + 1, slots.data(), &whole);
    std::vector<uint64_t> marks(kBlockWords, ~0ull);
    if (readable && whole) memcpy(marks.data(), slots[0].body, kBodyBytes);
    for (uint64_t i = 0; i < count; i++) dirty.merge(first + i, marks[i]);
    if (readable && whole) continue;
    opened.damaged_blocks++;
    if (const int error = file.fill(block, marks.data())) return Status::failed(error, "mend dirty map " + path);
  }
  if (opened.damaged_blocks)
    if (const int error = file.sync()) return Status::failed(error, "mend dirty map " + path);
  return opened;
}

// slots[0] becomes the newest that can be believed; false: neither can. whole: both can.
bool MarkFile::read_block(uint64_t number, Slot *slots, bool *whole) {
  memset(slots, 0, 2 * kSlotBytes);
  size_t have = 0;
  while (have < 2 * kSlotBytes) {
    const ssize_t n = pread(fd_.get(), reinterpret_cast<char *>(slots) + have, 2 * kSlotBytes - have,
                            static_cast<off_t>(number * 2 * kSlotBytes + have));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;  // what could not be read has no magic
    have += static_cast<size_t>(n);
  }
  bool good[2];
  for (uint64_t i = 0; i < 2; i++)
    good[i] = slots[i].magic == kMagic && slots[i].number == number && slots[i].generation % 2 == i &&
              slots[i].crc == slots[i].checksum();
  const uint64_t a = slots[0].generation, b = slots[1].generation;
  *whole = good[0] && good[1] && (a + 1 == b || b + 1 == a);
  if (!good[0] && !good[1]) return false;
  if (good[1] && (!good[0] || b > a)) std::swap(slots[0], slots[1]);
  generations_[number] = slots[0].generation;
  return true;
}

int MarkFile::write_slot(uint64_t number, uint64_t generation, const void *body, size_t bytes) {
  Slot slot{};
  slot.magic = kMagic;
  slot.generation = generation;
  slot.number = static_cast<uint32_t>(number);
  memcpy(slot.body, body, bytes);
  slot.crc = slot.checksum();
  generations_[number] = generation;
  return write_all(fd_.get(), &slot, sizeof slot, (number * 2 + generation % 2) * kSlotBytes);
}

int MarkFile::fill(uint64_t block, const uint64_t *words) {
  const uint64_t before = generations_[block + 1];
  const int error = write_slot(block + 1, before + 1, words, kBodyBytes);
  return error ? error : write_slot(block + 1, before + 2, words, kBodyBytes);
}

int MarkFile::write(uint64_t block, const uint64_t *words) {
  return write_slot(block + 1, generations_[block + 1] + 1, words, kBodyBytes);
}

int MarkFile::write_floor(const Floor &floor) {
  uint8_t body[kBodyBytes] = {};
  body_of_header(floor, body);
  return write_slot(0, generations_[0] + 1, body, sizeof body);
}

int MarkFile::sync() { return fdatasync(fd_.get()) == 0 ? 0 : errno; }

int MarkFile::publish() {
  if (published_) return 0;
  if (fsync(fd_.get()) != 0 || rename((path_ + ".new").c_str(), path_.c_str()) != 0) return errno;
  published_ = true;
  return sync_directory_of(path_);
}

int MarkFile::remove(const std::string &path) {
  unlink((path + ".new").c_str());
  if (unlink(path.c_str()) != 0) return errno == ENOENT ? 0 : errno;
  return sync_directory_of(path);
}

}  // namespace understudy::log
