#include "core/mirrored-ring.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "core/fd.h"
#include "core/memory-guard.h"

namespace understudy {

MirroredRing::~MirroredRing() {
  if (!data_) return;
  memory_guard::release(data_);
  munmap(data_, 2 * size_);
}

Result<MirroredRing> MirroredRing::create(size_t size) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  size = (size + page - 1) / page * page;
  Fd memory(memfd_create("understudy-ring", MFD_CLOEXEC));
  if (!memory || ftruncate(memory.get(), static_cast<off_t>(size)) != 0) return Status::failed(errno, "create ring");
  // One reservation of twice the size, then the same pages over both halves.
  void *base = mmap(nullptr, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return Status::failed(errno, "reserve ring");
  for (size_t half = 0; half < 2; half++) {
    void *want = static_cast<uint8_t *>(base) + half * size;
    if (mmap(want, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory.get(), 0) == MAP_FAILED) {
      Status status = Status::failed(errno, "map ring");
      munmap(base, 2 * size);
      return status;
    }
  }
  MirroredRing ring;
  ring.data_ = static_cast<uint8_t *>(base);
  ring.size_ = size;
  memory_guard::hold(base, 2 * size);
  return ring;
}

}  // namespace understudy
