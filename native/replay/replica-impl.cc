// Puts the parts of a replica together; each is described in its own header. Order of the threads' ends: logger (it
// feeds the applier), hasher (it asks the applier), applier.
#include <sys/stat.h>

#include <cerrno>
#include <numeric>

#include "core/check.h"
#include "core/clock.h"
#include "core/zeroes.h"
#include "replay/applier.h"
#include "replay/file-io.h"
#include "replay/hasher.h"
#include "replay/history.h"
#include "replay/image-file.h"
#include "replay/ledger.h"
#include "replay/logger.h"
#include "replay/past-device.h"
#include "replay/progress.h"
#include "replay/receiver.h"
#include "replay/recovery.h"
#include "replay/replica.h"
#include "replay/rollback.h"
#include "replay/segment-log.h"
#include "replay/unapplied.h"
#include "replay/view.h"
#include "replay/volume-image.h"
#include "replay/watermark-file.h"

namespace understudy::replay {
namespace {

struct Store {  // what open() has found and proven
  std::vector<std::shared_ptr<VolumeImage>> images;
  std::shared_ptr<TurnGate> gate = std::make_shared<TurnGate>();
  WatermarkFile file;
  Watermark watermark;
  std::shared_ptr<History> history;
};

std::vector<uint64_t> sizes_of(const ReplicaOptions &options) {
  std::vector<uint64_t> sizes;
  for (const ReplicaVolume &volume : options.volumes) sizes.push_back(volume.size_bytes);
  return sizes;
}

void pause() {
  const timespec millisecond{0, 1'000'000};
  nanosleep(&millisecond, nullptr);
}

class ReplicaImpl final : public Replica {
 public:
  ReplicaImpl(const ReplicaOptions &options, ReplicaListener &listener, MirroredRing ring, Store store)
      : scratch_directory_(options.directory), volumes_(options.volumes), images_(store.images), history_(store.history),
        progress_(state_, listener), log_(options.directory + "/segments", options.segment_bytes, options.log_bytes_max, state_),
        ledger_(sizes_of(options), state_),
        receiver_(std::move(ring), sizes_of(options), state_, progress_, logger_waker_),
        applier_({store.images, store.gate, std::move(store.file), store.history}, log_, receiver_, ledger_, progress_, state_,
                 listener, applier_waker_),
        logger_(receiver_, log_, ledger_, progress_, listener, logger_waker_, applier_waker_, state_),
        hasher_(store.images, applier_, ledger_, state_, listener), listener_(listener) {
    set_staging_max(options.staging_bytes_max);
    if (history_) log_.offer_to([this](const Segment &segment) { return history_->take(segment); });
  }
  ~ReplicaImpl() override {
    logger_.stop();
    hasher_.stop();
    applier_.stop();
  }

  Status recover(const ReplicaOptions &options, Watermark from);
  void start() {
    applier_.start(watermark_, ledger_.durable_offset());
    logger_.start();
    hasher_.start();
  }

