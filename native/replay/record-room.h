// Where the bytes of a record stream go, for who writes them there itself.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/status.h"

namespace understudy::replay {

class RecordRoom {
 public:
  virtual ~RecordRoom() = default;
  // Room for the next `bytes` of the stream; null: not now. Nothing has happened before placed().
  virtual uint8_t *place(size_t bytes) = 0;
  // So many have been written there. An error is a protocol violation: the session must be reset.
  virtual Status placed(size_t bytes) = 0;
};

}  // namespace understudy::replay
