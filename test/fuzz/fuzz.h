// What the fuzzers share: bytes by seed, mutation of valid input, delivery in odd pieces. Each fuzzer is a plain program:
//   NAME [seconds] [seed]
// It prints the seed of the run; the same seed gives the same inputs. A sanitizer or a CHECK ends it.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <span>
#include <vector>

namespace fuzz {
using Bytes = std::vector<uint8_t>;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t below(uint64_t limit) { return limit ? engine_() % limit : 0; }
  bool one_in(uint64_t count) { return below(count) == 0; }
  // Numbers near the edges that parsers get wrong, or any.
  uint64_t odd() {
    static constexpr uint64_t kEdges[] = {0, 1, 512, 4096, 1u << 16, 1u << 20, 32u << 20, 1ull << 31, 1ull << 32, 1ull << 63, 0};
    if (one_in(4)) return engine_();
    return kEdges[below(std::size(kEdges))] + below(5) - 2;
  }

 private:
  std::mt19937_64 engine_;
};

inline void mutate(Bytes &bytes, Random &random) {
  for (uint64_t count = 1 + random.below(4); count && !bytes.empty(); count--) {
    const size_t at = random.below(bytes.size());
    switch (random.below(5)) {
      case 0: bytes[at] ^= static_cast<uint8_t>(1u << random.below(8)); break;
      case 1: bytes[at] = static_cast<uint8_t>(random.below(256)); break;
      case 2: bytes.erase(bytes.begin() + at, bytes.begin() + std::min(bytes.size(), at + 1 + random.below(40))); break;
      case 3: bytes.insert(bytes.begin() + at, 1 + random.below(40), static_cast<uint8_t>(random.below(256))); break;
      default: {
        const uint64_t value = random.odd();
        memcpy(bytes.data() + at, &value, std::min<size_t>(sizeof value, bytes.size() - at));
      }
    }
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

inline int run(const char *name, int argc, char **argv, const std::function<void(Random &)> &round) {
  const double seconds = argc > 1 ? atof(argv[1]) : 10;
  const uint64_t seed = argc > 2 ? strtoull(argv[2], nullptr, 10) : std::random_device{}();
  printf("%s: seed %llu\n", name, static_cast<unsigned long long>(seed));
  fflush(stdout);
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  uint64_t rounds = 0;
  for (; std::chrono::steady_clock::now() < end; rounds++) {
    Random random(seed + rounds);
    round(random);
  }
  printf("%s: %llu rounds\n", name, static_cast<unsigned long long>(rounds));
  return 0;
}

}  // namespace fuzz
