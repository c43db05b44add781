#include "replay/watermark-file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/crc32c.h"
#include "core/on-disk.h"
#include "replay/file-io.h"

namespace understudy::replay {
namespace {

constexpr uint64_t kMagic = 0x31304b52'414d5355;  // "USMARK01"
constexpr uint32_t kVersion = 1;
constexpr uint64_t kSlotStride = 4096;
constexpr uint64_t kReachOffset = 2 * kSlotStride;

struct Slot {
  uint64_t magic;
  uint32_t version;
  uint32_t slot_crc32c;  // over this struct with 0 here
  uint64_t counter;
  uint64_t incarnation, sequence, bytes, committed;
  uint64_t log_offset, durable_offset, segment_index_next;
  uint64_t begin_sequence, phase;
  uint64_t volume_count, volume_bytes;
};
static_assert(sizeof(Slot) == 112);

uint32_t checksum(Slot slot) {
  slot.slot_crc32c = 0;
  return crc32c(0, &slot, sizeof slot);
}

Watermark from_slot(const Slot &slot) {
  Watermark mark;
  mark.applied = {slot.incarnation, slot.sequence};
  mark.bytes = slot.bytes;
  mark.committed = slot.committed;
  mark.log_offset = slot.log_offset;
  mark.durable_offset = slot.durable_offset;
  mark.segment_index_next = slot.segment_index_next;
  mark.begin_sequence = slot.begin_sequence;
  mark.phase = static_cast<ReplicaPhase>(slot.phase);
  mark.volume_count = slot.volume_count;
  mark.volume_bytes = slot.volume_bytes;
  return mark;
}

Slot to_slot(const Watermark &mark, uint64_t counter) {
  Slot slot{};
  slot.magic = kMagic;
  slot.version = kVersion;
  slot.counter = counter;
  slot.incarnation = mark.applied.incarnation;
  slot.sequence = mark.applied.sequence;
  slot.bytes = mark.bytes;
  slot.committed = mark.committed;
  slot.log_offset = mark.log_offset;
  slot.durable_offset = mark.durable_offset;
  slot.segment_index_next = mark.segment_index_next;
  slot.begin_sequence = mark.begin_sequence;
  slot.phase = static_cast<uint64_t>(mark.phase);
  slot.volume_count = mark.volume_count;
  slot.volume_bytes = mark.volume_bytes;
  slot.slot_crc32c = checksum(slot);
  return slot;
}

}  // namespace

Result<WatermarkFile> WatermarkFile::open(const std::string &directory) {
  WatermarkFile file;
  file.path_ = directory + "/watermark";
  file.fd_ = Fd(::open(file.path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file.fd_) return Status::failed(errno, "open " + file.path_);
  struct flock lock{};
  lock.l_type = F_WRLCK;
  if (fcntl(file.fd_.get(), F_OFD_SETLK, &lock) != 0)
    return Status::failed(errno == EAGAIN || errno == EACCES ? EBUSY : errno,
                          "lock " + file.path_ + ": another process has this store");
  return file;
}

Result<std::optional<Watermark>> WatermarkFile::load() {
  // 1. a slot is written 2. the process is killed before its fdatasync 3. the next one finds it in the page cache, and
  // removes the segments below it 4. power is lost, and the slot with it: the log would be damaged.
  if (const int error = read_from_disk(fd_.get())) return Status::failed(error, "sync " + path_);
  std::optional<Watermark> best;
  bool anything = false;
  for (uint64_t i = 0; i < 2; i++) {
    Slot slot{};
    size_t done = 0;
    if (int error = read_at(fd_.get(), &slot, sizeof slot, i * kSlotStride, &done))
      return Status::failed(error, "read " + path_);
    const Slot empty{};
    if (memcmp(&slot, &empty, sizeof slot) != 0) anything = true;
    if (done != sizeof slot || slot.magic != kMagic || slot.slot_crc32c != checksum(slot)) continue;
    if (slot.version != kVersion)
      return Status::failed(EPROTONOSUPPORT, "read " + path_ + ": version " + std::to_string(slot.version));
    if (best && slot.counter <= counter_) continue;
    counter_ = slot.counter;
    best = from_slot(slot);
  }
  uint64_t reached = 0;
  size_t done = 0;
  if (int error = read_at(fd_.get(), &reached, sizeof reached, kReachOffset, &done))
    return Status::failed(error, "read " + path_);
  if (best && done == sizeof reached) best->durable_offset = std::max(best->durable_offset, reached_ = reached);
  if (!best && anything) return Status::failed(EBADMSG, "read " + path_ + ": both slots are damaged");
  return best;
}

int WatermarkFile::store(const Watermark &watermark) {
  // A failed attempt is repeated in the same slot: the other one is the last that is known to be good.
  const uint64_t counter = counter_ + 1;
  const Slot slot = to_slot(watermark, counter);
  if (int error = write_at(fd_.get(), &slot, sizeof slot, counter % 2 * kSlotStride)) return error;
  if (fdatasync(fd_.get()) != 0) return errno;
  counter_ = counter;
  return 0;
}

void WatermarkFile::reach(uint64_t log_offset) {
  if (log_offset <= reached_) return;
  if (write_at(fd_.get(), &log_offset, sizeof log_offset, kReachOffset) == 0) reached_ = log_offset;
}

}  // namespace understudy::replay
