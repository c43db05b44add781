#include "link/frames.h"

#include <cerrno>

#include "core/check.h"

namespace understudy::link {

Status FrameReader::feed(std::span<const uint8_t> bytes, const Handler &handler) {
  pending_.insert(pending_.end(), bytes.begin(), bytes.end());
  size_t at = 0;
  while (pending_.size() - at >= sizeof(wire::FrameHeader)) {
    wire::FrameHeader header;
    memcpy(&header, pending_.data() + at, sizeof header);
    if (header.magic != wire::kFrameMagic) return Status::failed(EPROTO, "control frame: not a frame (magic)");
    if (header.body_bytes > wire::kFrameBytesMax)
      return Status::failed(EMSGSIZE, "control frame: " + std::to_string(header.body_bytes) + " bytes");
    if (pending_.size() - at < sizeof header + header.body_bytes) break;
    const std::span body(pending_.data() + at + sizeof header, header.body_bytes);
    if (crc32c(0, body.data(), body.size()) != header.body_crc32c)
      return Status::failed(EBADMSG, "control frame: its checksum differs");
    handler(header.type, body);
    at += sizeof header + header.body_bytes;
  }
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(at));
  return Status::good();
}

std::vector<uint8_t> make_frame(wire::FrameType type, const void *body, size_t bytes) {
  CHECK(bytes <= wire::kFrameBytesMax);
  const wire::FrameHeader header{static_cast<uint32_t>(bytes), type, 0, crc32c(0, body, bytes), wire::kFrameMagic};
  std::vector<uint8_t> frame(sizeof header + bytes);
  memcpy(frame.data(), &header, sizeof header);
  if (bytes) memcpy(frame.data() + sizeof header, body, bytes);
  return frame;
}

}  // namespace understudy::link
