// sources: native/core/*.cc native/wire/*.cc native/log/dirty-map.cc  libs:
// What the engine keeps its books with: checksums, the record chain, the filter's table, the dirty map; and what a client
// is told of the last two.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <random>
#include <vector>

#include "core/crc32c.h"
#include "engine/block-status.h"
#include "engine/range-table.h"
#include "engine/volume.h"
#include "log/dirty-map.h"
#include "wire/record.h"

using namespace understudy;
using engine::Range;
using engine::RangeTable;
using log::DirtyMap;

static int failures = 0, tests = 0;
static void check(bool good, const char *title) {
  printf("%sok %d - %s\n", good ? "" : "not ", ++tests, title);
  failures += !good;
}

static void checksums() {
  std::mt19937_64 random(1);
  std::vector<uint8_t> data(5000);
  for (uint8_t &byte : data) byte = static_cast<uint8_t>(random());
  check(crc32c(0, "123456789", 9) == 0xe3069283, "CRC32C gives the published check value (RFC 3720)");
  bool same = true;
  for (size_t bytes = 0; bytes < data.size(); bytes += 1 + random() % 37) {
    uint32_t piecewise = 0;
    for (size_t at = 0; at < bytes; at++) piecewise = crc32c(piecewise, &data[at], 1);
    same &= piecewise == crc32c(0, data.data(), bytes);
  }
  check(same, "CRC32C of any length is the same in one piece and byte by byte");
}

static wire::RecordHeader record(wire::RecordType type, uint64_t incarnation, uint64_t sequence, uint64_t predecessor) {
  wire::RecordHeader header{};
  header.magic = wire::kRecordMagic;
  header.type = type;
  header.incarnation = incarnation;
  header.sequence = sequence;
  header.predecessor = predecessor;
  return header;
}

