#include "replay/history.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/breakage.h"
#include "core/check.h"
#include "core/clock.h"
#include "replay/file-io.h"
#include "replay/image-clones.h"
#include "replay/moment.h"

namespace understudy::replay {
namespace {

constexpr uint64_t kBatchBlocksMax = 1024;
constexpr uint64_t kRestNs = 10'000'000'000;
constexpr size_t kEpochRecordsMax = 128u << 10;  // a moment is put together from all of them
constexpr int kExpireMax = 4;                    // at once: replay goes on
constexpr int kClonesRest = 7;                   // epochs, after one that ended before its clones were whole

std::string history_directory(const std::string &directory) { return directory + "/history"; }

// The epochs by number; `others`: the files that go with them, or are left of some.
Status list(const std::string &directory, std::vector<uint64_t> *numbers, std::vector<std::string> *others) {
  DIR *listing = opendir(directory.c_str());
  if (!listing) return errno == ENOENT ? Status::good() : Status::failed(errno, "list " + directory);
  while (dirent *entry = readdir(listing)) {
    char *end = nullptr;
    const uint64_t number = strtoull(entry->d_name, &end, 16);
    if (end != entry->d_name + 16) continue;
    if (strcmp(end, ".saved") == 0) numbers->push_back(number);
    else others->push_back(directory + "/" + entry->d_name);
  }
  closedir(listing);
  std::sort(numbers->begin(), numbers->end());
  return Status::good();
}

// The newest first, and each durably: without the newest the others are not believed.
Status remove_epochs(const std::string &directory, std::vector<uint64_t> numbers, size_t volume_count) {
  std::sort(numbers.rbegin(), numbers.rend());
  for (size_t i = 0; i < numbers.size(); i++) {
    unlink(SavedBlocks::path_of(directory, numbers[i]).c_str());
    if (i == 0)
      if (const int error = sync_directory(directory)) return Status::failed(error, "sync " + directory);
    unlink(RecordIndex::path_of(directory, numbers[i]).c_str());
    image_clones::remove(directory, numbers[i], volume_count);
  }
  return Status::good();
}

std::string to_text(const Point &point) {
  return std::to_string(point.position.incarnation) + ":" + std::to_string(point.position.sequence);
}

}  // namespace

void SavedLayer::sort() {
  if (entries)
    std::sort(entries->begin(), entries->end(), [](const SavedBlock &a, const SavedBlock &b) { return a.key < b.key; });
}

int SavedLayer::find(uint64_t first_key, uint64_t count, const std::function<void(const SavedBlock &)> &found) const {
  if (!entries) return file->find(first_key, count, found);
  auto at = std::lower_bound(entries->begin(), entries->end(), first_key,
                             [](const SavedBlock &entry, uint64_t key) { return entry.key < key; });
  for (; at != entries->end() && at->key < first_key + count; ++at) found(*at);
  return 0;
}

History::History(const std::string &directory, const ReplicaOptions &options, ReplicaListener &listener)
    : directory_(history_directory(directory)), segments_directory_(directory + "/segments"), options_(options.history),
      listener_(listener), kept_(segments_directory_, remover_), packer_(kept_, options.history.pack_rest_ns),
      volumes_(options.volumes), is_held_(options.history.is_held) {
  for (const ReplicaVolume &volume : options.volumes) volume_bytes_.push_back(volume.size_bytes);
}

Result<std::unique_ptr<History>> History::open(const std::string &directory, const ReplicaOptions &options,
                                               ReplicaListener &listener) {
  auto history = std::unique_ptr<History>(new History(directory, options, listener));
  if (mkdir(history->directory_.c_str(), 0700) != 0 && errno != EEXIST)
    return Status::failed(errno, "make directory " + history->directory_);
  // 1. an epoch's file is made 2. the process is killed 3. the next one finds it, and closes the epoch before it 4. power
  // is lost, and the name with it: what is left ends in a closed epoch, as one that is being given up. So names first.
  if (const int error = sync_directory(history->directory_))
    return Status::failed(error, "sync " + history->directory_);
  std::vector<uint64_t> numbers;
  std::vector<std::string> others;
  if (Status status = list(history->directory_, &numbers, &others); !status.ok()) return status;
  if (Status status = history->load_epochs(numbers); !status.ok()) return status;
  for (const std::string &path : others) {  // of epochs that were coming or going when the process ended
    const auto is_of = [&](const Epoch &epoch) {
      return strtoull(path.c_str() + history->directory_.size() + 1, nullptr, 16) == epoch.start().number;
    };
    if (std::none_of(history->epochs_.begin(), history->epochs_.end(), is_of)) unlink(path.c_str());
  }
  return history;
}

Status History::remove(const std::string &directory) {
  const std::string path = history_directory(directory);
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return errno == ENOENT ? Status::good() : Status::failed(errno, "look for " + path);
  std::vector<uint64_t> numbers;
  std::vector<std::string> others;
  if (Status status = list(path, &numbers, &others); !status.ok()) return status;
  if (Status status = remove_epochs(path, numbers, 0); !status.ok()) return status;
  for (const std::string &left : others) unlink(left.c_str());
  KeptSegments::remove_all(directory + "/segments");
  return rmdir(path.c_str()) == 0 ? Status::good() : Status::failed(errno, "remove " + path);
}

// From the newest on, as far as each can be read and ends where the next one begins.
Status History::load_epochs(const std::vector<uint64_t> &numbers) {
  if (!numbers.empty()) next_number_ = numbers.back() + 1;
  std::vector<uint64_t> others = numbers;
  while (!others.empty()) {
    const uint64_t number = others.back();
    if (!epochs_.empty() && number + 1 != epochs_.front().start().number) break;
    auto saved = SavedBlocks::open(directory_, number, volume_bytes_);
    if (saved.status.error == EBADMSG && epochs_.empty() && number == numbers.back()) {
      others.pop_back();  // its making was interrupted: the one before it goes on
      unlink(SavedBlocks::path_of(directory_, number).c_str());
      unlink(RecordIndex::path_of(directory_, number).c_str());
      next_number_ = number;  // without a gap: epochs that are not one behind the other are not believed
      continue;
    }
    if (!saved.ok()) break;
    Epoch epoch{saved.value};
    if (!epoch.is_cloned())
      image_clones::remove(directory_, number, volume_bytes_.size());  // their making was interrupted
    else if (!image_clones::look(directory_, number, volume_bytes_, &epoch.cloned_bytes).ok())
      break;
    if (!epochs_.empty() && !saved.value->is_closed()) {  // its closing was interrupted
      const uint64_t end = epochs_.front().start().log_offset;
      auto entries = RecordIndex::load(directory_, saved.value->start(), {.to = end});
      if (!entries.ok() || saved.value->go_on() != 0) break;
      EpochTally tally(saved.value->start());
      tally.add(entries.value, entries.value.size());
      if (saved.value->close(tally.runs(), tally.changed_bytes()) != 0) break;
      saved.value->drop_entries();
    }
    epoch.saved_bytes = saved.value->bytes();
    epoch.changed_bytes = saved.value->changed_bytes();
    struct stat info {};
    if (stat(RecordIndex::path_of(directory_, number).c_str(), &info) != 0) break;
    epoch.records_bytes = static_cast<uint64_t>(info.st_size);
    epochs_.push_front(std::move(epoch));
    others.pop_back();
  }
  return remove_epochs(directory_, others, volume_bytes_.size());
}

Status History::adopt(const Watermark &from, uint64_t log_start, bool is_whole) {
  if (!epochs_.empty()) {
    const auto &newest = *epochs_.back().saved;
    auto index = RecordIndex::open(directory_, newest.start());
    std::string why;
    if (!is_whole) why = "the log is damaged";
    else if (newest.is_closed()) why = "it was being given up";
    else if (!index.ok()) why = index.status.message;
    else if (newest.start().log_offset > from.log_offset) why = "it is ahead of the images";
    else if (index.value->written_to() < from.log_offset) why = "the images are ahead of it";
    else if (const int error = epochs_.back().saved->go_on()) why = Status::failed(error, "cut its end").message;
    if (why.empty())
      index_ = std::move(index.value);
    else
      listener_.failed("history: what there was is removed, and it begins anew: " + why);
  }
  if (!index_)
    if (Status status = discard(); !status.ok()) return status;
  auto reaches_from = kept_.load(log_start);
  if (!reaches_from.ok()) return reaches_from.status;
  std::vector<uint64_t> lost;
  while (!epochs_.empty() && epochs_.front().start().log_offset < reaches_from.value) {
    lost.push_back(epochs_.front().start().number);
    epochs_.pop_front();
  }
  if (!lost.empty()) listener_.failed("history: segments of it are missing: it begins later");
  if (epochs_.empty()) index_.reset();
  if (Status status = remove_epochs(directory_, lost, volume_bytes_.size()); !status.ok()) return status;
  is_open_.store(index_ != nullptr);
  if (index_) epochs_.back().changed_bytes = index_->tally().changed_bytes();
  if (index_)
    kept_.drop_below(epochs_.front().start().log_offset);
  else
    kept_.drop_all();
  begun_ns_ = monotonic_ns();
  if (index_) packer_.may_pack_below(epochs_.back().start().log_offset);
  packer_.start();
  return Status::good();
}

bool History::take(const Segment &segment) {
  if (!is_open() || !kept_.keep(segment)) return false;
  packer_.wake();
  return true;
}

// ---- the applier's side

Status History::save(const std::vector<std::shared_ptr<VolumeImage>> &images, const std::vector<Change> &changes) {
  if (is_lost_)
    if (Status status = discard(); !status.ok()) return status;
  if (!saves_blocks()) return Status::good();
  const std::shared_ptr<SavedBlocks> saved = epochs_.back().saved;
  std::vector<SavedBlock> batch;  // their bytes are in save_buffer_
  std::vector<std::unique_ptr<BlockMap>> taken(images.size());  // in the batch
  uint64_t most = 0;
  for (const Change &change : changes) most += blocks_touched(change.offset, change.bytes, kViewBlockBytes).count;
  most = std::min(most, kBatchBlocksMax) * kViewBlockBytes;
  if (save_buffer_.size() < most) save_buffer_.resize(most);
  bool any = false;
  const auto write = [&] {
    Status status = batch.empty() || !is_open() ? Status::good() : write_batch(batch, save_buffer_);
    any = any || !batch.empty();
    batch.clear();
    for (auto &map : taken) map.reset();
    return status;
  };
  Status status = Status::good();
  const auto keep = [&](const Change &change, uint64_t first, uint64_t count) {
    Device &device = images[change.volume]->device();
    return walk_blocks(device, first, count, kBatchBlocksMax * kViewBlockBytes, [&](uint64_t at, uint64_t bytes, bool hole) {
      if (hole && change.zeroes) return 0;  // it stays what it is
      auto &map = taken[change.volume];
      const BlockRange range = blocks_touched(at, bytes, kViewBlockBytes);
      for (uint64_t block = range.first, end = range.first + range.count; block < end;) {
        if (!map) map = std::make_unique<BlockMap>(volume_bytes_[change.volume] / kViewBlockBytes + 1);
        const BlockMap::Run run = map->run(block, std::min(end - block, kBatchBlocksMax - batch.size()));
        if (!run.value) {
          uint8_t *to = save_buffer_.data() + batch.size() * kViewBlockBytes;
          const size_t size = std::min(run.count * kViewBlockBytes, at + bytes - block * kViewBlockBytes);
          memset(to + (hole ? 0 : size), 0, run.count * kViewBlockBytes - (hole ? 0 : size));
          if (!hole)
            if (const int error = device.read(to, size, block * kViewBlockBytes)) return error;
          for (uint64_t i = 0; i < run.count; i++) batch.push_back({block_key(change.volume, block + i), 0, 0});
          map->set(block, run.count);
        }
        block += run.count;
        if (batch.size() < kBatchBlocksMax) continue;
        if (status = write(); !status.ok()) return status.error;
      }
      return 0;
    });
  };
  for (const Change &change : changes) {
    const BlockRange range = blocks_touched(change.offset, change.bytes, kViewBlockBytes);
    for (uint64_t block = range.first; block < range.first + range.count;) {
      if (!is_open()) return Status::good();  // given up
      const BlockMap::Run run = saved->saved(change.volume, block, range.first + range.count - block);
      if (!run.value)
        if (const int error = keep(change, block, run.count))
          return !status.ok() ? status : Status::failed(error, "history: read the image of volume " + images[change.volume]->name());
      block += run.count;
    }
  }
  if (status = write(); !status.ok() || !any || !is_open()) return status;
  if (BROKEN(kUnsavedHistory)) return Status::good();
  const int error = saved->sync();
  if (error && is_held_) {
    std::lock_guard lock(mutex_);
    saved->retract();
    epochs_.back().saved_bytes = saved->bytes();
    return Status::failed(error, "history: sync what is overwritten");
  }
  return error ? give_up(Status::failed(error, "sync what was overwritten")) : Status::good();
}

// A full disk takes the oldest epochs before it takes the history, and leaves `left` of them. True: it is worth to try again.
bool History::made_room(int error, size_t left) {
  if (error != ENOSPC && error != EDQUOT) return false;
  {
    std::lock_guard lock(mutex_);
    if (is_held_ || epochs_.size() <= left) return false;
    drop_oldest();
  }
  remover_.finish();
  return true;
}

Status History::write_batch(std::vector<SavedBlock> &batch, const std::vector<uint8_t> &blocks) {
  const std::shared_ptr<SavedBlocks> saved = epochs_.back().saved;
  int error;
  while ((error = saved->append(batch, blocks.data())) && made_room(error, 1)) continue;
  if (error && is_held_) return Status::failed(error, "history: save what is overwritten");
  if (error) return give_up(Status::failed(error, "save what is overwritten"));
  std::lock_guard lock(mutex_);
  saved->accept(batch);
  epochs_.back().saved_bytes = saved->bytes();
  return Status::good();
}

void History::note(const wire::RecordHeader &header, uint64_t log_offset, bool is_skipped) {
  if (!is_open() || !wire::is_sequenced(header.type)) return;
  packer_.applies(sizeof header + header.length);
  const bool begins = header.type == wire::RecordType::kBegin;
  std::lock_guard lock(mutex_);
  index_->note({log_offset, begins ? header.incarnation : header.offset, header.length, header.sequence, header.time_ns,
                header.payload_crc32c, header.volume_index, static_cast<uint8_t>(header.type), is_skipped});
  epochs_.back().changed_bytes = index_->tally().changed_bytes();
}

Status History::cover(uint64_t to) {
  if (!is_open()) return Status::good();
  int error;
  do {
    std::lock_guard lock(mutex_);
    error = index_->flush(to);
    epochs_.back().records_bytes = index_->bytes();
  } while (error && made_room(error, 1));
  if (error && is_held_) return Status::failed(error, "history: write the index of records");
  if (error) (void)give_up(Status::failed(error, "write the index of records"));
  return Status::good();
}

void History::settled(const Watermark &mark, uint64_t time_ns, bool may_begin) {
  if (is_held_) return;
  if (may_begin && !is_open() && monotonic_ns() >= rests_until_ns_) {
    const EpochStart start{next_number_, mark.log_offset, {mark.applied, time_ns ? time_ns : wall_ns()}};
    if (Status status = begin(start); !status.ok()) {
      rests_until_ns_ = monotonic_ns() + kRestNs;
      listener_.failed("history: it cannot begin: " + status.message);
    }
  } else if (may_begin && is_open() && is_full(mark)) {
    roll(mark, time_ns);
  }
  if (is_open()) expire();
}

bool History::is_full(const Watermark &mark) const {
  std::lock_guard lock(mutex_);
  const Epoch &epoch = epochs_.back();
  if (mark.log_offset == epoch.start().log_offset) return false;
  uint64_t bytes_max = options_.epoch_bytes;
  if (options_.bytes_max) bytes_max = std::min(bytes_max, options_.bytes_max / 8 + 1);
  return mark.log_offset - epoch.start().log_offset >= bytes_max || epoch.saved_bytes >= bytes_max ||
         (epoch.is_cloned() && std::min(epoch.changed_bytes, epoch.cloned_bytes) >= bytes_max) ||
         index_->tally().count() >= kEpochRecordsMax || index_->tally().begins() >= kEpochRunsMax - 2 ||
         (options_.age_ns_max && monotonic_ns() - begun_ns_ >= options_.age_ns_max / 8);
}

// The files of a new epoch: its header last, as one that is good says that the others are there. The images are synced.
Status History::begin(const EpochStart &start) {
  next_number_ = start.number + 1;
  auto index = RecordIndex::create(directory_, start);
  if (!index.ok()) return index.status;
  auto saved = SavedBlocks::create(directory_, start, volume_bytes_);
  if (!saved.ok()) {
    unlink(RecordIndex::path_of(directory_, start.number).c_str());
    return saved.status;
  }
  if (clones_rest_ > 0) clones_rest_--;
  else if (!clones_are_refused_) clones_ = std::make_unique<ImageClones>(directory_, start.number, volumes_);
  std::lock_guard lock(mutex_);
  epochs_.push_back({saved.value, saved.value->bytes()});
  index_ = std::move(index.value);
  begun_ns_ = monotonic_ns();
  is_open_.store(true, std::memory_order_release);
  packer_.may_pack_below(start.log_offset);
  return Status::good();
}

bool History::clone_slice() {
  if (is_held_) return false;  // the images may be about to become what they were
  if (!clones_ || !is_open()) return clones_.reset(), false;
  Status status = clones_->go_on();
  if (status.ok() && !clones_->is_whole()) return true;
  if (status.ok()) status = finish_clones();
  if (!status.ok()) {
    if (ImageClones::is_refused(status.error)) clones_are_refused_ = true;
    if (clones_) clones_->remove();  // not given up with all else
  }
  clones_.reset();
  return false;
}

// Clones and their names are on stable storage before the epoch says that they are there, and that is before a block is
// overwritten without being saved.
Status History::finish_clones() {
  if (const int error = sync_directory(directory_)) return Status::failed(error, "sync " + directory_);
  const std::shared_ptr<SavedBlocks> saved = epochs_.back().saved;
  if (const int error = saved->append_cloned()) return Status::failed(error, "write that the images are cloned");
  if (const int error = saved->sync()) return give_up(Status::failed(error, "sync that the images are cloned"));
  std::lock_guard lock(mutex_);
  saved->accept_cloned();
  epochs_.back().saved_bytes = saved->bytes();
  epochs_.back().cloned_bytes = clones_->bytes();
  return Status::good();
}

// The epoch ends, and its clones are not whole: it has saved every block instead, and the next ones had better not try.
void History::drop_clones() {
  if (!clones_) return;
  clones_->remove();
  clones_.reset();
  clones_rest_ = kClonesRest;
}

// 1. the new epoch's header is durable 2. power is lost 3. the next start finds the one before it without its end, and
// closes it. The other way round a last epoch would be closed, and could not be told from one that is being given up.
void History::roll(const Watermark &mark, uint64_t time_ns) {
  std::shared_ptr<SavedBlocks> before;
  std::vector<EpochRun> runs;
  Point point{mark.applied, time_ns};
  {
    std::lock_guard lock(mutex_);
    before = epochs_.back().saved;
    runs = index_->tally().runs();
    if (!time_ns) point.time_ns = index_->tally().last().time_ns;
  }
  drop_clones();
  Status status;
  while (!(status = begin({next_number_, mark.log_offset, point})).ok() && made_room(status.error, 1)) continue;
  if (!status.ok()) {
    (void)give_up(status);
    return;
  }
  int error;
  do {
    std::lock_guard lock(mutex_);
    Epoch &closed = epochs_[epochs_.size() - 2];
    error = before->close(runs, closed.changed_bytes);
    if (!error) before->drop_entries();
    closed.saved_bytes = before->bytes();
  } while (error && made_room(error, 2));
  if (error) (void)give_up(Status::failed(error, "close an epoch"));
}

void History::expire() {
  std::lock_guard lock(mutex_);
  const uint64_t now = wall_ns();
  for (int i = 0; i < kExpireMax && epochs_.size() > 1 && !is_held_; i++) {
    const bool too_old = options_.age_ns_max && epochs_[1].start().point.time_ns + options_.age_ns_max < now;
    if (!too_old && !(options_.bytes_max && bytes() > options_.bytes_max)) return;
    drop_oldest();
  }
}

void History::drop_oldest() {
  const uint64_t number = epochs_.front().start().number;
  const bool is_cloned = epochs_.front().is_cloned();
  epochs_.pop_front();  // closed, so that who removes it frees it
  remover_.remove(SavedBlocks::path_of(directory_, number));
  remover_.remove(RecordIndex::path_of(directory_, number));
  for (size_t i = 0; is_cloned && i < volume_bytes_.size(); i++)
    remover_.remove(image_clones::path_of(directory_, number, i));
  kept_.drop_below(epochs_.front().start().log_offset);
}

void History::make_room() {
  wants_room_.store(false);
  if (!is_open()) return;
  {
    std::lock_guard lock(mutex_);
    if (is_held_) return;
    if (epochs_.size() > 1) return drop_oldest();
  }
  (void)give_up(Status::failed(ENOSPC, "keep what the log needs no more"));
}

// Before the image changes again this must be durable: else a later start would believe it. So what fails here fails the
// applier, which tries again.
Status History::give_up(const Status &why) {
  clones_.reset();  // discard() removes them with all else
  if (is_open()) listener_.failed("history: given up, and begins anew: " + why.message);
  is_open_.store(false, std::memory_order_release);
  rests_until_ns_ = monotonic_ns() + kRestNs;
  return discard();
}

Status History::discard() {
  std::vector<uint64_t> numbers;
  for (const Epoch &epoch : epochs_) numbers.push_back(epoch.start().number);
  is_lost_ = true;
  if (Status status = remove_epochs(directory_, numbers, volume_bytes_.size()); !status.ok()) return status;
  std::lock_guard lock(mutex_);
  epochs_.clear();
  index_.reset();
  is_lost_ = false;
  kept_.drop_all();
  return Status::good();
}

// ---- anybody's

void History::hold(bool is_held) {
  std::lock_guard lock(mutex_);  // what is going now has gone when this returns
  is_held_ = is_held;
}

uint64_t History::bytes() const {
  uint64_t total = kept_.sum().bytes + past_bytes();
  for (const Epoch &epoch : epochs_) total += epoch.records_bytes;
  return total;
}

// Clones hold what was overwritten until the next ones were made: at most what the records did, and what they have.
uint64_t History::past_bytes() const {
  uint64_t total = 0, changed = 0, held = 0;
  for (const Epoch &epoch : epochs_) {
    total += epoch.saved_bytes;
    if (epoch.is_cloned()) {
      total += std::min(changed, held);
      changed = 0;
      held = epoch.cloned_bytes;
    }
    changed += epoch.changed_bytes;
  }
  return total + std::min(changed, held);
}

std::optional<HistorySummary> History::summary() const {
  std::lock_guard lock(mutex_);
  if (!is_open()) return std::nullopt;
  HistorySummary summary{epochs_.front().start().point, index_->tally().cut()};
  summary.bytes = bytes();
  summary.saved_bytes = past_bytes();
  summary.epochs = epochs_.size();
  const KeptSegments::Sum kept = kept_.sum();
  summary.segments = kept.count;
  summary.compressed_segments = kept.packed;
  summary.compressed_bytes = kept.packed_bytes;
  summary.uncompressed_bytes = kept.raw_bytes;
  return summary;
}

Status History::out_of_range(const std::string &what) const {
  return Status::failed(ERANGE, what + ": the history reaches from " + to_text(epochs_.front().start().point) + " to " +
                                    to_text(index_->tally().cut()));
}

Result<Cut> History::find(const Moment &moment) const {
  Cut cut;
  EpochStart start;
  RecordIndex::Extent extent;
  {
    std::lock_guard lock(mutex_);
    if (!is_open()) return Status::failed(ENODATA, "view: no history is kept, or it has not begun");
    const auto has = [&](const Epoch &epoch, const std::vector<EpochRun> &runs) {
      if (moment.time_ns) return epoch.start().point.time_ns <= *moment.time_ns;
      return !moment.position || std::any_of(runs.begin(), runs.end(), [&](const EpochRun &run) {
        return run.incarnation == moment.position->incarnation && run.first_sequence <= moment.position->sequence &&
               moment.position->sequence <= run.last_sequence;
      });
    };
    size_t at = epochs_.size() - 1;
    extent = index_->extent();
    if (!has(epochs_[at], index_->tally().runs())) {
      while (at > 0 && !has(epochs_[at - 1], epochs_[at - 1].saved->runs())) at--;
      if (at == 0) return out_of_range("view: there is no such moment");
      extent = {.to = epochs_[at--].start().log_offset};
    }
    start = epochs_[at].start();
  }
  cut.epoch = start.number;
  cut.from = start.log_offset;
  auto entries = RecordIndex::load(directory_, start, extent);
  if (!entries.ok()) return entries.status;
  cut.entries = std::move(entries.value);
  const auto count = count_before(start, cut.entries, moment);
  if (!count) {
    std::lock_guard lock(mutex_);
    return is_open() ? out_of_range("view: there is no such moment") : Status::failed(ENODATA, "view: no history is kept");
  }
  EpochTally tally(start);
  tally.add(cut.entries, *count);
  cut.is_within_step = tally.cut_count() != *count;
  cut.entries.resize(tally.cut_count());
  cut.point = tally.cut();
  return cut;
}

Status History::each_after(uint64_t number, size_t count, const std::function<void(const RecordEntry &)> &each) const {
  std::vector<std::pair<EpochStart, RecordIndex::Extent>> stretches;
  {
    std::lock_guard lock(mutex_);
    if (!is_open()) return Status::failed(ENODATA, "history: none is kept, or it has not begun");
    for (size_t i = 0; i < epochs_.size(); i++) {
      if (epochs_[i].start().number < number) continue;
      const bool is_last = i + 1 == epochs_.size();
      stretches.emplace_back(epochs_[i].start(), is_last ? index_->extent() : RecordIndex::Extent{.to = epochs_[i + 1].start().log_offset});
    }
  }
  for (const auto &[start, extent] : stretches) {
    const auto entries = RecordIndex::load(directory_, start, extent);
    if (!entries.ok()) return entries.status;
    for (size_t i = start.number == number ? count : 0; i < entries.value.size(); i++) each(entries.value[i]);
  }
  return Status::good();
}

Result<Layers> History::layers(uint64_t number, const std::vector<size_t> &volumes) const {
  std::lock_guard lock(mutex_);
  if (!is_open() || epochs_.front().start().number > number || epochs_.back().start().number < number)
    return Status::failed(ERANGE, "view: this moment has just gone from the history");
  Layers layers;
  for (const Epoch &epoch : epochs_) {
    if (epoch.start().number < number) continue;
    SavedLayer layer{epoch.saved, std::nullopt};
    if (!epoch.saved->is_closed()) layer.entries.emplace(epoch.saved->entries().begin(), epoch.saved->entries().end());
    layers.saved.push_back(std::move(layer));
    if (epoch.is_cloned()) {
      auto clones = image_clones::open(directory_, epoch.start().number, volumes);
      if (!clones.ok()) return clones.status;
      layers.clones = std::move(clones.value);
      break;
    }
  }
  return layers;
}

}  // namespace understudy::replay
