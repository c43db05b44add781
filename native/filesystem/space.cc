#include "filesystem/space.h"

#include <unistd.h>

#include <cerrno>
#include <string>

#include "core/check.h"

namespace understudy::filesystem {

void Space::append(Piece piece) {
  CHECK(!piece.offsets.empty() && (piece.stripe_bytes != 0 || piece.offsets.size() == 1));
  if (piece.size_bytes == 0) return;
  piece.start = size_bytes();
  pieces_.push_back(std::move(piece));
}

Status Space::read(uint64_t offset, void *data, size_t bytes) const {
  auto *at = static_cast<uint8_t *>(data);
  size_t left = bytes;
  Status status = Status::good();
  map(offset, bytes, [&](uint64_t place, uint64_t run) {
    while (run > 0 && status.ok()) {
      const ssize_t n = pread(fd_, at, run, static_cast<off_t>(place));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        status = Status::failed(n < 0 ? errno : EIO, "read " + std::to_string(run) + " bytes at " + std::to_string(place));
        return;
      }
      at += n, place += static_cast<uint64_t>(n), run -= static_cast<uint64_t>(n), left -= static_cast<size_t>(n);
    }
  });
  if (status.ok() && left > 0) return Status::failed(EIO, "read " + std::to_string(bytes) + " bytes at " + std::to_string(offset));
  return status;
}

}  // namespace understudy::filesystem
