// The control stream of a session: small frames in both directions, beside the record stream, which carries nothing
// but records (record.h) from master to standby. Numbers are little-endian.
//
//   | FrameHeader (16 bytes) | body (body_bytes) | ...
#pragma once
#include <cstdint>

#include "wire/record.h"

namespace understudy::wire {

enum class FrameType : uint16_t {
  kJson = 1,          // both: a message between the TypeScript halves (hello, welcome, refused, ...)
  kWatermarks = 2,    // standby -> master: WatermarksBody
  kHashRequest = 3,   // master -> standby: HashRequestBody
  kHashReply = 4,     // standby -> master: HashReplyBody, then `count` HashEntry
  kVerifyResult = 5,  // standby -> master: VerifyResultBody
  kLeaseRequest = 6,  // master -> standby: LeaseBody
  kLeaseGrant = 7,    // standby -> master: the LeaseBody that was asked for
  kDataRequest = 8,   // master -> standby: HashRequestBody: the bytes themselves, not their hashes
  kDataReply = 9,     // standby -> master: DataReplyBody, then `bytes` bytes, unless it has an error
};

inline constexpr uint32_t kFrameBytesMax = 64u << 10;  // body; a longer one ends the session

struct FrameHeader {
  uint32_t body_bytes;
  FrameType type;
  uint16_t reserved;     // 0
  uint32_t body_crc32c;  // (G8)
  uint32_t magic;        // kFrameMagic
};
static_assert(sizeof(FrameHeader) == 16);
inline constexpr uint32_t kFrameMagic = 0x31435355;  // "USC1"

struct Mark {
  uint64_t sequence = 0;
  uint64_t bytes = 0;  // RecordHeader::written_bytes of that record
};

enum WatermarkFlags : uint64_t {
  kStaging = 1,   // a step is open
  kUnusable = 2,  // the image is not a cut: initial synchronisation is not complete
};

// How far the standby is, in records of `incarnation`. received >= durable >= applied; committed <= received.
struct WatermarksBody {
  uint64_t incarnation = 0;
  Mark received;   // in the standby's memory, checked
  Mark durable;    // in its log on stable storage
  Mark committed;  // known to have an outcome on the master
  Mark applied;    // in the image. While a step is staged this stays at the record before kBegin
  uint64_t flags = 0;
};
static_assert(sizeof(WatermarksBody) == 80);

inline constexpr uint32_t kRegionBytes = 64u << 10;  // one bit of the dirty map, one hash of a comparison
inline constexpr uint32_t kHashRegionsMax = 64;      // regions per request

struct HashRequestBody {
  uint64_t begin_sequence;  // of the kBegin this belongs to; a reply to an older one is ignored
  uint64_t offset;          // a multiple of kRegionBytes
  uint32_t count;           // regions, 1..kHashRegionsMax; the last may end at the end of the volume
  uint16_t volume_index;
  uint16_t incarnation16;   // of that kBegin, its low bits: the question may come before the record; 0: not told
};
static_assert(sizeof(HashRequestBody) == 24);

enum HashEntryFlags : uint32_t {
  kHashUnknown = 1,  // the region has staged records over it (or cannot be read): the master must send it
};
struct HashEntry {
  uint8_t hash[kHashBytes];
  uint32_t flags;
  uint32_t reserved;
};
static_assert(sizeof(HashEntry) == 40);
using HashReplyBody = HashRequestBody;  // followed by `count` HashEntry

// One piece of what a data request asked for; the pieces come in order. With an error: all that is left of the request.
struct DataReplyBody {
  uint64_t begin_sequence;  // of the request
  uint64_t offset;
  uint32_t bytes;
  uint16_t volume_index;
  uint16_t reserved;
  uint32_t error;  // errno; EAGAIN: it cannot be told yet, ask again
  uint32_t reserved2;
};
static_assert(sizeof(DataReplyBody) == 32);
inline constexpr uint32_t kDataPieceBytes = 32u << 10;  // a piece has at most so many
static_assert(sizeof(DataReplyBody) + kDataPieceBytes <= kFrameBytesMax);

struct VerifyResultBody {
  uint64_t id;
  uint64_t offset;
  uint64_t length;
  uint16_t volume_index;
  uint16_t equal;  // 1 or 0
  uint32_t error;  // errno when the standby could not read its image
};
static_assert(sizeof(VerifyResultBody) == 32);

struct LeaseBody {
  uint64_t length_ns;  // the standby is not made the master for so long from when it grants this
  uint64_t sent_ns;    // the master's clock when it asked; means nothing to the standby
};
static_assert(sizeof(LeaseBody) == 16);

}  // namespace understudy::wire
