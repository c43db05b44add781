#include "core/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace understudy {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // reflected

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ (value & 1 ? kPolynomial : 0);
    table[i] = value;
  }
  return table;
}
constexpr auto kTable = make_table();

uint32_t portable(uint32_t state, const uint8_t *data, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) state = (state >> 8) ^ kTable[(state ^ data[i]) & 0xff];
  return state;
}

#if defined(__x86_64__)
// The instruction takes 3 cycles but one can start in each: three lanes run side by side over kLane bytes each and are
// joined by moving a lane's state over kLane zero bytes, which is linear and so four table look-ups.
constexpr size_t kLane = 256;

// The state after `bytes` zero bytes, for each single bit of the state.
constexpr std::array<std::array<uint32_t, 256>, 4> make_shift(size_t bytes) {
  std::array<std::array<uint32_t, 256>, 4> shift{};
  for (int byte = 0; byte < 4; byte++) {
    std::array<uint32_t, 8> moved{};
    for (int bit = 0; bit < 8; bit++) {
      uint32_t state = 1u << (8 * byte + bit);
      for (size_t i = 0; i < bytes; i++) state = (state >> 8) ^ kTable[state & 0xff];
      moved[static_cast<size_t>(bit)] = state;
    }
    for (uint32_t value = 0; value < 256; value++) {
      uint32_t sum = 0;
      for (size_t bit = 0; bit < 8; bit++)
        if (value >> bit & 1) sum ^= moved[bit];
      shift[static_cast<size_t>(byte)][value] = sum;
    }
  }
  return shift;
}
constexpr auto kShift = make_shift(kLane);

uint32_t over_zeroes(uint32_t state) {
  return kShift[0][state & 0xff] ^ kShift[1][state >> 8 & 0xff] ^ kShift[2][state >> 16 & 0xff] ^ kShift[3][state >> 24];
}

uint64_t load(const uint8_t *data) {
  uint64_t value;
  memcpy(&value, data, sizeof value);
  return value;
}

__attribute__((target("sse4.2"))) uint32_t hardware(uint32_t start, const uint8_t *data, size_t bytes) {
  uint64_t state = start;
  while (bytes >= 3 * kLane) {
    uint64_t second = 0, third = 0;
    for (size_t i = 0; i < kLane; i += 8) {
      state = _mm_crc32_u64(state, load(data + i));
      second = _mm_crc32_u64(second, load(data + kLane + i));
      third = _mm_crc32_u64(third, load(data + 2 * kLane + i));
    }
    state = over_zeroes(static_cast<uint32_t>(state)) ^ second;
    state = over_zeroes(static_cast<uint32_t>(state)) ^ third;
    data += 3 * kLane;
    bytes -= 3 * kLane;
  }
  for (; bytes >= 8; data += 8, bytes -= 8) state = _mm_crc32_u64(state, load(data));
  for (; bytes; data++, bytes--) state = _mm_crc32_u8(static_cast<uint32_t>(state), *data);
  return static_cast<uint32_t>(state);
}
#endif

}  // namespace

uint32_t crc32c(uint32_t crc, const void *data, size_t bytes) {
  auto *start = static_cast<const uint8_t *>(data);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("sse4.2")) return ~hardware(~crc, start, bytes);
#endif
  return ~portable(~crc, start, bytes);
}

}  // namespace understudy
