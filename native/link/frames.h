// Frames of the control stream: cut out of what arrives, put together for what leaves.
#pragma once
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/crc32c.h"
#include "core/status.h"
#include "wire/control.h"

namespace understudy::link {

class FrameReader {
 public:
  using Handler = std::function<void(wire::FrameType type, std::span<const uint8_t> body)>;
  // Calls handler for each complete frame; holds at most one incomplete one. An error is the end of the session.
  Status feed(std::span<const uint8_t> bytes, const Handler &handler);

 private:
  std::vector<uint8_t> pending_;
};

std::vector<uint8_t> make_frame(wire::FrameType type, const void *body, size_t bytes);

}  // namespace understudy::link
