// sources: native/replay/receiver.cc native/replay/progress.cc native/wire/record.cc native/core/*.cc native/link/batch-sink.cc native/link/codec.cc  libs: -lzstd -llz4
// The record receiver: of a damaged stream it takes a prefix of the records that were sent and nothing after it (G8);
// what it takes is in its ring as it was sent; a new session goes on where the old one ended. The same of a stream in
// compressed batches, of which none becomes more than it may.
#include "replay/receiver.h"

#include "core/check.h"
#include "fuzz.h"
#include "link/batch-sink.h"

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

class Room final : public replay::RecordRoom {
 public:
  explicit Room(replay::Receiver &receiver) : receiver_(receiver) {}
  uint8_t *place(size_t bytes) override {
    CHECK(bytes > 0 && bytes <= wire::kBatchBytesMax);
    return receiver_.place(bytes);
  }
  Status placed(size_t bytes) override { return receiver_.placed(bytes); }

 private:
  replay::Receiver &receiver_;
};

// As a master would make them, some as they are, but for headers that now and then say something else.
static fuzz::Bytes in_batches(const fuzz::Bytes &stream, link::Codec &codec, fuzz::Random &random) {
  fuzz::Bytes out;
  for (size_t at = 0; at < stream.size();) {
    const size_t raw = std::min(stream.size() - at, 1 + random.below(20'000));
    fuzz::Bytes data(raw);
    data.resize(random.one_in(3) ? 0 : codec.compress({stream.data() + at, raw}, data.data(), raw - 1));
    if (data.empty()) data.assign(stream.begin() + at, stream.begin() + at + raw);
    wire::BatchHeader header{static_cast<uint32_t>(raw), static_cast<uint32_t>(data.size())};
    if (random.one_in(20)) header.raw_bytes = static_cast<uint32_t>(random.odd());
    if (random.one_in(20)) header.bytes = static_cast<uint32_t>(random.odd());
    const auto *bytes = reinterpret_cast<const uint8_t *>(&header);
    out.insert(out.end(), bytes, bytes + sizeof header);
    out.insert(out.end(), data.begin(), data.end());
    at += raw;
  }
  return out;
}

// Of a damaged batch other whole records of the same stream could come out, in theory: each is one that was sent.
static void check_sent(const uint8_t *bytes, uint64_t taken, const fuzz::Bytes &sent) {
  for (uint64_t at = 0; at < taken;) {
    RecordHeader header;
    memcpy(&header, bytes + at, sizeof header);
    const uint64_t size = sizeof header + header.payload_bytes;
    CHECK(std::search(sent.begin(), sent.end(), bytes + at, bytes + at + size) != sent.end());
    at += size;
  }
}

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
    const auto compression = static_cast<link::Compression>(random.below(3));
    const auto codec = link::Codec::make(compression);
    fuzz::Bytes stream = codec ? in_batches(sent, *codec, random) : sent;
    if (random.one_in(2)) fuzz::mutate(stream, random);
    link::BatchSink sink(link::Codec::make(compression));
    Room room(receiver);
    const wire::Position at = receiver.start_session();
    const uint64_t start = receiver.received_offset();
    CHECK(at.sequence <= wire::kSequenceMax);
    bool refused = false;
    fuzz::in_pieces(stream, random, [&](std::span<const uint8_t> part) {
      const uint64_t before = receiver.received_offset();
      const bool good = (codec ? sink.receive(part, room) : receiver.receive(part)).ok();
      CHECK(!refused || (!good && receiver.received_offset() == before));
      refused = refused || !good;
      if (!codec) (void)receiver.take_consumed();
    });
    const uint64_t taken = receiver.received_offset() - start;
    if (codec) {
      check_sent(receiver.at(start), taken, sent);
      check_taken(receiver.at(start), taken);
      freed = receiver.received_offset();
      receiver.release(freed);
      continue;
    }
    CHECK(taken <= stream.size());
    // Byte for byte what was sent: a mutation would have to keep two checksums and the chain to differ.
    CHECK(memcmp(receiver.at(start), stream.data(), taken) == 0);
    CHECK(taken <= sent.size() && memcmp(stream.data(), sent.data(), taken) == 0);
    check_taken(receiver.at(start), taken);
    freed = receiver.received_offset();
    receiver.release(freed);
  }
}
