// What the fuzzers share: choices that libFuzzer steers, mutation of valid input, delivery in odd pieces.
// Each fuzzer makes its input out of the bytes that it is given, so that coverage guides it through checksums and
// structures that random bytes would never pass. A sanitizer or a CHECK ends it.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <span>
#include <vector>

namespace fuzz {
using Bytes = std::vector<uint8_t>;

// Takes its choices from the input, and goes on by a generator that the input seeds.
class Random {
 public:
  explicit Random(std::span<const uint8_t> input) : input_(input) {
    uint64_t seed = input.size();
    for (uint8_t byte : input) seed = (seed ^ byte) * 0x100000001b3;
    engine_.seed(seed);
  }
  uint64_t below(uint64_t limit) { return limit ? next() % limit : 0; }
  bool one_in(uint64_t count) { return below(count) == 0; }
  // Numbers near the edges that parsers get wrong, or any.
  uint64_t odd() {
    static constexpr uint64_t kEdges[] = {0, 1, 512, 4096, 1u << 16, 1u << 20, 32u << 20, 1ull << 31, 1ull << 32, 1ull << 63, 0};
    if (one_in(4)) return next();
    return kEdges[below(std::size(kEdges))] + below(5) - 2;
  }

 private:
  uint64_t next() {
    if (at_ + 2 > input_.size()) return engine_();
    const uint64_t value = input_[at_] | input_[at_ + 1] << 8;
    at_ += 2;
    return value;
  }
  std::span<const uint8_t> input_;
  size_t at_ = 0;
  std::mt19937_64 engine_;
};

// One byte, or the number that begins there: a bit flipped, any value, one near an edge.
inline void spoil(Bytes &bytes, size_t at, uint64_t kind, Random &random) {
  switch (kind) {
    case 0: bytes[at] ^= static_cast<uint8_t>(1u << random.below(8)); break;
    case 1: bytes[at] = static_cast<uint8_t>(random.below(256)); break;
    default: {
      const uint64_t value = random.odd();
      memcpy(bytes.data() + at, &value, std::min<size_t>(sizeof value, bytes.size() - at));
    }
  }
}

// Moves what follows by 40 bytes at most: several moves could add up to the bytes of one record, which is then a whole
// one in another's place. Nothing but the encryption of the link and the sectors of a disk keep that from happening.
inline void mutate(Bytes &bytes, Random &random) {
  bool moved = false;
  for (uint64_t count = 1 + random.below(4); count && !bytes.empty(); count--) {
    const size_t at = random.below(bytes.size());
    const uint64_t kind = random.below(5);
    const bool moves = kind == 2 || kind == 3;
    if (!moves || moved) spoil(bytes, at, moves ? 0 : kind, random);
    else if (kind == 2)
      bytes.erase(bytes.begin() + at, bytes.begin() + std::min(bytes.size(), at + 1 + random.below(40)));
    else
      bytes.insert(bytes.begin() + at, 1 + random.below(40), static_cast<uint8_t>(random.below(256)));
    moved |= moves;
  }
}

inline void in_pieces(const Bytes &bytes, Random &random, const std::function<void(std::span<const uint8_t>)> &take) {
  const size_t most = 1 + random.below(random.one_in(2) ? 40 : 1u << 16);
  for (size_t at = 0; at < bytes.size();) {
    const size_t part = std::min(bytes.size() - at, 1 + random.below(most));
    take({bytes.data() + at, part});
    at += part;
  }
}

void round(Random &random);  // each fuzzer's own: one input

}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  fuzz::Random random({data, bytes});
  fuzz::round(random);
  return 0;
}
