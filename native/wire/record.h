// A record: one captured BIO of the master, with its place in the history. The same 88 bytes lie in the replication
// log, on the link and in the standby's segments, so nothing is translated on the way and one check serves all three.
//
//   | header (88 bytes) | payload (payload_bytes, may be 0) | next header ...
//
// Integers are little-endian. header_crc32c covers the header with header_crc32c = 0; payload_crc32c covers the
// payload (G8). The chain (incarnation, sequence, predecessor) makes a gap, a repeat or a stale tail visible: a record
// is accepted only if its predecessor is the last one that was accepted, and only kBegin may jump.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>

namespace understudy::wire {

static_assert(std::endian::native == std::endian::little, "records are written as they lie in memory");

enum class RecordType : uint8_t {
  // captured from a client; each has a sequence of its own
  kWrite = 1,  // payload: the bytes at [offset, offset + length)
  kZero = 2,   // no payload: [offset, offset + length) reads as zeroes, space may stay allocated
  kTrim = 3,   // no payload: [offset, offset + length) reads as zeroes, space may be given back
  kFlush = 4,  // no payload: a client's FLUSH stood here
  // made by the master; each has a sequence of its own
  kSync = 5,    // payload: a block read from the master device during a resynchronisation, at this position
  kBegin = 6,   // a step opens: what follows is staged (or, with kBeginInitial, applied to an unusable image) until
                // kStep. The only record whose predecessor may jump and whose incarnation may differ from the last.
  kStep = 7,    // the step closes: all since kBegin becomes visible at once; `sequence` is the design's `end`
  kVerify = 8,  // payload: VerifyPayload. The standby compares its own [offset, offset + length) at this position
  // markers; `sequence` repeats that of the last sequenced record, they count nowhere
  kVoid = 9,     // the record whose sequence is in `offset` failed on the master and must not be applied
  kCommit = 10,  // nothing but the `committed` field
};

enum RecordFlags : uint8_t {
  kBeginInitial = 1,  // kBegin: initial synchronisation, applied straight to the image, which is unusable until kStep
  kWantReceived = 2,  // a client's reply waits for the standby to have this record in memory,
  kWantDurable = 4,   // ... on stable storage: tell at once, where other progress may be told a little later
};

inline constexpr uint32_t kRecordMagic = 0x31445355;                 // "USD1"
inline constexpr uint32_t kPayloadBytesMax = 32u << 20;              // the largest NBD request that is served
inline constexpr uint64_t kSequenceMax = UINT64_MAX >> 1;            //

struct RecordHeader {
  uint32_t magic;           // kRecordMagic
  RecordType type;          //
  uint8_t flags;            // RecordFlags
  uint16_t volume_index;    // which volume of the group
  uint64_t incarnation;     // of the master that wrote it
  uint64_t sequence;        // from 1 in each incarnation
  uint64_t predecessor;     // sequence of the sequenced record before this one on the link; 0 before the first
  uint64_t committed;       // every record of this incarnation up to here has its outcome on the master
  uint64_t offset;          // bytes
  uint64_t length;          // bytes; equals payload_bytes for kWrite and kSync
  uint64_t written_bytes;   // bytes of kWrite records of this incarnation up to and with this one: a watermark in bytes
  uint32_t payload_bytes;   //
  uint32_t payload_crc32c;  // 0 without payload
  uint64_t time_ns;         // wall clock of the master, nanoseconds since 1970
  uint32_t header_crc32c;   //
  uint32_t reserved;        // 0
};
static_assert(sizeof(RecordHeader) == 88);
static_assert(offsetof(RecordHeader, header_crc32c) == 80);

inline constexpr size_t kHashBytes = 32;  // SHA-256: a guest may choose the data, so nothing weaker

struct VerifyPayload {
  uint64_t id;               // echoed in the result, chosen by whoever asked
  uint8_t hash[kHashBytes];  // SHA-256 of the master's bytes
};
static_assert(sizeof(VerifyPayload) == 40);

inline bool is_sequenced(RecordType type) { return type >= RecordType::kWrite && type <= RecordType::kVerify; }
inline bool has_payload(RecordType type) {
  return type == RecordType::kWrite || type == RecordType::kSync || type == RecordType::kVerify;
}

// A place in a history. Compare sequences only within one incarnation.
struct Position {
  uint64_t incarnation = 0;  // 0: no history yet
  uint64_t sequence = 0;
  bool operator==(const Position &) const = default;
};

// Fills in both checksums; `header` must be complete otherwise. payload may be null when payload_bytes is 0.
void seal(RecordHeader &header, const void *payload);

// Why a record is refused; kNone: it is good. check_header looks at the header alone (magic, checksum, type, lengths).
enum class RecordFault : uint8_t { kNone, kMagic, kHeaderChecksum, kType, kLength, kPayloadChecksum, kGap };
RecordFault check_header(const RecordHeader &header);
RecordFault check_payload(const RecordHeader &header, const void *payload);
const char *to_string(RecordFault fault);

// What a reader of a record stream knows of its last record, and whether `next` may follow it (the chain above).
struct Chain {
  Position last;  // the last sequenced record
  bool follows(const RecordHeader &next) const;
  void advance(const RecordHeader &next);
};

}  // namespace understudy::wire
