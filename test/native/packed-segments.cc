// sources: native/replay/*.cc native/link/codec.cc native/engine/device.cc native/engine/direct-file.cc native/wire/record.cc native/core/core.cc native/core/memory-guard.cc native/core/crc32c.cc native/core/mirrored-ring.cc  libs: -lzstd -llz4 -lgnutls
// Segments that a history keeps are compressed when nothing else is to do, and give what they held.
#include "replay-support.h"
#include "replay/kept-packer.h"

using namespace replay_test;

namespace {
constexpr uint64_t kSegmentBytes = 3u << 20;

// Half of it text-like, half noise, in pieces smaller than a frame; or noise alone.
Bytes content(uint64_t seed, bool is_noise) {
  std::mt19937_64 random(seed);
  Bytes bytes(kSegmentBytes + seed * 1111);
  for (size_t i = 0; i < bytes.size(); i++)
    bytes[i] = is_noise || i / 50'000 % 2 ? static_cast<uint8_t>(random()) : "a block of words "[i % 17];
  return bytes;
}

std::shared_ptr<Segment> make(const std::string &directory, uint64_t index, uint64_t base, const Bytes &bytes) {
  auto made = Segment::create(directory, index, base, {}, bytes.size());
  if (!EXPECT(made.ok()) || !EXPECT(made.value->append(bytes.data(), bytes.size()) == 0)) return nullptr;
  return made.value;
}

bool gives(const LogPiece &piece, const Bytes &expected, std::mt19937_64 &random) {
  for (int i = 0; i < 200; i++) {
    const size_t length = 1 + random() % (i % 10 ? 9000 : 700'000), from = random() % (expected.size() - length);
    Bytes read(length);
    size_t done = 0;
    if (!EXPECT(piece.read(read.data(), length, piece.base() + from, &done) == 0) || !EXPECT(done == length)) return false;
    if (!EXPECT(memcmp(read.data(), expected.data() + from, length) == 0)) return false;
  }
  Bytes tail(100);
  size_t done = 0;
  return EXPECT(piece.read(tail.data(), tail.size(), piece.base() + expected.size() - 40, &done) == 0) && EXPECT(done == 40);
}

bool is_there(const std::string &path) { return access(path.c_str(), F_OK) == 0; }

void test_packing() {
  Scratch scratch;
  std::mt19937_64 random(1);
  const Bytes contents[3] = {content(0, false), content(1, true), content(2, false)};
  uint64_t bases[4] = {1000};
  FileRemover remover;
  KeptSegments kept(scratch.path, remover);
  bool good = true;
  for (uint64_t i = 0; i < 3; i++) {
    auto segment = make(scratch.path, i + 1, bases[i], contents[i]);
    good = good && segment && EXPECT(kept.keep(*segment));
    bases[i + 1] = bases[i] + contents[i].size();
  }
  const uint64_t before = kept.sum().bytes;
  auto raw = kept.open(bases[0]);
  KeptPacker packer(kept, 0);
  packer.start();
  packer.may_pack_below(bases[2]);  // the third is of an epoch that goes on
  good = good && EXPECT(wait_until([&] { return !kept.to_pack(bases[2]) && !is_there(kept.path_of(scratch.path, 1)); }));
  KeptSegments::Sum sum = kept.sum();
  printf("# %lu bytes hold %lu\n", sum.packed_bytes, sum.raw_bytes);
  good = good && EXPECT(sum.count == 3 && sum.packed == 1) && EXPECT(sum.packed_bytes < sum.raw_bytes * 6 / 10) &&
         EXPECT(sum.bytes == before - sum.raw_bytes + sum.packed_bytes);
  ok(good && EXPECT(is_there(kept.path_of(scratch.path, 2))) && EXPECT(is_there(kept.path_of(scratch.path, 3))),
     "a segment of a closed epoch is compressed; one that a sample calls not worth it stays as it is");
  ok(good && gives(*raw.value, contents[0], random), "who has the raw file open goes on reading it");
  for (int i = 0; good && i < 3; i++) {
    auto piece = kept.open(bases[i + 1] - 1);
    good = EXPECT(piece.ok()) && EXPECT(piece.value->base() == bases[i]) && EXPECT(piece.value->end() == bases[i + 1]) &&
           gives(*piece.value, contents[i], random);
  }
  ok(good, "any bytes of any of them are what they were");
  packer.stop();

  // 1. the compressed one has its name 2. power is lost before the raw one is removed; and one is half made
  make(scratch.path, 9, bases[0], contents[0]);
  good = good && EXPECT(rename(Segment::path_of(scratch.path, 9).c_str(), kept.path_of(scratch.path, 1).c_str()) == 0);
  write_file(kept.fresh_path_of(3), Bytes(5000));
  KeptSegments again(scratch.path, remover);
  auto from = again.load(bases[3]);
  good = good && EXPECT(from.ok()) && EXPECT(from.value == bases[0]) && EXPECT(again.sum().packed == 1) &&
         EXPECT(again.sum().bytes == sum.bytes) && EXPECT(list_files(scratch.path).size() == 3);
  auto piece = again.open(bases[0]);
  ok(good && EXPECT(piece.ok()) && gives(*piece.value, contents[0], random), "after a crash of the packing nothing is lost, and nothing is left over");
  again.drop_below(bases[1]);
  good = good && EXPECT(again.sum().count == 2 && again.sum().packed == 0) && EXPECT(again.open(bases[0]).status.error == ENOENT);
  ok(good && gives(*piece.value, contents[0], random), "a view reads what it has open when the segment has expired");
}

// What is dropped while it is being compressed is gone.
void test_dropped() {
  Scratch scratch;
  FileRemover remover;
  KeptSegments kept(scratch.path, remover);
  const Bytes bytes = content(0, false);
  auto segment = make(scratch.path, 1, 0, bytes);
  bool good = segment && EXPECT(kept.keep(*segment));
  const auto packed = PackedSegment::pack(*segment, kept.fresh_path_of(1), [&] { return kept.drop_all(), true; });
  good = good && EXPECT(packed.ok());
  kept.replace(1, packed.value);
  remover.finish();
  const auto stopped = PackedSegment::pack(*segment, kept.fresh_path_of(1), [] { return false; });
  ok(good && EXPECT(stopped.status.error == ECANCELED) && EXPECT(list_files(scratch.path).empty()) && EXPECT(kept.sum().bytes == 0),
     "a segment that expires while it is being compressed, or a packing that is stopped, leaves nothing");
}

void test_damage() {
  Scratch scratch;
  const Bytes bytes = content(0, false);
  auto segment = make(scratch.path, 1, 0, bytes);
  const std::string path = PackedSegment::path_of(scratch.path, 1);
  bool good = segment && EXPECT(PackedSegment::pack(*segment, path, [] { return true; }).ok());
  const Bytes whole = read_file(path);
  std::mt19937_64 random(3);
  int refused = 0;
  for (int i = 0; good && i < 300; i++) {
    Bytes damaged = whole;
    const size_t at = i % 3 == 0 ? random() % 56 : i % 3 == 1 ? 4096 + random() % (whole.size() - 4096) : whole.size() - 1 - random() % 200;
    damaged[at] ^= static_cast<uint8_t>(1u << random() % 8);
    if (i % 50 == 49) damaged.resize(random() % whole.size());
    write_file(path, damaged);
    auto opened = PackedSegment::open(path, 1, bytes.size(), std::make_shared<FrameCache>());
    Bytes read(bytes.size());
    size_t done = 0;
    const int error = opened.ok() ? opened.value->read(read.data(), read.size(), 0, &done) : opened.status.error;
    refused += error == EBADMSG;
    good = EXPECT(error == EBADMSG);
  }
  ok(good && EXPECT(refused == 300), "a byte that is not what it was, anywhere in a compressed segment, is found (G8)");
}
}  // namespace

int main() {
  test_packing();
  test_dropped();
  test_damage();
  return finish();
}
