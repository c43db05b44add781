// BlockMap: a sparse set of block numbers, for 16 TiB in 4 KiB blocks if need be; memory grows with what is set.
//
// One writer at a time, any readers at once; bits are only ever set. What the writer did before set() is seen by a
// reader that finds the bit (release/acquire).
#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "core/check.h"

namespace understudy::replay {

class BlockMap {
 public:
  explicit BlockMap(uint64_t blocks)
      : blocks_(blocks), page_count_(blocks / kPageBits + 1), pages_(new std::atomic<Page *>[page_count_]()) {}
  ~BlockMap() {
    for (uint64_t i = 0; i < page_count_; i++) delete pages_[i].load(std::memory_order_relaxed);
  }
  BlockMap(const BlockMap &) = delete;
  BlockMap &operator=(const BlockMap &) = delete;

  bool test(uint64_t block) const { return word_at(block) >> (block % 64) & 1; }

  void set(uint64_t first, uint64_t count) {
    CHECK(first + count <= blocks_);
    for (uint64_t block = first; block < first + count;) {
      const uint64_t in_word = std::min<uint64_t>(64 - block % 64, first + count - block);
      const uint64_t mask = (in_word == 64 ? ~0ull : (1ull << in_word) - 1) << (block % 64);
      page_for(block)->words[block % kPageBits / 64].fetch_or(mask, std::memory_order_acq_rel);
      block += in_word;
    }
  }

  // How many blocks from `first` on, at most `count`, are like `first`, and what that is.
  struct Run {
    uint64_t count;
    bool value;
  };
  Run run(uint64_t first, uint64_t count) const {
    const bool value = test(first);
    const uint64_t uniform = value ? ~0ull : 0;
    uint64_t block = first;
    while (block < first + count) {
      if (!value && !pages_[block / kPageBits].load(std::memory_order_acquire)) {
        block = (block / kPageBits + 1) * kPageBits;
      } else if (block % 64 == 0 && word_at(block) == uniform) {
        block += 64;
      } else if (test(block) == value) {
        block++;
      } else {
        break;
      }
    }
    return {std::min(block - first, count), value};
  }
  bool any(uint64_t first, uint64_t count) const {
    if (!count) return false;
    const Run like = run(first, count);
    return like.value || like.count < count;
  }
  bool all(uint64_t first, uint64_t count) const {
    if (!count) return true;
    const Run like = run(first, count);
    return like.value && like.count == count;
  }

 private:
  static constexpr uint64_t kPageBits = 65536;
  struct Page {
    std::array<std::atomic<uint64_t>, kPageBits / 64> words{};
  };
  uint64_t word_at(uint64_t block) const {
    const Page *page = pages_[block / kPageBits].load(std::memory_order_acquire);
    return page ? page->words[block % kPageBits / 64].load(std::memory_order_acquire) : 0;
  }
  Page *page_for(uint64_t block) {
    std::atomic<Page *> &slot = pages_[block / kPageBits];
    if (!slot.load(std::memory_order_relaxed)) slot.store(new Page(), std::memory_order_release);
    return slot.load(std::memory_order_relaxed);
  }

  uint64_t blocks_;
  uint64_t page_count_;
  std::unique_ptr<std::atomic<Page *>[]> pages_;
};

// The blocks of `block_bytes` that [offset, offset + bytes) touches.
struct BlockRange {
  uint64_t first, count;
};
inline BlockRange blocks_touched(uint64_t offset, uint64_t bytes, uint64_t block_bytes) {
  if (!bytes) return {offset / block_bytes, 0};
  const uint64_t first = offset / block_bytes;
  return {first, (offset + bytes - 1) / block_bytes - first + 1};
}

}  // namespace understudy::replay
