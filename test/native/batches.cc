// sources: native/link/batch-sink.cc native/link/batch-source.cc native/link/codec.cc native/link/log-source.cc native/log/replication-log.cc native/wire/record.cc native/core/*.cc  libs: -lzstd -llz4
// Compressed batches of the record stream (wire/batch.h): from a log to a ring with both algorithms, and what a peer
// without manners may try.
#include <lz4.h>
#include <zstd.h>

#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/check.h"
#include "link/batch-sink.h"
#include "link/batch-source.h"

using namespace understudy;
using namespace understudy::link;
using Bytes = std::vector<uint8_t>;

static int g_tests = 0, g_failures = 0;
static void ok(bool good, const std::string &title) {
  printf("%s %d - %s\n", good ? "ok" : "not ok", ++g_tests, title.c_str());
  if (!good) g_failures++;
}

namespace {
constexpr uint64_t kSeed = 20261128;
std::mt19937_64 g_random(kSeed);
uint64_t below(uint64_t limit) { return g_random() % limit; }

enum class Kind { kText, kRandom, kMixed };
Bytes payload_of(Kind kind, size_t bytes) {
  Bytes payload(bytes);
  for (size_t at = 0; at < bytes; at++)
    payload[at] = kind == Kind::kText || (kind == Kind::kMixed && at / 4096 % 2) ? static_cast<uint8_t>("understudy"[at % 10] + (below(32) == 0))
                                                                               : static_cast<uint8_t>(g_random());
  return payload;
}

// A master's log of 8 MiB, and the session that sends it.
struct Master {
  explicit Master(Compression compression) {
    auto made = log::ReplicationLog::create(8u << 20);
    CHECK(made.ok());
    log = std::move(made.value);
    page = CounterPages::instance().take();
    marks = std::make_unique<engine::PeerMarks>(page, waker);
    source = std::make_unique<LogSource>(log, 0, *marks, page);
    batches = std::make_unique<BatchSource>(*source, Codec::make(compression), page);
  }
  ~Master() { CounterPages::instance().give_back(page); }
  void write(const Bytes &payload) {
    wire::RecordHeader header{};
    header.magic = wire::kRecordMagic;
    header.type = wire::RecordType::kWrite;
    header.sequence = ++sequence;
    header.length = header.payload_bytes = static_cast<uint32_t>(payload.size());
    log->append(header, payload.data());
    log->publish();
    const uint64_t end = log->published();
    raw.insert(raw.end(), log->at(end - sizeof header - payload.size()), log->at(end - payload.size()) + payload.size());
  }
  // What the transport takes now.
  Bytes take() {
    Bytes taken;
    const uint8_t *data = nullptr;
    while (const size_t there = batches->peek(sent, &data)) {
      const size_t bytes = 1 + below(there);
      taken.insert(taken.end(), data, data + bytes);
      sent += bytes;
    }
    return taken;
  }
  std::shared_ptr<log::ReplicationLog> log;
  CounterPage page;
  Waker waker;
  std::unique_ptr<engine::PeerMarks> marks;
  std::unique_ptr<LogSource> source;
  std::unique_ptr<BatchSource> batches;
  Bytes raw;  // all that was ever in the log
  uint64_t sequence = 0, sent = 0;
};

// A ring that has room now and then.
struct Room final : replay::RecordRoom {
  uint8_t *place(size_t bytes) override {
    if (full || (moody && below(3) == 0)) return nullptr;
    offered.assign(bytes + 64, 0xee);
    return offered.data();
  }
  Status placed(size_t bytes) override {
    CHECK(bytes + 64 == offered.size());
    for (size_t at = bytes; at < offered.size(); at++) CHECK(offered[at] == 0xee);
    got.insert(got.end(), offered.begin(), offered.end() - 64);
    return Status::good();
  }
  Bytes offered, got;
  bool full = false, moody = false;
};

const char *name_of(Compression compression) { return compression == Compression::kZstd ? "zstd" : "lz4"; }

void arrives(Compression compression, Kind kind, const char *words) {
  Master master(compression);
  BatchSink sink(Codec::make(compression));
  Room room;
  room.moody = true;
  uint64_t credit = 0;
  bool good = true;
  for (int turn = 0; turn < 60; turn++) {
    for (uint64_t count = below(8); count; count--) master.write(payload_of(kind, 512 * (1 + below(turn % 4 ? 32 : 400))));
    const Bytes bytes = master.take();
    for (size_t at = 0; at < bytes.size();) {
      const size_t part = std::min(bytes.size() - at, 1 + below(70'000));
      good = good && sink.receive(std::span(bytes).subspan(at, part), room).ok();
      at += part;
    }
    while (sink.waiting_bytes() && good) good = sink.receive({}, room).ok();
    credit += sink.take_consumed();
    master.batches->acked(credit);
    master.source->durable(master.sequence);
    good = good && credit == master.sent && master.log->tail() == master.log->published();
  }
  ok(good && room.got == master.raw, std::string(name_of(compression)) + ": " + words + " arrive as they were, in whatever pieces, and free the log");
  const uint64_t raw = master.page.get(kGroup_compress_raw_bytes), sent = master.page.get(kGroup_compress_sent_bytes);
  ok(raw == master.raw.size() && sent == master.sent, "... and the counters say how many bytes it was and became");
  ok(kind == Kind::kText ? sent * 2 < raw : kind == Kind::kMixed ? sent * 10 < raw * 8 : sent < raw + raw / 200,
     "... " + std::to_string(raw) + " and " + std::to_string(sent));
}

void waits_for_nothing() {
  Master master(Compression::kZstd);
  master.write(payload_of(Kind::kText, 4096));
  ok(master.batches->ready(0) == 4096 + sizeof(wire::RecordHeader) && master.page.get(kGroup_compress_raw_bytes) == 0,
     "to ask what is ready makes no batch");
  const Bytes first = master.take();
  BatchSink sink(Codec::make(Compression::kZstd));
  Room room;
  ok(sink.receive(first, room).ok() && room.got == master.raw, "one record alone is a batch at once");
}

void keeps_what_is_on_the_way() {
  Master master(Compression::kLz4);
  master.write(payload_of(Kind::kText, 100'000));
  const uint8_t *data = nullptr;
  const size_t there = master.batches->peek(0, &data);
  const uint8_t *const shown = data;
  const Bytes before(shown, shown + there);
  for (int i = 0; i < 20; i++) master.write(payload_of(Kind::kText, 100'000));
  for (uint64_t at = there; const size_t more = master.batches->peek(at, &data); at += more) {
  }
  ok(memcmp(shown, before.data(), there) == 0, "what was shown stays as it was while other batches are made");
  master.batches->acked(there / 2);
  const uint64_t acked = master.page.get(kGroup_acked_position);
  ok(acked > 40'000 && acked < 60'000, "half of a batch that has arrived counts as half of it");
  master.batches->acked(there);
  ok(master.page.get(kGroup_acked_position) == 100'000 + sizeof(wire::RecordHeader), "all of it as all of it");
}

// Random data after a while is not even tried; and it is tried again.
void passes_what_does_not_pay() {
  Master master(Compression::kZstd);
  const auto spent = [&](Kind kind, int records) {
    const uint64_t before = master.page.get(kGroup_compress_sent_bytes);
    for (int i = 0; i < records; i++) {
      master.write(payload_of(kind, 128'000));
      (void)master.take();
      master.batches->acked(master.sent);
      master.source->durable(master.sequence);
    }
    return master.page.get(kGroup_compress_sent_bytes) - before;
  };
  ok(spent(Kind::kRandom, 60) >= 60 * 128'000, "random bytes go as they are");
  const uint64_t text = spent(Kind::kText, 80);
  ok(text > 600'000 && text < 6'000'000, "what can be compressed after them goes as it is for 32 times a batch at most: " + std::to_string(text));
}

// A batch with this header and these bytes.
Bytes batch(uint32_t raw_bytes, const Bytes &bytes, uint32_t says) {
  const wire::BatchHeader header{raw_bytes, says};
  Bytes made(sizeof header);
  memcpy(made.data(), &header, sizeof header);
  for (const uint8_t byte : bytes) made.push_back(byte);
  return made;
}
Bytes compressed(Compression compression, const Bytes &raw) {
  Bytes out(ZSTD_compressBound(raw.size()) + LZ4_compressBound(static_cast<int>(raw.size())));
  out.resize(Codec::make(compression)->compress(raw, out.data(), out.size()));
  return out;
}

void refuses(Compression compression) {
  const std::string name = name_of(compression);
  const auto is_refused = [&](const Bytes &bytes) {
    BatchSink sink(Codec::make(compression));
    Room room;
    return !sink.receive(bytes, room).ok() && room.got.empty();
  };
  const auto size = [](const Bytes &bytes) { return static_cast<uint32_t>(bytes.size()); };
  const Bytes large = compressed(compression, Bytes(1u << 20)), small = compressed(compression, Bytes(1000));
  ok(is_refused(batch(1u << 20, large, size(large))), name + ": a batch that says it becomes more than 128 KiB is refused");
  ok(is_refused(batch(wire::kBatchBytesMax, large, size(large))), "... one that becomes more than it says, and writes nothing behind that");
  ok(is_refused(batch(1001, small, size(small))), "... one that becomes less");
  ok(is_refused(batch(1000, Bytes(900, 0xa5), 900)), "... one that is no compressed data");
  ok(is_refused(batch(0, {}, 0)) && is_refused(batch(1000, {}, 0)) && is_refused(batch(1000, Bytes(1001), 1001)),
     "... and one of nothing, or of more bytes than it becomes");
  BatchSink sink(Codec::make(compression));
  Room room;
  room.full = true;
  const Bytes good = batch(1000, small, size(small));
  bool held = true;
  for (int i = 0; i < 1000; i++) held = held && sink.receive(good, room).ok();
  ok(held && room.got.empty() && sink.waiting_bytes() + sizeof(wire::BatchHeader) == 1000 * good.size() && sink.take_consumed() == sizeof(wire::BatchHeader),
     "without room in the ring batches wait as they came, and give no credit");
  room.full = false;
  ok(sink.receive({}, room).ok() && room.got.size() == 1'000'000 && sink.take_consumed() + sizeof(wire::BatchHeader) == 1000 * good.size(), "... until there is");
}
}  // namespace

int main() {
  for (const Compression compression : {Compression::kZstd, Compression::kLz4}) {
    arrives(compression, Kind::kText, "records of text");
    arrives(compression, Kind::kRandom, "random records");
    arrives(compression, Kind::kMixed, "records of both");
    refuses(compression);
  }
  waits_for_nothing();
  keeps_what_is_on_the_way();
  passes_what_does_not_pay();
  printf("1..%d\n", g_tests);
  return g_failures ? 1 : 0;
}
