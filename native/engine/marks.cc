#include "engine/marks.h"

#include <algorithm>
#include <bit>
#include <cerrno>

#include "core/breakage.h"
#include "core/clock.h"
#include "engine/volume.h"

namespace understudy::engine {
namespace {
constexpr uint64_t kExtent = ExtentSet::kExtent;
static_assert(kExtent == 64 * log::DirtyMap::kRegion, "an extent is one word of the dirty map");
constexpr uint64_t kBlockWords = log::MarkFile::kBlockWords;
constexpr uint64_t kBatchBlocks = 256;  // one job: 1 MiB
constexpr uint64_t kHotMax = 1024;      // 4 GiB; more are cooled sooner
constexpr uint64_t kRoundNs = 10'000'000'000, kCrowdedRoundNs = 1'000'000'000;
constexpr uint64_t kAhead = 4;          // extents marked with one that follows a hot one: a stream stops less often

bool test(const std::vector<uint64_t> &bits, uint64_t at) { return bits[at / 64] >> (at % 64) & 1; }
void set(std::vector<uint64_t> &bits, uint64_t at) { bits[at / 64] |= 1ull << (at % 64); }
void reset(std::vector<uint64_t> &bits, uint64_t at) { bits[at / 64] &= ~(1ull << (at % 64)); }

template <typename Do>
void each_set(const std::vector<uint64_t> &bits, const Do &act) {
  for (size_t index = 0; index < bits.size(); index++)
    for (uint64_t word = bits[index]; word; word &= word - 1)
      act(index * 64 + static_cast<uint64_t>(std::countr_zero(word)));
}
}  // namespace

struct Marks::Batch {
  std::vector<uint64_t> blocks;
  std::vector<uint64_t> words;  // kBlockWords of each
  int error = 0, remove_error = 0;
};

Marks::Marks(Volume &volume, std::string path, std::string uuid)
    : volume_(volume), path_(std::move(path)), owner_{std::move(uuid), volume.size_bytes} {
  const size_t words = volume.dirty.words() / 64 + 1;
  for (auto *bits : {&hot_, &stored_, &touched_, &cooling_}) bits->resize(words);
  is_queued_.resize(log::MarkFile::blocks_of(volume.size_bytes));
  round_ns_ = monotonic_ns();
}

Status Marks::load(uint64_t *damaged_blocks) {
  auto opened = log::MarkFile::open(path_, owner_, volume_.dirty);
  if (!opened.ok()) return opened.status;
  file_ = std::move(opened.value.file);
  floor_ = opened.value.floor;
  *damaged_blocks = opened.value.damaged_blocks;
  state_ = State::kOn;
  loaded_ = true;
  return Status::good();
}

Status Marks::inherit(std::span<const uint64_t> map, bool kept) {
  for (size_t i = 0; i + 1 < map.size(); i += 2) {
    if (map[i] >= volume_.dirty.words()) return Status::failed(EINVAL, "dirty map: it is of another volume");
    volume_.dirty.merge(map[i], map[i + 1]);
  }
  loaded_ = true;
  if (!kept) return Status::good();
  log::DirtyMap stored(volume_.size_bytes), whole(volume_.size_bytes);
  auto opened = log::MarkFile::open(path_, owner_, stored);
  if (!opened.ok()) return opened.status;
  file_ = std::move(opened.value.file);
  floor_ = opened.value.floor;
  state_ = State::kOn;
  whole.mark(0, volume_.size_bytes);
  for (uint64_t extent = 0; extent < stored.words(); extent++) {
    if (stored.word(extent) == whole.word(extent)) {
      set(hot_, extent);
      set(stored_, extent);
      hot_count_++;
    } else if (volume_.dirty.word(extent) & ~stored.word(extent)) {
      queue(extent / kBlockWords);  // it was on its way to the file
    }
  }
  return Status::good();
}

void Marks::queue(uint64_t block) {
  if (is_queued_[block]) return;
  is_queued_[block] = true;
  queued_.push_back(block);
}

// Makes the range hot. True: it is so on disk.
bool Marks::heat(uint64_t start, uint64_t end, bool queued) {
  bool stored = true;
  for (uint64_t extent = start / kExtent; extent * kExtent < end; extent++) {
    set(touched_, extent);
    if (!test(hot_, extent)) {
      set(hot_, extent);
      hot_count_++;
    }
    if (test(stored_, extent)) continue;
    stored = false;
    if (queued && state_ != State::kOff) queue(extent / kBlockWords);
  }
  return stored;
}

bool Marks::ready(uint64_t start, uint64_t end) {
  const uint64_t first = start / kExtent;
  const bool follows = test(stored_, first) || (first && test(hot_, first - 1));
  if (heat(start, end, true) || state_ == State::kOff || state_ == State::kFilling) return true;
  if (follows) {  // in the same batch, and not touched: a stream that ends leaves them to the next round
    const uint64_t extents = volume_.dirty.words();
    const uint64_t next = (end - 1) / kExtent + 1;
    for (uint64_t extent = next; extent < std::min(extents, next + kAhead); extent++) {
      if (test(hot_, extent)) continue;
      set(hot_, extent);
      hot_count_++;
      queue(extent / kBlockWords);
    }
  }
  return false;
}

void Marks::keep(uint64_t start, uint64_t end) { heat(start, end, false); }

void Marks::note(uint64_t start, uint64_t end) { heat(start, end, true); }

void Marks::fill(Done done) {
  waiting_.push_back(std::move(done));
  if (state_ != State::kOff) return;
  state_ = State::kFilling;
  cursor_ = 0;
}

void Marks::drop() {
  forget_file(ECANCELED);
  floor_ = {};
}

void Marks::forget_file(int error) {
  epoch_++;
  state_ = State::kOff;
  file_.reset();
  std::fill(stored_.begin(), stored_.end(), 0);
  std::fill(is_queued_.begin(), is_queued_.end(), false);
  queued_.clear();
  tell(Status::failed(error, "write dirty map " + path_));
  show();
}

void Marks::turn(const MarkClock &clock) {
  if (!finished_) round(clock);
  if (!busy_ && !handed_over_) next_job();
  show();
}

void Marks::round(const MarkClock &clock) {
  if (in_round_) {
    const bool durable = !clock.streaming || clock.durable >= round_sequence_;
    if (BROKEN(kClearBeforeFlush) || (durable && volume_.flush.good >= round_flush_)) cool(clock);
    return;
  }
  if (clock.now_ns < round_ns_ + (hot_count_ > kHotMax ? kCrowdedRoundNs : kRoundNs)) return;
  round_ns_ = clock.now_ns;
  // What is on a worker has no sequence yet that the round could wait for.
  const uint64_t size = volume_.size_bytes;
  volume_.flights.each_write([&](uint64_t start, uint64_t end) { heat(start, std::min(end, size), false); });
  for (const RangeTable *table : {&volume_.unstored, &volume_.held}) table->each([&](uint64_t start, uint64_t end) { heat(start, end, false); });
  bool any = false;
  for (size_t i = 0; i < hot_.size(); i++) {
    cooling_[i] = hot_[i] & ~touched_[i];
    any |= cooling_[i] != 0;
    touched_[i] = 0;
  }
  if (!any) return;
  in_round_ = true;
  round_sequence_ = clock.last_sequence;
  round_flush_ = volume_.flush.ask();
}

void Marks::cool(const MarkClock &clock) {
  in_round_ = false;
  each_set(cooling_, [&](uint64_t extent) {
    if (test(touched_, extent)) return;
    reset(hot_, extent);
    reset(stored_, extent);
    hot_count_--;
    if (state_ != State::kOff) queue(extent / kBlockWords);
  });
  if (clock.durable == 0) return;
  floor_ = {clock.incarnation, clock.durable};
  floor_waits_ = true;
}

void Marks::next_job() {
  if (state_ == State::kFilling && !file_) {
    auto created = std::make_shared<Status>();
    auto file = std::make_shared<std::shared_ptr<log::MarkFile>>();
    busy_ = true;
    floor_waits_ = false;
    host_.pool->submit([this, created, file, epoch = epoch_, floor = floor_] {
      auto made = log::MarkFile::create(path_, owner_, floor);
      *created = made.status;
      if (made.ok()) *file = std::move(made.value);
      const int removed = made.ok() ? 0 : log::MarkFile::remove(path_);
      host_.post([this, created, file, epoch, removed] {
        busy_ = false;
        if (epoch != epoch_) return;
        if (!created->ok()) return fail(created->error, removed);
        file_ = *file;
      });
    });
  } else if (state_ == State::kFilling && cursor_ < is_queued_.size()) {
    std::vector<uint64_t> blocks;
    while (cursor_ < is_queued_.size() && blocks.size() < kBatchBlocks) blocks.push_back(cursor_++);
    start_batch(std::move(blocks), true);
  } else if (state_ == State::kFilling) {
    state_ = State::kSealing;  // writes wait from here on, so that what is queued comes to an end
    next_job();
  } else if (state_ != State::kOff && (!queued_.empty() || floor_waits_)) {
    const auto end = queued_.begin() + static_cast<ptrdiff_t>(std::min<size_t>(queued_.size(), kBatchBlocks));
    std::vector<uint64_t> blocks(queued_.begin(), end);
    queued_.erase(queued_.begin(), end);
    for (uint64_t block : blocks) is_queued_[block] = false;
    start_batch(std::move(blocks), false);
  } else if (state_ == State::kSealing) {
    publish();
  } else if (state_ == State::kOn) {
    tell(Status::good());
  }
}

void Marks::start_batch(std::vector<uint64_t> blocks, bool fills) {
  auto batch = std::make_shared<Batch>();
  batch->blocks = std::move(blocks);
  batch->words.resize(batch->blocks.size() * kBlockWords);
  for (size_t i = 0; i < batch->blocks.size(); i++) {
    const uint64_t first = batch->blocks[i] * kBlockWords;
    const uint64_t count = std::min(kBlockWords, volume_.dirty.words() - first);
    for (uint64_t at = 0; at < count; at++)
      batch->words[i * kBlockWords + at] = test(hot_, first + at) ? ~0ull : volume_.dirty.word(first + at);
  }
  busy_ = true;
  const bool writes_floor = std::exchange(floor_waits_, false);
  host_.pool->submit([this, batch, fills, writes_floor, floor = floor_, file = file_, epoch = epoch_] {
    int error = 0;
    if (writes_floor) error = file->write_floor(floor);
    if (writes_floor && !error) error = file->sync();
    for (size_t i = 0; i < batch->blocks.size() && !error; i++) {
      const uint64_t *words = &batch->words[i * kBlockWords];
      error = fills ? file->fill(batch->blocks[i], words) : file->write(batch->blocks[i], words);
    }
    if (!error && !fills) error = file->sync();  // a file that is being filled is synced when it is published
    batch->error = error;
    if (error) batch->remove_error = log::MarkFile::remove(path_);
    host_.post([this, batch, epoch] {
      busy_ = false;
      if (epoch == epoch_) batch_ended(*batch);
    });
  });
}

void Marks::batch_ended(const Batch &batch) {
  if (batch.error) return fail(batch.error, batch.remove_error);
  for (size_t i = 0; i < batch.blocks.size(); i++) {
    const uint64_t first = batch.blocks[i] * kBlockWords;
    const uint64_t count = std::min(kBlockWords, volume_.dirty.words() - first);
    for (uint64_t at = 0; at < count; at++)
      if (batch.words[i * kBlockWords + at] == ~0ull && test(hot_, first + at)) set(stored_, first + at);
  }
}

void Marks::publish() {
  busy_ = true;
  host_.pool->submit([this, file = file_, epoch = epoch_] {
    const int error = file->publish();
    const int removed = error ? log::MarkFile::remove(path_) : 0;
    host_.post([this, epoch, error, removed] {
      busy_ = false;
      if (epoch != epoch_) return;
      if (error) return fail(error, removed);
      state_ = State::kOn;
      show();
    });
  });
}

// The file is gone already, so that no start believes it: writes need not wait any more.
void Marks::fail(int error, int remove_error) {
  forget_file(error);
  std::string message = Status::failed(error, "write dirty map " + path_).message;
  if (remove_error) message += "; and " + Status::failed(remove_error, "it cannot be removed").message;
  host_.events({"map-failed",
                {{"volume", static_cast<double>(volume_.handle)},
                 {"message", message},
                 {"removed", remove_error == 0}},
                ""});
}

void Marks::tell(const Status &status) {
  for (Done &done : std::exchange(waiting_, {})) done(status);
}

void Marks::finish(const MarkClock &clock, Done done) {
  finished_ = true;
  in_round_ = false;
  each_set(hot_, [&](uint64_t extent) { queue(extent / kBlockWords); });
  for (auto *bits : {&hot_, &stored_, &touched_}) std::fill(bits->begin(), bits->end(), 0);
  hot_count_ = 0;
  if (clock.durable) {
    floor_ = {clock.incarnation, clock.durable};
    floor_waits_ = true;
  }
  fill(std::move(done));
}

void Marks::hand_over() { finished_ = handed_over_ = true; }

int Marks::wait_limit_ms(uint64_t now_ns) const {
  if (finished_) return -1;
  if (in_round_) return 100;
  if (!hot_count_) return -1;
  const uint64_t due = round_ns_ + (hot_count_ > kHotMax ? kCrowdedRoundNs : kRoundNs);
  return due <= now_ns ? 0 : static_cast<int>((due - now_ns) / 1'000'000 + 1);
}

void Marks::show() {
  volume_.page.set(kHotBytes, std::min(volume_.size_bytes, hot_count_ * kExtent));
  volume_.page.set(kMapStored, state_ == State::kOn);
}

}  // namespace understudy::engine
