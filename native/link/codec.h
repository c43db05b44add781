// Codec: what compresses the batches of a session, and expands them: zstd or lz4. One thread at a time.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace understudy::link {

enum class Compression : uint8_t { kOff, kZstd, kLz4 };
Compression compression_named(const std::string &name);  // kOff: what is not known, too

class Codec {
 public:
  static std::unique_ptr<Codec> make(Compression compression);  // null: kOff
  virtual ~Codec() = default;
  // The bytes written to `out`; 0: more than `bytes_max` would be needed.
  virtual size_t compress(std::span<const uint8_t> raw, uint8_t *out, size_t bytes_max) = 0;
  // A stranger's bytes. Writes nothing behind `raw_bytes`; true: they are exactly so many.
  virtual bool expand(std::span<const uint8_t> compressed, uint8_t *out, size_t raw_bytes) = 0;
};

}  // namespace understudy::link
