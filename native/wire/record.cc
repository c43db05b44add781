#include "wire/record.h"

#include "core/crc32c.h"

namespace understudy::wire {
namespace {
uint32_t header_checksum(RecordHeader header) {
  header.header_crc32c = 0;
  return crc32c(0, &header, sizeof header);
}
}  // namespace

void seal(RecordHeader &header, const void *payload) {
  header.payload_crc32c = header.payload_bytes ? crc32c(0, payload, header.payload_bytes) : 0;
  header.header_crc32c = header_checksum(header);
}

RecordFault check_header(const RecordHeader &header) {
  if (header.magic != kRecordMagic) return RecordFault::kMagic;
  if (header.header_crc32c != header_checksum(header)) return RecordFault::kHeaderChecksum;
  if (header.type < RecordType::kWrite || header.type > RecordType::kCommit) return RecordFault::kType;
  if (header.payload_bytes > kPayloadBytesMax || (header.payload_bytes != 0) != has_payload(header.type))
    return RecordFault::kLength;
  const bool carries_data = header.type == RecordType::kWrite || header.type == RecordType::kSync;
  if (carries_data && header.payload_bytes != header.length) return RecordFault::kLength;
  if (header.type == RecordType::kVerify && header.payload_bytes != sizeof(VerifyPayload)) return RecordFault::kLength;
  if (header.offset + header.length < header.offset) return RecordFault::kLength;
  return RecordFault::kNone;
}

RecordFault check_payload(const RecordHeader &header, const void *payload) {
  const uint32_t found = header.payload_bytes ? crc32c(0, payload, header.payload_bytes) : 0;
  return found == header.payload_crc32c ? RecordFault::kNone : RecordFault::kPayloadChecksum;
}

const char *to_string(RecordFault fault) {
  switch (fault) {
    case RecordFault::kNone: return "good";
    case RecordFault::kMagic: return "not a record (magic)";
    case RecordFault::kHeaderChecksum: return "header checksum differs";
    case RecordFault::kType: return "unknown type";
    case RecordFault::kLength: return "impossible length";
    case RecordFault::kPayloadChecksum: return "payload checksum differs";
    case RecordFault::kGap: return "does not follow the record before it";
  }
  return "unknown";
}

bool Chain::follows(const RecordHeader &next) const {
  if (next.type == RecordType::kBegin)
    return next.incarnation != last.incarnation ? next.incarnation != 0 : next.sequence > last.sequence;
  if (next.incarnation != last.incarnation || next.predecessor != last.sequence) return false;
  return is_sequenced(next.type) ? next.sequence > last.sequence : next.sequence == last.sequence;
}

void Chain::advance(const RecordHeader &next) {
  if (is_sequenced(next.type)) last = {next.incarnation, next.sequence};
}

}  // namespace understudy::wire
