// sources: native/replay/epoch-tally.cc native/replay/file-io.cc native/replay/record-index.cc native/replay/saved-blocks.cc native/core/core.cc native/core/crc32c.cc  libs: -lgnutls
// What a history costs in memory, to the byte: all that is allocated while an epoch takes records is counted.
#include <malloc.h>

#include <atomic>
#include <new>

#include "replay-support.h"
#include "replay/record-index.h"
#include "replay/saved-blocks.h"

namespace {
std::atomic<int64_t> allocated{0}, most{0};
void *counted(void *memory) {
  const int64_t now = allocated += static_cast<int64_t>(malloc_usable_size(memory));
  if (now > most) most = now;
  return memory;
}
}  // namespace

void *operator new(size_t bytes) {
  if (void *memory = malloc(bytes)) return counted(memory);
  throw std::bad_alloc();
}
void operator delete(void *memory) noexcept {
  allocated -= static_cast<int64_t>(malloc_usable_size(memory));
  free(memory);
}
void operator delete(void *memory, size_t) noexcept { operator delete(memory); }

using namespace replay_test;

namespace {
constexpr uint64_t kBlocks = 100'000, kTurnBlocks = 1024;
constexpr uint64_t kRecordBytes = sizeof(RecordHeader) + kViewBlockBytes;

RecordEntry entry_of(uint64_t i) {
  return {i * kRecordBytes, i * 7919 % kBlocks * kViewBlockBytes, kViewBlockBytes, i + 1, 1000 + i, 7, 0,
          static_cast<uint8_t>(RecordType::kWrite), 0};
}

// An epoch of as many records as blocks: each is of another block, in no order, as turns of the applier bring them.
void test_block() {
  Scratch scratch;
  const EpochStart start{1, 0, {{1, 0}, 1000}};
  const std::vector<uint8_t> blocks(kTurnBlocks * kViewBlockBytes, 1);
  std::vector<SavedBlock> batch;
  batch.reserve(kTurnBlocks);
  const int64_t before = allocated;
  auto index = RecordIndex::create(scratch.path, start);
  auto saved = SavedBlocks::create(scratch.path, start, {kBlocks * kViewBlockBytes});
  bool good = EXPECT(index.ok()) && EXPECT(saved.ok());
  int64_t holds = 0;
  for (uint64_t i = 0; good && i < kBlocks; i++) {
    const RecordEntry entry = entry_of(i);
    batch.push_back({block_key(0, entry.offset / kViewBlockBytes), 0, 0});
    index.value->note(entry);
    if (batch.size() < kTurnBlocks && i + 1 < kBlocks) continue;
    good = EXPECT(saved.value->append(batch, blocks.data()) == 0);
    saved.value->accept(batch);
    batch.clear();
    holds = std::max(holds, allocated - before);
  }
  most = allocated.load();
  good = good && EXPECT(saved.value->close(index.value->tally().runs(), index.value->tally().changed_bytes()) == 0);
  const int64_t closing = most - before;
  printf("# %.1f bytes a block, %.1f while the epoch is closed\n", static_cast<double>(holds) / kBlocks,
         static_cast<double>(closing) / kBlocks);
  ok(good && EXPECT(holds <= 32 * static_cast<int64_t>(kBlocks)) && EXPECT(closing <= 32 * static_cast<int64_t>(kBlocks)),
     "a history takes at most 32 bytes of memory for a block that was written, also while an epoch is closed");
  saved.value->drop_entries();
  index.value.reset();
  ok(good && EXPECT(allocated - before < 64 << 10), "an epoch that is closed takes none for its blocks");
}

bool holds(const RecordIndex &index, const std::string &directory, const EpochStart &start, uint64_t count) {
  const auto entries = RecordIndex::load(directory, start, index.extent());
  bool good = EXPECT(entries.ok()) && EXPECT(entries.value.size() == count) && EXPECT(index.tally().count() == count);
  for (uint64_t i = 0; good && i < count; i++) {
    const RecordEntry expected = entry_of(i);
    good = EXPECT(memcmp(&entries.value[i], &expected, sizeof expected) == 0);
  }
  return good && EXPECT(index.tally().cut().position.sequence == count);
}

// After a failed sync the applier goes back, and the same records come again.
void test_again() {
  Scratch scratch;
  const EpochStart start{1, 0, {{1, 0}, 1000}};
  auto index = RecordIndex::create(scratch.path, start);
  bool good = EXPECT(index.ok());
  uint64_t count = 0;
  for (const uint64_t back_to : {3000u, 2999u, 100u, 0u, 5000u}) {  // from 5000 each time: in the file, or not yet
    while (good && count < 5000) index.value->note(entry_of(count++));
    good = good && holds(*index.value, scratch.path, start, 5000);
    if (back_to == 2999) good = good && EXPECT(index.value->flush(5000 * kRecordBytes) == 0);
    if (back_to == 5000) break;
    index.value->note(entry_of(back_to));
    count = back_to + 1;
    good = good && holds(*index.value, scratch.path, start, count);
  }
  good = good && EXPECT(index.value->flush(5000 * kRecordBytes) == 0);
  auto again = RecordIndex::open(scratch.path, start);
  ok(good && EXPECT(again.ok()) && EXPECT(again.value->written_to() == 5000 * kRecordBytes) &&
         holds(*again.value, scratch.path, start, 5000),
     "records that come again replace those of before, on disk or not, and a restart finds them");
}
}  // namespace

int main() {
  test_block();
  test_again();
  return finish();
}