  const ReplicaState &state() const override { return state_; }
  wire::Position start_session() override {
    hasher_.forget();
    return receiver_.start_session();
  }
  Status receive(std::span<const uint8_t> bytes) override { return receiver_.receive(bytes); }
  uint8_t *place(size_t bytes) override { return receiver_.place(bytes); }
  Status placed(size_t bytes) override { return receiver_.placed(bytes); }
  size_t take_consumed() override { return receiver_.take_consumed(); }
  wire::WatermarksBody watermarks() const override { return progress_.body(); }
  Status hash(const wire::HashRequestBody &request) override { return hasher_.ask(request, Hasher::Want::kHashes); }
  Status tell(const wire::HashRequestBody &request) override { return hasher_.ask(request, Hasher::Want::kData); }
  Status give_up_cut() override {
    if (state_.phase.load() != static_cast<uint64_t>(ReplicaPhase::kStaging))
      return Status::failed(EALREADY, "give up the cut: no step is being collected");
    applier_.give_up_cut();
    return Status::good();
  }
  void set_staging_max(uint64_t bytes) override {
    state_.staging_bytes_max.store(bytes);
    logger_waker_.wake();
  }
  void stand_aside(bool is_aside) override { applier_.stand_aside(is_aside); }
  Status drain(uint64_t timeout_ns) override;
  Status seal(uint64_t timeout_ns, std::optional<wire::Position> *fork) override;
  std::unique_ptr<Device> over_unapplied(std::unique_ptr<Device> image, size_t volume) override {
    return unapplied_ ? unapplied_->over(std::move(image), volume) : std::move(image);
  }
  Status catch_up(uint64_t timeout_ns) override;
  Result<View> view(size_t volume, bool writable) override;
  Result<HistoryTimeline> timeline(uint64_t from_ns, uint64_t to_ns, size_t buckets) const override {
    if (!history_) return Status::failed(ENODATA, "history: none is kept");
    return history_->timeline(from_ns, to_ns, buckets);
  }
  std::optional<HistorySummary> history() const override { return history_ ? history_->summary() : std::nullopt; }
  Result<Views> views(const std::vector<size_t> &volumes, const Moment &moment, bool writable) override;
  Result<Point> clone(size_t volume, const std::string &path, std::span<const uint8_t> tail) override;
  Result<Found> find(const Moment &moment) override;
  void hold_history(bool is_held) override {
    if (history_) history_->hold(is_held);
  }
  Result<RolledBack> roll_back(const wire::Position &to, uint64_t bytes_max) override;

 private:
  Status check_cut(size_t volume);
  std::function<bool(const Segment &)> take_segments();
  Result<std::shared_ptr<PastRecords>> records_of(Cut cut);
  void wait_for_log(uint64_t deadline_ns);
  std::vector<size_t> all_volumes() const;
  Result<std::unique_ptr<Rollback>> begin_rollback(const wire::Position &to);
  std::shared_ptr<Unapplied> find_unapplied() const;

