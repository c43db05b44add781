// Numbers and names as FAT, exFAT and NTFS have them on the disk: little-endian, unaligned, UTF-16.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>

namespace understudy::filesystem {

// On the little-endian machines that this runs on.
template <typename Number>
Number little_endian(const uint8_t *at) {
  Number value;
  memcpy(&value, at, sizeof value);
  return value;
}
inline uint16_t le16(const uint8_t *at) { return little_endian<uint16_t>(at); }
inline uint32_t le32(const uint8_t *at) { return little_endian<uint32_t>(at); }
inline uint64_t le64(const uint8_t *at) { return little_endian<uint64_t>(at); }

// As UTF-8. Half a surrogate pair, which these file systems allow, becomes three bytes that are no UTF-8: a name of its own.
inline void append_utf16(std::string &text, const uint8_t *units, size_t count) {
  const auto append = [&](uint32_t code) {
    if (code < 0x80) return text.push_back(static_cast<char>(code));
    if (code >= 0x10000) text.push_back(static_cast<char>(0xf0 | code >> 18)), text.push_back(static_cast<char>(0x80 | (code >> 12 & 0x3f)));
    else if (code >= 0x800) text.push_back(static_cast<char>(0xe0 | code >> 12));
    if (code >= 0x800) text.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3f)));
    else text.push_back(static_cast<char>(0xc0 | code >> 6));
    text.push_back(static_cast<char>(0x80 | (code & 0x3f)));
  };
  for (size_t i = 0; i < count; i++) {
    const uint32_t unit = le16(units + 2 * i), next = i + 1 < count ? le16(units + 2 * i + 2) : 0;
    if ((unit & 0xfc00) == 0xd800 && (next & 0xfc00) == 0xdc00) append(0x10000 + ((unit & 0x3ff) << 10) + (next & 0x3ff)), i++;
    else append(unit);
  }
}

}  // namespace understudy::filesystem
