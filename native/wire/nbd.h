// NBD transmission phase: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md. All numbers big-endian.
#pragma once
#include <endian.h>

#include <cstdint>

namespace understudy::nbd {

inline constexpr uint32_t kRequestMagic = 0x25609513, kExtendedRequestMagic = 0x21e41c71;
inline constexpr uint32_t kSimpleReplyMagic = 0x67446698, kStructuredReplyMagic = 0x668e33ef,
                          kExtendedReplyMagic = 0x6e8a278c;

enum Command : uint16_t {
  kRead = 0, kWrite = 1, kDisconnect = 2, kFlush = 3, kTrim = 4, kCache = 5, kWriteZeroes = 6, kBlockStatus = 7
};
enum CommandFlags : uint16_t {
  kFua = 1, kNoHole = 2, kDontFragment = 4, kRequestOne = 8, kFastZero = 16, kPayloadLength = 32
};
enum ChunkType : uint16_t {
  kChunkNone = 0, kChunkOffsetData = 1, kChunkOffsetHole = 2, kChunkBlockStatus = 5, kChunkBlockStatusExtended = 6,
  kChunkError = 0x8001
};
inline constexpr uint16_t kChunkDone = 1;
// Each context has its own: base:allocation's, then those of understudy:replicated and understudy:dirty.
enum StateFlags : uint32_t { kStateHole = 1, kStateZero = 2, kStateLeftOut = 1, kStateDirty = 1 };

enum Error : uint32_t {
  kOk = 0, kEperm = 1, kEio = 5, kEnomem = 12, kEinval = 22, kEnospc = 28, kEoverflow = 75, kEnotsup = 95,
  kEshutdown = 108
};
// The one place where an errno becomes an NBD error.
uint32_t error_from_errno(int error);

struct [[gnu::packed]] Request {
  uint32_t magic;
  uint16_t flags, type;
  uint64_t cookie, offset;
  uint32_t length;
};
static_assert(sizeof(Request) == 28);

struct [[gnu::packed]] ExtendedRequest {
  uint32_t magic;
  uint16_t flags, type;
  uint64_t cookie, offset, length;
};
static_assert(sizeof(ExtendedRequest) == 32);

struct [[gnu::packed]] SimpleReply {
  uint32_t magic, error;
  uint64_t cookie;
};
static_assert(sizeof(SimpleReply) == 16);

struct [[gnu::packed]] StructuredReply {
  uint32_t magic;
  uint16_t flags, type;
  uint64_t cookie;
  uint32_t length;
};
static_assert(sizeof(StructuredReply) == 20);

struct [[gnu::packed]] ExtendedReply {
  uint32_t magic;
  uint16_t flags, type;
  uint64_t cookie, offset, length;
};
static_assert(sizeof(ExtendedReply) == 32);

}  // namespace understudy::nbd