  const std::string scratch_directory_;
  const std::vector<ReplicaVolume> volumes_;
  std::vector<std::shared_ptr<VolumeImage>> images_;
  const std::shared_ptr<History> history_;  // null: none is kept
  ReplicaState state_;
  Waker logger_waker_, applier_waker_;
  Progress progress_;
  SegmentLog log_;
  Ledger ledger_;
  Receiver receiver_;
  Applier applier_;
  Logger logger_;
  Hasher hasher_;
  ReplicaListener &listener_;
  Watermark watermark_;  // where the applier starts
  std::unique_ptr<Rollback> rollback_;  // roll_back() has begun
  wire::Position rolls_back_to_;
  std::shared_ptr<Unapplied> unapplied_;  // null: not sealed, or all was applied then
};

// Who has a history wants what the log needs no more.
std::function<bool(const Segment &)> ReplicaImpl::take_segments() {
  if (!history_) return nullptr;
  return [this](const Segment &segment) { return history_->take_at_recovery(segment); };
}

// Reads the log from the watermark on; afterwards everything but the threads is in place.
Status ReplicaImpl::recover(const ReplicaOptions &options, Watermark from) {
  ledger_.restart(from);
  auto found = recover_segments(options.directory + "/segments", from,
                                [&](const uint8_t *record, size_t bytes, uint64_t log_offset) {
                                  ledger_.note(record, bytes, log_offset);
                                },
                                take_segments());
  if (!found.ok()) return found.status;
  const uint64_t log_start = found.value.log_start;
  if (!found.value.damage.empty()) {
    listener_.failed("open " + options.directory + ": the log is damaged: " + found.value.damage +
                     "; the images cannot be brought to a cut and are unusable until they are synchronised again");
    Watermark lost = from;
    lost.applied = {};
    lost.bytes = lost.committed = lost.begin_sequence = 0;
    lost.log_offset = lost.durable_offset = found.value.furthest;
    lost.segment_index_next = found.value.index_next;
    lost.phase = ReplicaPhase::kInitial;
    if (int error = applier_.file().store(lost)) return Status::failed(error, "write the watermark file");
    from = lost;
    ledger_.restart(from);
    found.value.segments.clear();
  }
  // After damage nothing of it fits the images: kInitial, and a position from which no epoch is open.
  if (history_)
    if (Status status = history_->adopt(from, log_start, found.value.damage.empty()); !status.ok()) return status;
  watermark_ = from;
  log_.adopt(std::move(found.value.segments), found.value.index_next);
  log_.remove_below(from.log_offset);
  receiver_.restart(ledger_.durable_offset(), ledger_.durable(), ledger_.durable_mark(), ledger_.commits());
  progress_.durable(ledger_.durable(), ledger_.durable_mark());
  return Status::good();
}

// Records that were received are on their way to the log: give them the time, unless the log is failing.
void ReplicaImpl::wait_for_log(uint64_t deadline_ns) {
  while (!logger_.has_caught_up() && !progress_.is_failing(Progress::Part::kLog) && monotonic_ns() < deadline_ns)
    pause();
}

Status ReplicaImpl::drain(uint64_t timeout_ns) {
  const uint64_t deadline = monotonic_ns() + timeout_ns;
  wait_for_log(deadline);
  const Status drained = applier_.drain(deadline);
  if (drained.ok() && unapplied_) unapplied_->applied();
  return drained;
}

Status ReplicaImpl::seal(uint64_t timeout_ns, std::optional<wire::Position> *fork) {
  const uint64_t deadline = monotonic_ns() + timeout_ns;
  receiver_.refuse_more();
  wait_for_log(deadline);
  ledger_.seal();
  if (fork) unapplied_ = find_unapplied();
  if (unapplied_) {
    *fork = ledger_.durable();
    applier_.stand_aside(true);  // drain() ends that
    applier_.come_last();
  } else if (const Status applied = applier_.apply_all(deadline); !applied.ok()) {
    return applied;
  }
  for (auto &image : images_) image->device().unlock();
  return Status::good();
}

// Null when it is to be waited for: the images are no cut, something fails, or it cannot be shown.
std::shared_ptr<Unapplied> ReplicaImpl::find_unapplied() const {
  auto gate = applier_.gate()->visit();  // and the applier takes no processor from this
  if (applier_.phase() != ReplicaPhase::kCut || applier_.is_redoing() || applier_.is_torn()) return nullptr;
  const bool fails = progress_.is_failing(Progress::Part::kLog) || progress_.is_failing(Progress::Part::kImage);
  if (fails || !logger_.has_caught_up()) return nullptr;
  auto pending = ledger_.pending(applier_.log_offset());
  return pending ? Unapplied::of(std::move(*pending), log_, images_.size()) : nullptr;
}

Status ReplicaImpl::catch_up(uint64_t timeout_ns) {
  const uint64_t deadline = monotonic_ns() + timeout_ns, received = receiver_.received_offset();
  // A failing image also holds the log back.
  while (ledger_.durable_offset() < received && !progress_.is_failing(Progress::Part::kLog) &&
         !progress_.is_failing(Progress::Part::kImage) && monotonic_ns() < deadline)
    pause();
  return applier_.catch_up(deadline);
}

// With the gate held: may the images be shown?
Status ReplicaImpl::check_cut(size_t volume) {
  const std::string what = "view: volume " + images_[volume]->name();
  const ReplicaPhase phase = applier_.phase();
  if (phase == ReplicaPhase::kFresh || phase == ReplicaPhase::kInitial)
    return Status::failed(ENODATA, what + ": the initial synchronisation is not complete");
  if (applier_.is_torn())
    if (const int error = progress_.error_of(Progress::Part::kImage))
      return Status::failed(error, what + ": the image has a record only in part, and goes on by itself when the disk takes the rest");
  if (phase == ReplicaPhase::kStepping || applier_.is_redoing() || applier_.is_torn())
    return Status::failed(EAGAIN, what + ": a step is being applied");
  return Status::good();
}

// The segments are the log's as long as it needs them, then the history's: asked for in that order.
Result<std::shared_ptr<PastRecords>> ReplicaImpl::records_of(Cut cut) {
  return PastRecords::open(std::move(cut.entries), [&](uint64_t log_offset) -> Result<std::shared_ptr<LogPiece>> {
    if (auto segment = log_.find(log_offset)) return std::shared_ptr<LogPiece>(std::move(segment));
    return history_->kept().open(log_offset);
  });
}

Result<Replica::Views> ReplicaImpl::views(const std::vector<size_t> &volumes, const Moment &moment, bool writable) {
  if (volumes.empty()) return Status::failed(EINVAL, "view: no volume is named");
  std::vector<std::shared_ptr<VolumeImage>> images;
  for (size_t volume : volumes) {
    if (volume >= images_.size()) return Status::failed(EINVAL, "view: volume " + std::to_string(volume));
    images.push_back(images_[volume]);
  }
  const bool is_past = !moment.is_newest();
  if (is_past && !history_) return Status::failed(ENODATA, "view: no history is kept");
  Views made;
  std::shared_ptr<PastRecords> records;
  uint64_t epoch = 0;
  if (is_past) {
    auto cut = history_->find(moment);
    if (!cut.ok()) return cut.status;
    made.point = cut.value.point;
    epoch = cut.value.epoch;
    auto opened = records_of(std::move(cut.value));
    if (!opened.ok()) return opened.status;
    records = std::move(opened.value);
  }
  Layers below;
  const auto look_below = [&] {
    auto found = history_->layers(epoch, volumes);
    if (found.ok()) below = std::move(found.value);
    return found.status;
  };
  if (is_past)
    if (Status status = look_below(); !status.ok()) return status;
  if (below.clones.empty()) {  // the images must stay what they are when the layers are looked up
    auto frozen = freeze(images, scratch_directory_, [&] {
      if (is_past) return look_below();
      made.point = applier_.applied_point();
      return check_cut(volumes.front());
    });
    if (!frozen.ok()) return frozen.status;
    if (below.clones.empty()) below.clones = std::move(frozen.value);
  }
  auto layers = std::make_shared<std::vector<SavedLayer>>(std::move(below.saved));
  for (SavedLayer &layer : *layers) layer.sort();
  for (size_t i = 0; i < volumes.size(); i++) {
    std::unique_ptr<Device> device = std::move(below.clones[i]);
    if (is_past) device = show_past(std::move(device), volumes[i], layers, records);
    if (writable) {
      auto above = overlay(std::move(device), scratch_directory_);
      if (!above.ok()) return above.status;
      device = std::move(above.value);
    }
    made.devices.push_back(std::move(device));
  }
  return made;
}

Result<Replica::View> ReplicaImpl::view(size_t volume, bool writable) {
  auto made = views({volume}, {}, writable);
  if (!made.ok()) return made.status;
  return View{std::move(made.value.devices.front()), made.value.point.position};
}

Result<Point> ReplicaImpl::clone(size_t volume, const std::string &path, std::span<const uint8_t> tail) {
  if (volume >= images_.size()) return Status::failed(EINVAL, "clone: volume " + std::to_string(volume));
  VolumeImage &image = *images_[volume];
  const uint64_t bytes = image.device().traits().size_bytes;
  auto frozen = FrozenBlocks::create(scratch_directory_, bytes);
  if (!frozen.ok()) return frozen.status;
  auto file = ImageFile::create(path, volumes_[volume].image_path);
  if (!file.ok()) return file.status;
  Point point;
  {
    auto gate = image.gate().visit();
    if (Status status = check_cut(volume); !status.ok()) return status;
    point = applier_.applied_point();
    image.add_view(frozen.value.get());
  }
  Status made = file.value.clone(bytes);
  {
    auto gate = image.gate().visit();
    image.remove_view(frozen.value.get());
  }
  if (made.ok()) made = file.value.finish(*frozen.value, bytes, tail);
  return made.ok() ? Result<Point>(std::move(point)) : Result<Point>(std::move(made));
}

std::vector<size_t> ReplicaImpl::all_volumes() const {
  std::vector<size_t> all(images_.size());
  std::iota(all.begin(), all.end(), 0);
  return all;
}

Result<Replica::Found> ReplicaImpl::find(const Moment &moment) {
  if (!history_) return Status::failed(ENODATA, "find a moment: no history is kept");
  const auto cut = history_->find(moment);
  if (!cut.ok()) return cut.status;
  const Point point = cut.value.point;
  if (auto made = views(all_volumes(), {.position = point.position}, false); !made.ok()) return made.status;
  return Found{point, cut.value.is_within_step};
}

Result<std::unique_ptr<Rollback>> ReplicaImpl::begin_rollback(const wire::Position &to) {
  if (!history_) return Status::failed(ENODATA, "roll back: no history is kept");
  {
    auto gate = applier_.gate()->visit();
    if (!applier_.is_at_rest()) return Status::failed(EBUSY, "roll back: not everything is applied");
  }
  const Moment moment{.position = to};
  auto cut = history_->find(moment);
  if (!cut.ok()) return cut.status;
  if (cut.value.point.position != to) return Status::failed(ERANGE, "roll back: there is no such moment, only one before it");
  auto rollback = std::make_unique<Rollback>(images_);
  const auto add = [&](const RecordEntry &entry) { rollback->add(entry); };
  if (Status status = history_->each_after(cut.value.epoch, cut.value.entries.size(), add); !status.ok()) return status;
  auto made = views(all_volumes(), moment, false);
  if (!made.ok()) return made.status;
  rollback->begin(std::move(made.value.devices));
  return rollback;
}

Result<Replica::RolledBack> ReplicaImpl::roll_back(const wire::Position &to, uint64_t bytes_max) {
  if (!rollback_) {
    auto begun = begin_rollback(to);
    if (!begun.ok()) return begun.status;
    rollback_ = std::move(begun.value);
    rolls_back_to_ = to;
  }
  CHECK(rolls_back_to_ == to);
  auto progress = rollback_->go_on(bytes_max);
  if (!progress.ok()) rollback_.reset();
  if (!progress.ok()) return progress.status;
  const auto [done_bytes, total_bytes, is_done] = progress.value;
  return RolledBack{done_bytes, total_bytes, is_done};
}

Status make_directory(const std::string &path) {
  if (mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return Status::good();
  return Status::failed(errno, "make directory " + path);
}

// An image that we are to make, without a watermark file, must hold nothing: kFresh promises zeroes.
Status check_is_zero(Device &device, const std::string &path) {
  const uint64_t size = device.traits().size_bytes;
  std::vector<uint8_t> piece(1u << 20);
  for (uint64_t at = 0; at < size;) {
    const Device::Extent extent = device.extent(at, size - at);
    uint64_t bytes = std::min(extent.bytes, size - at);
    if (!extent.hole) {
      bytes = std::min<uint64_t>(bytes, piece.size());
      if (int error = device.read(piece.data(), bytes, at)) return Status::failed(error, "read image " + path);
      if (!all_zero(piece.data(), bytes))
        return Status::failed(EEXIST, "make image " + path + ": it holds data, but no watermark file says of what");
    }
    CHECK(bytes > 0);
    at += bytes;
  }
  return Status::good();
}

Result<std::shared_ptr<VolumeImage>> open_image(const ReplicaVolume &volume, bool is_new, bool may_create,
                                                std::shared_ptr<TurnGate> gate) {
  DeviceOptions options;
  options.create = volume.create && may_create;
  options.create_bytes = volume.size_bytes;
  auto device = open_device(volume.image_path, options);
  if (!device.ok()) return Status{device.status.error, "open image of volume " + volume.name + ": " + device.status.message};
  const uint64_t found = device.value->traits().size_bytes;
  if (found != volume.size_bytes)
    return Status::failed(EINVAL, "open image " + volume.image_path + ": it has " + std::to_string(found) +
                                      " bytes, volume " + volume.name + " has " + std::to_string(volume.size_bytes));
  if (options.create) {  // its name must not be lost when the watermark file speaks of what is in it
    const std::string directory = volume.image_path.substr(0, volume.image_path.rfind('/') + 1) + ".";
    if (int error = sync_directory(directory)) return Status::failed(error, "sync " + directory);
  }
  if (is_new && volume.create)
    if (Status status = check_is_zero(*device.value, volume.image_path); !status.ok()) return status;
  return std::make_shared<VolumeImage>(volume.name, std::move(device.value), std::move(gate));
}

// The watermark file, and with it whose store this is; then the images.
Result<Store> open_store(const ReplicaOptions &options) {
  Store store;
  auto file = WatermarkFile::open(options.directory);
  if (!file.ok()) return file.status;
  store.file = std::move(file.value);
  auto loaded = store.file.load();
  if (!loaded.ok()) return loaded.status;
  const bool is_new = !loaded.value.has_value();
  Watermark ours;
  ours.volume_count = options.volumes.size();
  for (const ReplicaVolume &volume : options.volumes) ours.volume_bytes += volume.size_bytes;
  store.watermark = loaded.value.value_or(ours);
  if (store.watermark.volume_count != ours.volume_count || store.watermark.volume_bytes != ours.volume_bytes)
    return Status::failed(EINVAL, "open " + options.directory + ": it was made for " +
                                      std::to_string(store.watermark.volume_count) + " volumes of together " +
                                      std::to_string(store.watermark.volume_bytes) + " bytes, not " +
                                      std::to_string(ours.volume_count) + " of " + std::to_string(ours.volume_bytes));
  const bool is_fresh = store.watermark.phase == ReplicaPhase::kFresh;
  for (const ReplicaVolume &volume : options.volumes) {
    auto image = open_image(volume, is_new, is_fresh, store.gate);
    if (!image.ok()) return image.status;
    store.images.push_back(std::move(image.value));
    // A file that was not made just now may hold anything: its watermark file has been lost. kFresh promises zeroes.
    if (is_new && !volume.create && !store.images.back()->device().traits().is_block)
      store.watermark.phase = ReplicaPhase::kInitial;
  }
  if (is_new) {
    if (int error = store.file.store(store.watermark)) return Status::failed(error, "write the watermark file");
    if (int error = sync_directory(options.directory)) return Status::failed(error, "sync " + options.directory);
  }
  return store;
}

}  // namespace

Result<std::unique_ptr<Replica>> Replica::open(const ReplicaOptions &options, ReplicaListener &listener) {
  for (const std::string &path : {options.directory, options.directory + "/segments"})
    if (Status status = make_directory(path); !status.ok()) return status;
  auto store = open_store(options);
  if (!store.ok()) return store.status;
  if (options.history.is_kept()) {
    auto history = History::open(options.directory, options, listener);
    if (!history.ok()) return history.status;
    store.value.history = std::move(history.value);
  } else if (Status status = History::remove(options.directory); !status.ok()) {
    return status;
  }
  auto ring = MirroredRing::create(options.ring_bytes);
  if (!ring.ok()) return ring.status;
  const Watermark from = store.value.watermark;
  auto replica = std::make_unique<ReplicaImpl>(options, listener, std::move(ring.value), std::move(store.value));
  if (Status status = replica->recover(options, from); !status.ok()) return status;
  replica->start();
  return std::unique_ptr<Replica>(std::move(replica));
}

}  // namespace understudy::replay
