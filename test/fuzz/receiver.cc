// sources: native/replay/receiver.cc native/replay/progress.cc native/wire/record.cc native/core/*.cc  libs:
// The record receiver: of a damaged stream it takes a prefix of the records that were sent and nothing after it (G8);
// what it takes is in its ring as it was sent; a new session goes on where the old one ended.
#include "replay/receiver.h"

#include "core/check.h"
#include "fuzz.h"

using namespace understudy;
using wire::RecordHeader;
using wire::RecordType;

namespace {
constexpr uint64_t kVolumeBytes = 1u << 20;

struct Deaf final : replay::ReplicaListener {
  void progressed() override {}
  void hashed(const wire::HashReplyBody &, std::vector<wire::HashEntry>) override {}
  void told(const wire::DataReplyBody &, const std::vector<uint8_t> &) override {}
  void verified(const wire::VerifyResultBody &) override {}
  void failed(const std::string &) override {}
};

void put(fuzz::Bytes &stream, RecordHeader &header, const fuzz::Bytes &payload) {
  wire::seal(header, payload.data());
  const auto *raw = reinterpret_cast<const uint8_t *>(&header);
  stream.insert(stream.end(), raw, raw + sizeof header);
  stream.insert(stream.end(), payload.begin(), payload.end());
}

// Records of a master that keeps to the rules, or now and then does not, though their checksums hold.
fuzz::Bytes make_records(fuzz::Random &random) {
  fuzz::Bytes stream;
  uint64_t sequence = 0;
  for (uint64_t count = 1 + random.below(12); count; count--) {
    RecordHeader header{};
    header.magic = wire::kRecordMagic;
    header.type = sequence == 0 ? RecordType::kBegin : static_cast<RecordType>(1 + random.below(10));
    header.incarnation = 7;
    header.predecessor = sequence;
    if (wire::is_sequenced(header.type)) sequence++;
    header.sequence = sequence;
    header.committed = random.below(sequence + 1);
    header.offset = random.below(kVolumeBytes - 4096);
    fuzz::Bytes payload;
    if (wire::has_payload(header.type)) payload.resize(header.type == RecordType::kVerify ? 40 : random.below(4096), 0x5a);
    header.payload_bytes = static_cast<uint32_t>(payload.size());
    header.length = header.type == RecordType::kVerify ? 512 : payload.size();
    if (random.one_in(12)) header.offset = random.odd();
    if (random.one_in(20)) header.length = random.odd();
    if (random.one_in(20)) header.predecessor = random.odd();
    if (random.one_in(20)) header.sequence = random.odd();
    if (random.one_in(20)) header.volume_index = static_cast<uint16_t>(random.odd());
    if (random.one_in(20)) header.flags = static_cast<uint8_t>(random.odd());
    if (random.one_in(20)) header.type = static_cast<RecordType>(random.odd());
    put(stream, header, payload);
  }
  return stream;
}
}  // namespace

// What was taken may be applied: it touches nothing outside of the volume.
static void check_taken(const uint8_t *bytes, uint64_t taken) {
  for (uint64_t at = 0; at < taken;) {
    RecordHeader header;
    memcpy(&header, bytes + at, sizeof header);
    const bool touches = header.type <= RecordType::kTrim || header.type == RecordType::kSync || header.type == RecordType::kVerify;
    if (touches) {
      CHECK(header.volume_index == 0);
      CHECK(header.offset <= kVolumeBytes && header.length <= kVolumeBytes - header.offset);
    }
    CHECK(header.sequence <= wire::kSequenceMax);
    at += sizeof header + header.payload_bytes;
  }
}

void fuzz::round(fuzz::Random &random) {
  Deaf deaf;
  replay::ReplicaState state;
  replay::Progress progress(state, deaf);
  Waker waker;
  auto ring = MirroredRing::create(1u << 16);
  CHECK(ring.ok());
  replay::Receiver receiver(std::move(ring.value), {kVolumeBytes}, state, progress, waker);
  receiver.restart(0, {}, {}, {});
  uint64_t freed = 0;
  for (uint64_t sessions = 1 + random.below(3); sessions; sessions--) {
    const fuzz::Bytes sent = make_records(random);
    fuzz::Bytes stream = sent;
    if (random.one_in(2)) fuzz::mutate(stream, random);
    const wire::Position at = receiver.start_session();
    const uint64_t start = receiver.received_offset();
    CHECK(at.sequence <= wire::kSequenceMax);
    bool refused = false;
    fuzz::in_pieces(stream, random, [&](std::span<const uint8_t> part) {
      const uint64_t before = receiver.received_offset();
      const bool good = receiver.receive(part).ok();
      CHECK(!refused || (!good && receiver.received_offset() == before));
      refused = refused || !good;
      (void)receiver.take_consumed();
    });
    const uint64_t taken = receiver.received_offset() - start;
    CHECK(taken <= stream.size());
    // Byte for byte what was sent: a mutation would have to keep two checksums and the chain to differ.
    CHECK(memcmp(receiver.at(start), stream.data(), taken) == 0);
    CHECK(taken <= sent.size() && memcmp(stream.data(), sent.data(), taken) == 0);
    check_taken(receiver.at(start), taken);
    freed = receiver.received_offset();
    receiver.release(freed);
  }
}
