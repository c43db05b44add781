#include "engine/resync.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/clock.h"
#include "core/zeroes.h"
#include "engine/resync-read.h"

namespace understudy::engine {
namespace {
constexpr uint64_t kRegion = log::DirtyMap::kRegion;
constexpr uint64_t kChunkBytes = 16 * kRegion;  // one read: 1 MiB
constexpr size_t kChunksMax = 64;               // asked ahead, so that the round trip is hidden
constexpr size_t kReadsMax = 3;
constexpr size_t kTakingsMax = 16;              // 16 MiB that the standby has been asked for
}  // namespace

Resync::Resync(Host host, Capture &capture, std::vector<std::unique_ptr<Volume>> &volumes, CounterPage page)
    : host_(std::move(host)), capture_(capture), volumes_(volumes), page_(page), pace_(host_.bytes_per_second) {}

void Resync::start(uint64_t session, Way way) {
  if (active_) return;  // a step is open already: what became dirty since is found by the cursor
  active_ = true;
  way_ = way;
  session_ = session;
  // Not the last sequence: a watched write opens its step long before the new ranges are known.
  begin_sequence_ = capture_.begin_sequence();
  total_bytes_ = capture_.dirty_bytes();
  cursor_volume_ = 0;
  cursor_ = 0;
  page_.set(kGroup_resync_sent_bytes, 0);
}

void Resync::session_changed(uint64_t session) {
  session_ = session;
  for (Chunk &chunk : chunks_)
    if (chunk.stage == Chunk::kAsked) chunk.stage = Chunk::kWanted;
  for (Taking &taking : takings_)
    if (taking.stage == Taking::kAsked) taking.stage = Taking::kWanted;
}

void Resync::replan() {
  epoch_++;
  chunks_.clear();
  cursor_volume_ = 0;
  cursor_ = 0;
  if (way_ == Way::kFresh) way_ = Way::kSend;
}

void Resync::cancel() {
  active_ = false;
  epoch_++;
  chunks_.clear();
  takings_.clear();
  flushes_.clear();
  take_failed_ = false;
  page_.set(kGroup_resync_done_bytes, 0);
  page_.set(kGroup_resync_total_bytes, 0);
}

bool Resync::turn() {
  if (!active_) return true;
  plan();
  for (Chunk &chunk : chunks_) {
    if (chunk.stage == Chunk::kWanted) ask(chunk);
    if (chunk.stage == Chunk::kReady) read(chunk);
  }
  std::erase_if(chunks_, [](const Chunk &chunk) { return chunk.stage == Chunk::kReading; });
  take_turn();
  const uint64_t dirty = capture_.dirty_bytes();
  total_bytes_ = std::max(total_bytes_, dirty);
  page_.set(kGroup_resync_total_bytes, total_bytes_);
  page_.set(kGroup_resync_done_bytes, total_bytes_ - dirty);
  if (!may_finish()) return chunks_.empty() && !busy() && takings_.empty();  // something waits for log room or a range lock
  if (way_ == Way::kTake && !is_taken()) return true;  // for a flush of the devices
  active_ = false;
  capture_.close_step();
  return true;
}

bool Resync::may_finish() {
  if (!chunks_.empty() || busy() || capture_.any_dirty() || take_failed_) return false;
  for (auto &volume : volumes_)
    if (std::exchange(volume->read_again, false)) capture_.doubt(*volume);
  return std::none_of(volumes_.begin(), volumes_.end(), [](const auto &volume) {
    return volume->watch_outstanding || volume->flights.writes_until(volume->flights_read);
  });
}

void Resync::plan() {
  for (int steps = 0; steps < 256 && chunks_.size() < kChunksMax && plan_next(); steps++) {
  }
}

// Takes the next dirty run into chunks_; false when there is none, or none may be taken now.
bool Resync::plan_next() {
  if (take_failed_) return false;
  if (cursor_volume_ == volumes_.size()) {  // once round: what became dirty behind the cursor is next
    if (!chunks_.empty() || busy() || !takings_.empty() || !capture_.any_dirty()) return false;
    replan();
  }
  Volume &volume = *volumes_[cursor_volume_];
  const log::DirtyMap::Run run = volume.dirty.next_run(cursor_, UINT64_MAX - cursor_);
  if (run.start >= run.end) {
    cursor_volume_++;
    cursor_ = 0;
    return cursor_volume_ < volumes_.size() || capture_.any_dirty();
  }
  const uint64_t hole = way_ == Way::kTake ? 0 : volume.device->hole_bytes(run.start, run.end - run.start);
  uint64_t end = run.start + hole;
  if (end != volume.size_bytes) end = end / kRegion * kRegion;
  if (end > run.start) {
    if (!skip_hole(volume, run.start, end)) return false;
    cursor_ = end;
    return true;
  }
  end = std::min({run.end, (run.start / kChunkBytes + 1) * kChunkBytes});
  const bool compares = way_ != Way::kFresh && !volume.resent.contains(run.start);
  chunks_.push_back({&volume, run.start, end, compares ? Chunk::kWanted : Chunk::kReady, {}});
  cursor_ = end;
  return true;
}

// The device has nothing there: one record says so, or none if the standby has nothing either.
bool Resync::skip_hole(Volume &volume, uint64_t start, uint64_t end) {
  if (!volume.flights.may_read(start, end, monotonic_ns())) return false;
  if (way_ != Way::kFresh) {
    if (!capture_.spare_room(sizeof(wire::RecordHeader))) return false;
    capture_.record_zeroes(volume, start, end);  // what is left out is zeroes there, too
  }
  if (volume.marks) volume.marks->keep(start, end);
  volume.dirty.clear(start, end);
  return true;
}

wire::HashRequestBody Resync::question(const Volume &volume, uint64_t start, uint64_t end) const {
  wire::HashRequestBody request{};
  request.begin_sequence = begin_sequence_;
  request.offset = start;
  request.count = static_cast<uint32_t>((end - start + kRegion - 1) / kRegion);
  request.volume_index = volume.index;
  request.incarnation16 = static_cast<uint16_t>(capture_.incarnation());
  return request;
}

void Resync::ask(Chunk &chunk) {
  if (!session_) return;
  chunk.stage = Chunk::kAsked;
  host_.link->request_hashes(session_, question(*chunk.volume, chunk.start, chunk.end));
}

void Resync::hashes_arrived(const wire::HashReplyBody &reply, const std::vector<wire::HashEntry> &entries) {
  if (!active_ || reply.begin_sequence != begin_sequence_) return;
  for (Chunk &chunk : chunks_) {
    if (chunk.stage != Chunk::kAsked || chunk.volume->index != reply.volume_index || chunk.start != reply.offset)
      continue;
    if (entries.size() != (chunk.end - chunk.start + kRegion - 1) / kRegion) return;
    chunk.hashes = entries;
    chunk.stage = Chunk::kReady;
    return;
  }
}

void Resync::read(Chunk &chunk) {
  Volume &volume = *chunk.volume;
  if (reads_ >= kReadsMax || takings_.size() >= kTakingsMax || !volume.flights.may_read(chunk.start, chunk.end, monotonic_ns()))
    return;
  const auto &log = capture_.log();
  const uint64_t regions = (chunk.end - chunk.start + kRegion - 1) / kRegion;
  const RangeTable left_out = volume.left_out(chunk.start, chunk.end);
  const uint64_t edges = 2 * (left_out.size() + 1);  // a region may be cut by the filter
  const uint64_t bytes = chunk.end - chunk.start + (regions + edges) * sizeof(wire::RecordHeader);
  const bool crowded = log->bytes_used() && log->bytes_used() + bytes > log->bytes_max() / 2;
  if (crowded || !capture_.spare_room(bytes) || !pace_.open(monotonic_ns())) return;
  pace_.take(chunk.end - chunk.start);
  log->hold(bytes);
  auto result = std::make_shared<ReadResult>();
  *result = {&volume, chunk.start, chunk.end, volume.flights.add(chunk.start, chunk.end, false), bytes, epoch_,
             std::move(chunk.hashes), {}, {}, {}};
  chunk.stage = Chunk::kReading;
  reads_++;
  // The log lives as long as this read: its held room is given back to the same log.
  const bool doubts = volume.served_before || volume.distrusted.contains(chunk.start);
  const ReadFrom from = doubts ? ReadFrom::kStored : ReadFrom::kCached;
  host_.pool.submit([this, result, log, from, left_out] {
    Device &device = *result->volume->device;
    // So that clients read what the standby is sent: a page whose write failed would show its old contents later.
    if (from == ReadFrom::kStored) device.forget_cached(result->start, result->end - result->start);
    result->data = read_regions(device, left_out, result->start, result->end, from);
    for (uint64_t at = result->start; at < result->end; at += kRegion) {
      const size_t index = (at - result->start) / kRegion, size = std::min<uint64_t>(kRegion, result->end - at);
      const uint8_t *data = result->data.bytes.data() + (at - result->start);
      result->zero.push_back(all_zero(data, size));
      bool differs = true;
      if (!result->theirs.empty() && !(result->theirs[index].flags & wire::kHashUnknown)) {
        uint8_t ours[wire::kHashBytes];
        hash_bytes(data, size, ours);
        differs = memcmp(ours, result->theirs[index].hash, sizeof ours) != 0;
      }
      result->differs.push_back(differs);
    }
    host_.post([this, result, log, from] {
      log->unhold(result->held);
      reads_--;
      result->volume->flights.remove(result->flight);
      // 1. a client writes a partition table  2. it is read, from the page cache  3. its flush fails  4. the page is forgotten
      // here, and what the disk has is the old table: it counts from here on, and nobody wrote it.
      if (from == ReadFrom::kStored) {
        capture_.watched_write(*result->volume, result->start, result->end);
        if (!result->volume->followed.empty()) result->volume->read_again = true;
      }
      if (result->epoch != epoch_) return;
      way_ == Way::kTake ? take(*result) : emit(result);
    });
  });
}

void Resync::emit(const std::shared_ptr<ReadResult> &result) {
  Volume &volume = *result->volume;
  for (uint64_t at : result->data.unreadable) {  // the standby keeps its copy; this is listed, and does not hold up
    const uint64_t end = std::min(at + kRegion, volume.size_bytes);
    result->differs[(at - result->start) / kRegion] = false;
    page_.add(kGroup_unreadable_bytes, end - at);
    host_.events({"device-error",
                  {{"volume", static_cast<double>(volume.handle)},
                   {"operation", std::string("resync read")},
                   {"error", Status::failed(result->data.error, "read").message},
                   {"offset", at},
                   {"length", end - at}},
                  ""});
  }
  for (uint64_t at = result->start; at < result->end;) {
    const size_t index = (at - result->start) / kRegion;
    uint64_t end = at;
    size_t last = index;
    do {  // neighbours of one fate share a record
      end = std::min(end + kRegion, result->end);
      last++;
    } while (end < result->end && result->differs[last] == result->differs[index] &&
             result->zero[last] == result->zero[index]);
    if (result->differs[index])
      emit_region(volume, at, end, result->data.bytes.data() + (at - result->start), result->zero[index]);
    at = end;
  }
  if (volume.marks) volume.marks->keep(result->start, result->end);
  volume.dirty.clear(result->start, result->end);
}

void Resync::emit_region(Volume &volume, uint64_t start, uint64_t end, const uint8_t *data, bool zero) {
  if (zero) {
    if (way_ != Way::kFresh) capture_.record_zeroes(volume, start, end);
    return;
  }
  volume.each_left_out(start, end, [&](uint64_t from, uint64_t to) { capture_.record_zeroes(volume, from, to); });
  volume.each_replicated(start, end, [&](uint64_t from, uint64_t to) {
    capture_.record_sync(volume, from, to, data + (from - start));
    page_.add(kGroup_resync_sent_bytes, to - from);
  });
}

}  // namespace understudy::engine