static void chain() {
  using wire::RecordType;
  auto header = record(RecordType::kWrite, 7, 1, 0);
  std::vector<uint8_t> payload(512, 3);
  header.length = header.payload_bytes = 512;
  seal(header, payload.data());
  bool found = check_header(header) == wire::RecordFault::kNone &&
               check_payload(header, payload.data()) == wire::RecordFault::kNone;
  for (size_t bit = 0; bit < sizeof header * 8; bit++) {
    auto damaged = header;
    reinterpret_cast<uint8_t *>(&damaged)[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    found &= check_header(damaged) != wire::RecordFault::kNone;
  }
  for (size_t bit = 0; bit < payload.size() * 8; bit++) {
    payload[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    found &= check_payload(header, payload.data()) != wire::RecordFault::kNone;
    payload[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
  }
  check(found, "any flipped bit of a record is found (G8)");

  wire::Chain last{{7, 10}};
  check(last.follows(record(RecordType::kWrite, 7, 11, 10)) && last.follows(record(RecordType::kWrite, 7, 15, 10)),
        "a record follows the one that it names");
  check(!last.follows(record(RecordType::kWrite, 7, 12, 11)) && !last.follows(record(RecordType::kWrite, 7, 10, 10)) &&
            !last.follows(record(RecordType::kWrite, 7, 9, 8)) && !last.follows(record(RecordType::kWrite, 8, 11, 10)),
        "a gap, a repeat and another incarnation are refused");
  check(last.follows(record(RecordType::kBegin, 8, 1, 0)) && last.follows(record(RecordType::kBegin, 7, 99, 50)) &&
            !last.follows(record(RecordType::kBegin, 7, 10, 0)),
        "only the begin of a step may jump, and never backwards");
}

static void ranges() {
  check(RangeTable::valid({{0, 1}, {1, 2}}) && !RangeTable::valid({{0, 5}, {4, 6}}) && !RangeTable::valid({{3, 3}}) &&
            !RangeTable::valid({{5, 6}, {1, 2}}),
        "a table of overlapping, empty or unsorted ranges is not accepted");
  std::mt19937_64 random(2);
  bool right = true;
  for (int round = 0; round < 2000; round++) {
    std::vector<Range> list;
    std::vector<bool> model(200);
    for (uint64_t at = random() % 20; at + 1 < 200; at += 1 + random() % 30) {
      const uint64_t end = std::min<uint64_t>(200, at + 1 + random() % 20);
      list.push_back({at, end});
      for (; at < end; at++) model[at] = true;
    }
    RangeTable table(list);
    uint64_t start = 0, end = 0;
    for (int change = 0; change < 6; change++) {
      start = random() % 200, end = start + random() % (201 - start);
      const bool adds = random() % 2;
      adds ? table.add(start, end) : table.subtract(start, end);
      for (uint64_t at = start; at < end; at++) model[at] = adds;
    }
    start = random() % 200, end = start + random() % (201 - start);
    std::vector<int> seen(200);
    table.outside(start, end, [&](uint64_t from, uint64_t to) {
      for (right &= from < to; from < to; from++) seen[from] += 1;
    });
    table.inside(start, end, [&](uint64_t from, uint64_t to) {
      for (right &= from < to; from < to; from++) seen[from] += 10;
    });
    bool touches = false;
    for (uint64_t at = 0; at < 200; at++) {
      right &= seen[at] == (at < start || at >= end ? 0 : model[at] ? 10 : 1);
      touches |= at >= start && at < end && model[at];
    }
    right &= table.touches(start, end) == touches;
    right &= table.bytes() == static_cast<uint64_t>(std::count(model.begin(), model.end(), true));
  }
  check(right, "each byte of a write is either inside or outside the filter's ranges, once, whatever was added and taken out");
}

static void dirty_map() {
  std::mt19937_64 random(3);
  const uint64_t size = 37 * DirtyMap::kRegion + 12345;
  DirtyMap map(size);
  std::vector<bool> model(38);
  bool right = true;
  for (int round = 0; round < 20000; round++) {
    const uint64_t start = random() % size, end = start + random() % (std::min<uint64_t>(size - start, 300000) + 1);
    if (random() % 2) {
      map.mark(start, end);
      for (uint64_t region = start / DirtyMap::kRegion; region * DirtyMap::kRegion < end && start < end; region++)
        model[region] = true;
    } else {
      map.clear(start, end);
      for (uint64_t region = 0; region < 38; region++)
        if (region * DirtyMap::kRegion >= start && std::min(size, (region + 1) * DirtyMap::kRegion) <= end)
          model[region] = false;
    }
    uint64_t bytes = 0, listed = 0;
    for (uint64_t region = 0; region < 38; region++) {
      right &= map.is_dirty(region * DirtyMap::kRegion) == model[region];
      if (model[region]) bytes += std::min(size, (region + 1) * DirtyMap::kRegion) - region * DirtyMap::kRegion;
    }
    for (auto run = map.next_run(0, 1u << 20); run.start < run.end; run = map.next_run(run.end, 1u << 20))
      listed += run.end - run.start;
    right &= map.dirty_bytes() == bytes && listed == bytes && map.any() == (bytes != 0);
  }
  check(right, "the dirty map has exactly what was marked, also in a volume with an odd tail");
  bool covered = true;
  for (size_t most : {1, 2, 3, 5, 100}) {
    DirtyMap merged(size);
    const auto runs = map.runs(most);
    covered &= runs.size() <= most;
    for (const auto &run : runs) merged.mark(run.start, run.end);
    for (uint64_t i = 0; i < map.words(); i++) covered &= (map.word(i) & ~merged.word(i)) == 0 && (most < 100 || merged.word(i) == map.word(i));
  }
  check(covered, "told in fewer runs than it has, the dirty map leaves nothing out");
}

static void extents() {
  engine::ExtentSet set(1ull << 44);
  set.mark(0, 1);
  set.mark(5, 4096);
  set.mark((1ull << 44) - 1, 1ull << 44);
  const auto taken = set.take();
  check(taken.size() == 2 && taken[0] == 0 && taken[1] == (1ull << 22) - 1 && set.take().empty(),
        "what a failed flush makes dirty is listed once, whatever the size");
}

namespace {
class Sized final : public Device {
 public:
  Sized(uint64_t bytes, uint32_t block) {
    traits_.size_bytes = bytes;
    traits_.block_bytes_min = block;
  }
  int read(void *, size_t, uint64_t) override { return 0; }
  int write(const void *, size_t, uint64_t) override { return 0; }
  int zero(uint64_t, uint64_t, ZeroHow, bool) override { return 0; }
  int flush() override { return 0; }
};
}  // namespace

// What an answer says of each block from `start` on; false: it is none.
static bool spread(const engine::StatusExtents &extents, uint64_t block, size_t most, std::vector<uint32_t> &blocks) {
  bool right = extents.size() >= 1 && extents.size() <= most;
  for (size_t at = 0; at < extents.size(); at++) {
    const engine::StatusExtent &extent = extents.list()[at];
    right &= extent.bytes && extent.bytes % block == 0 && (at == 0 || extents.list()[at - 1].flags != extent.flags);
    blocks.insert(blocks.end(), extent.bytes / block, extent.flags);
  }
  return right;
}

static void status_of_the_filter() {
  std::mt19937_64 random(4);
  bool right = true, whole = true;
  for (int round = 0; round < 2000; round++) {
    // Of some bytes at the edges of two windows, so that what is told passes from one to the other.
    const uint64_t block = 1u << random() % 4, around = engine::kStatusWindowBytes - 128 / block * block;
    engine::Volume volume("v", 0, std::make_unique<Sized>(2 * engine::kStatusWindowBytes, static_cast<uint32_t>(block)));
    std::vector<bool> left_out(600);
    for (uint64_t at = random() % 20; at < 256; at += random() % 20) {
      const uint64_t stop = at + 1 + random() % 20;
      (random() % 2 ? volume.excluded : volume.lapsed).add(around + at, around + stop);
      for (; at < stop; at++) left_out[at] = true;
    }
    const uint64_t start = around + random() % (256 / block) * block;
    const uint64_t end = start + (1 + random() % (256 / block)) * block;
    const size_t most = 1 + random() % 20;
    std::vector<uint32_t> blocks;
    const auto extents = engine::replicated_status(volume, start, end, most);
    right &= spread(extents, block, most, blocks) && blocks.size() <= (end - start) / block;
    whole &= extents.size() == most || blocks.size() == (end - start) / block;
    for (size_t at = 0; at < blocks.size(); at++) {
      const auto first = left_out.begin() + static_cast<ptrdiff_t>(start - around + at * block);
      right &= (blocks[at] == nbd::kStateLeftOut) == std::all_of(first, first + static_cast<ptrdiff_t>(block), std::identity());
    }
  }
  check(right && whole, "a client is told of each block whether all of it is left out, in as many extents as there may be");
  engine::Volume big("v", 0, std::make_unique<Sized>(1ull << 44, 1));
  const auto first = engine::replicated_status(big, 0, 1ull << 44, 1024);
  check(first.size() == 1 && first.list()[0].bytes == engine::kStatusBytesMax, "of a huge volume a part at a time");
  big.replicated = false;
  check(engine::replicated_status(big, 0, 4096, 1024).list()[0].flags == nbd::kStateLeftOut, "without a standby it is all left out");
}

static void status_of_the_map() {
  std::mt19937_64 random(5);
  constexpr uint64_t kBlock = 512, kSize = 200 * DirtyMap::kRegion + 3 * kBlock;
  bool right = true;
  for (int round = 0; round < 500; round++) {
    engine::Volume volume("v", 0, std::make_unique<Sized>(kSize, kBlock));
    for (uint64_t count = random() % 40; count; count--) {
      const uint64_t at = random() % kSize;
      volume.dirty.mark(at, std::min(kSize, at + random() % (5 * DirtyMap::kRegion)));
    }
    const uint64_t start = random() % (kSize / kBlock) * kBlock, left = (kSize - start) / kBlock;
    const uint64_t end = start + (1 + random() % left) * kBlock;
    const size_t most = 1 + random() % 20;
    std::vector<uint32_t> blocks;
    const auto extents = engine::dirty_status(volume, start, end, most);
    right &= spread(extents, kBlock, most, blocks);
    right &= blocks.size() == (end - start) / kBlock || (extents.size() == most && blocks.size() < (end - start) / kBlock);
    for (size_t at = 0; at < blocks.size(); at++)
      right &= (blocks[at] == nbd::kStateDirty) == volume.dirty.is_dirty(start + at * kBlock);
  }
  check(right, "a client is told of each block whether the standby may lack it");
}

int main() {
  checksums();
  chain();
  ranges();
  dirty_map();
  extents();
  status_of_the_filter();
  status_of_the_map();
  printf("1..%d\n", tests);
  return failures != 0;
}
