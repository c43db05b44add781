// Space: bytes that somebody counts from 0, and where they lie on the device: a partition is one piece, a logical volume
// may be many, or stripes.
//
//   space    | 0 ............ | ............ | stripe | stripe | stripe | ...
//   device        piece A          piece B     disk at A  at B     at A
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/status.h"

namespace understudy::filesystem {

// [start, start + size_bytes) of the space. offsets: where on the device, one for each stripe.
struct Piece {
  uint64_t start = 0;
  uint64_t size_bytes = 0;   // a multiple of stripe_bytes * offsets.size() when there are several
  uint64_t stripe_bytes = 0;  // 0: one stripe, as long as the piece
  std::vector<uint64_t> offsets;
};

class Space {
 public:
  Space() = default;
  // One piece of the device.
  Space(int fd, uint64_t offset, uint64_t size_bytes) : fd_(fd) { append({0, size_bytes, 0, {offset}}); }
  explicit Space(int fd) : fd_(fd) {}

  // piece.start is set to the end of what there is.
  void append(Piece piece);
  uint64_t size_bytes() const { return pieces_.empty() ? 0 : pieces_.back().start + pieces_.back().size_bytes; }
  int fd() const { return fd_; }
  const std::vector<Piece> &pieces() const { return pieces_; }

  // All of it, or an error: EIO behind the end. Reads through the page cache, as clients' writes go.
  Status read(uint64_t offset, void *data, size_t bytes) const;

  // visit(device offset, bytes) for what [offset, offset + bytes) is on the device, in the order of the space. What lies
  // behind the end is left out.
  template <typename Visit>
  void map(uint64_t offset, uint64_t bytes, Visit visit) const;

  // The other way round: visit(offset in the space, bytes) for what [offset, offset + bytes) of the device is here.
  template <typename Visit>
  void unmap(uint64_t offset, uint64_t bytes, Visit visit) const;

 private:
  int fd_ = -1;  // not owned
  std::vector<Piece> pieces_;
};

template <typename Visit>
void Space::map(uint64_t offset, uint64_t bytes, Visit visit) const {
  const uint64_t end = offset > size_bytes() ? offset : offset + std::min(bytes, size_bytes() - offset);
  auto piece = std::upper_bound(pieces_.begin(), pieces_.end(), offset, [](uint64_t at, const Piece &one) { return at < one.start; });
  for (piece -= piece != pieces_.begin(); piece != pieces_.end() && offset < end; ++piece) {
    while (offset < end && offset - piece->start < piece->size_bytes) {
      const uint64_t inside = offset - piece->start, stripe = piece->stripe_bytes ? piece->stripe_bytes : piece->size_bytes;
      const uint64_t unit = inside / stripe, stripes = piece->offsets.size();
      const uint64_t run = std::min(stripe - inside % stripe, end - offset);
      visit(piece->offsets[unit % stripes] + unit / stripes * stripe + inside % stripe, run);
      offset += run;
    }
  }
}

template <typename Visit>
void Space::unmap(uint64_t offset, uint64_t bytes, Visit visit) const {
  for (const Piece &piece : pieces_) {
    const uint64_t stripes = piece.offsets.size(), stripe = piece.stripe_bytes ? piece.stripe_bytes : piece.size_bytes;
    for (uint64_t number = 0; number < stripes; number++) {
      const uint64_t begin = piece.offsets[number], end = std::min(offset + bytes, begin + piece.size_bytes / stripes);
      for (uint64_t at = std::max(offset, begin); at < end;) {
        const uint64_t unit = (at - begin) / stripe, into = (at - begin) % stripe, run = std::min(stripe - into, end - at);
        visit(piece.start + (unit * stripes + number) * stripe + into, run);
        at += run;
      }
    }
  }
}

}  // namespace understudy::filesystem
