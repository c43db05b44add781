// Slab: memory for what is read or written on a worker. It lies as the bytes lie on the device, so that a DirectFile
// takes it as it is where offset and length allow, and is not filled with zeroes first.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "core/check.h"
#include "engine/direct-file.h"

namespace understudy::engine {

class Slab {
 public:
  Slab(size_t bytes, uint64_t offset) : lead_(offset % kAlignment), bytes_(bytes) {
    const size_t whole = (lead_ + bytes + kAlignment - 1) / kAlignment * kAlignment;
    memory_.reset(static_cast<uint8_t *>(aligned_alloc(kAlignment, whole)));
    CHECK(memory_);
  }
  uint8_t *data() const { return memory_.get() + lead_; }
  size_t size() const { return bytes_; }

 private:
  static constexpr size_t kAlignment = DirectFile::kAlignmentMax;
  struct Free {
    void operator()(uint8_t *memory) const { free(memory); }
  };
  const size_t lead_, bytes_;
  std::unique_ptr<uint8_t, Free> memory_;
};

}  // namespace understudy::engine
