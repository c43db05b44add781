#include "link/codec.h"

#include <lz4.h>
#include <zstd.h>

namespace understudy::link {
namespace {

// The lowest level: a higher one costs the link thread several times as much for a few per cent of the bytes.
constexpr int kZstdLevel = 1;

class ZstdCodec final : public Codec {
 public:
  ZstdCodec() {
    if (!deflating_) return;
    ZSTD_CCtx_setParameter(deflating_.get(), ZSTD_c_compressionLevel, kZstdLevel);
    ZSTD_CCtx_setParameter(deflating_.get(), ZSTD_c_contentSizeFlag, 0);  // the batch says it
  }
  size_t compress(std::span<const uint8_t> raw, uint8_t *out, size_t bytes_max) override {
    if (!deflating_) return 0;
    const size_t bytes = ZSTD_compress2(deflating_.get(), out, bytes_max, raw.data(), raw.size());
    return ZSTD_isError(bytes) ? 0 : bytes;
  }
  bool expand(std::span<const uint8_t> compressed, uint8_t *out, size_t raw_bytes) override {
    return inflating_ && ZSTD_decompressDCtx(inflating_.get(), out, raw_bytes, compressed.data(), compressed.size()) == raw_bytes;
  }

 private:
  struct Free {
    void operator()(ZSTD_CCtx *context) const { ZSTD_freeCCtx(context); }
    void operator()(ZSTD_DCtx *context) const { ZSTD_freeDCtx(context); }
  };
  std::unique_ptr<ZSTD_CCtx, Free> deflating_{ZSTD_createCCtx()};
  std::unique_ptr<ZSTD_DCtx, Free> inflating_{ZSTD_createDCtx()};
};

class Lz4Codec final : public Codec {
 public:
  size_t compress(std::span<const uint8_t> raw, uint8_t *out, size_t bytes_max) override {
    return static_cast<size_t>(LZ4_compress_default(reinterpret_cast<const char *>(raw.data()), reinterpret_cast<char *>(out),
                                                    static_cast<int>(raw.size()), static_cast<int>(bytes_max)));
  }
  bool expand(std::span<const uint8_t> compressed, uint8_t *out, size_t raw_bytes) override {
    return LZ4_decompress_safe(reinterpret_cast<const char *>(compressed.data()), reinterpret_cast<char *>(out),
                               static_cast<int>(compressed.size()), static_cast<int>(raw_bytes)) == static_cast<int>(raw_bytes);
  }
};

}  // namespace

Compression compression_named(const std::string &name) {
  if (name == "zstd") return Compression::kZstd;
  return name == "lz4" ? Compression::kLz4 : Compression::kOff;
}

std::unique_ptr<Codec> Codec::make(Compression compression) {
  switch (compression) {
    case Compression::kZstd: return std::make_unique<ZstdCodec>();
    case Compression::kLz4: return std::make_unique<Lz4Codec>();
    case Compression::kOff: return nullptr;
  }
  return nullptr;
}

}  // namespace understudy::link
