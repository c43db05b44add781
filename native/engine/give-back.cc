// A resynchronisation the other way round: what the standby has is written to the master's device.
//
//   dirty run -> hashes asked, read, compared (resync.cc) -> what differs is asked for -> written on a worker -> clean
//
// The standby tells its cut. Records that are staged above it, of a step that the last life of this master did not close,
// were never acknowledged, but are applied when the step is closed: what was taken below them follows them as a record.
//
//   nothing is dirty any more -> a flush of each device -> the step closes
//
// What rules for files left out is known as a superset only: part of it may have been freed, and written, since that was
// stored. So each block that the standby has there and is not zero is taken as well; then the file systems, which are whole again,
// are read (Volume::read_again), and what they leave out no more is compared as everything else.
//
// The master serves nobody meanwhile. A failure leaves the run dirty and the step open: it is told once, and the next
// start, or the operator, decides.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/clock.h"
#include "core/zeroes.h"
#include "engine/resync-read.h"

namespace understudy::engine {
namespace {
constexpr uint64_t kRegion = log::DirtyMap::kRegion;
constexpr uint64_t kAskAgainNs = 200'000'000;
constexpr size_t kPutsMax = 3;
constexpr uint64_t kBlockMin = 512, kBlockMax = 4096;  // of a file system, as long as nobody has read it

// What rules for files left out begins and ends with blocks of the file system.
uint64_t block_bytes(const Volume &volume) {
  uint64_t edges = kBlockMax;
  volume.excluded.without(volume.fixed, [&](uint64_t start, uint64_t end) { edges |= start | end; });
  return std::max(kBlockMin, edges & ~(edges - 1));
}

void clear(Volume &volume, uint64_t start, uint64_t end) {
  if (volume.marks) volume.marks->keep(start, end);
  volume.dirty.clear(start, end);
}
}  // namespace

void Resync::take(const ReadResult &result) {
  const auto &unreadable = result.data.unreadable;
  const auto wanted = [&](uint64_t at) {  // what cannot be read here, too: writing may mend it
    return result.differs[(at - result.start) / kRegion] || std::find(unreadable.begin(), unreadable.end(), at) != unreadable.end();
  };
  const auto covered = [&](uint64_t at) {
    return result.theirs.empty() || (result.theirs[(at - result.start) / kRegion].flags & wire::kHashUnknown);
  };
  for (uint64_t at = result.start; at < result.end;) {
    const bool is_wanted = wanted(at), is_covered = covered(at);
    uint64_t end = at;
    do end = std::min(end + kRegion, result.end);
    while (end < result.end && wanted(end) == is_wanted && covered(end) == is_covered);
    if (is_wanted) takings_.push_back({result.volume, at, end, is_covered, Taking::kWanted});
    else clear(*result.volume, at, end);
    at = end;
  }
}

void Resync::take_turn() {
  if (!taking() || take_failed_) return;
  for (Taking &taking : takings_) {
    if (taking.stage == Taking::kWanted) ask_for(taking);
    if (taking.stage == Taking::kComplete && puts_ < kPutsMax) put(taking);
  }
  std::erase_if(takings_, [](const Taking &taking) { return taking.stage == Taking::kPutting; });
}

void Resync::ask_for(Taking &taking) {
  if (!session_ || monotonic_ns() < ask_again_ns_) return;
  taking.stage = Taking::kAsked;
  taking.bytes.clear();
  host_.link->request_data(session_, question(*taking.volume, taking.start, taking.end));
}

void Resync::data_arrived(const wire::DataReplyBody &reply, const std::vector<uint8_t> &bytes) {
  if (!taking() || reply.begin_sequence != begin_sequence_) return;
  for (Taking &taking : takings_) {
    if (taking.stage != Taking::kAsked || taking.volume->index != reply.volume_index ||
        taking.start + taking.bytes.size() != reply.offset)
      continue;
    if (reply.error == EAGAIN) {
      taking.stage = Taking::kWanted;
      ask_again_ns_ = monotonic_ns() + kAskAgainNs;
    } else if (reply.error) {
      take_failed(*taking.volume, "give back: read at the standby", reply.offset, taking.end - reply.offset, static_cast<int>(reply.error));
    } else if (reply.offset + bytes.size() <= taking.end) {
      taking.bytes.insert(taking.bytes.end(), bytes.begin(), bytes.end());
      if (taking.bytes.size() == taking.end - taking.start) taking.stage = Taking::kComplete;
    }
    return;
  }
}

// What the filter leaves out is the master's alone.
void Resync::put(Taking &taking) {
  auto job = std::make_shared<Taking>(std::move(taking));
  taking.stage = Taking::kPutting;
  Volume &volume = *job->volume;
  volume.unflushed.mark(job->start, job->end);
  flushes_.clear();
  puts_++;
  RangeTable fixed, doubtful;
  volume.fixed.inside(job->start, job->end, [&](uint64_t start, uint64_t end) { fixed.add(start, end); });
  volume.left_out(job->start, job->end).without(fixed, [&](uint64_t start, uint64_t end) { doubtful.add(start, end); });
  const uint64_t block = doubtful.empty() ? kBlockMin : block_bytes(volume);
  host_.pool.submit([this, job, &volume, fixed, doubtful, block, epoch = epoch_] {
    int error = 0;
    const auto write = [&](uint64_t start, uint64_t end) {
      if (!error) error = volume.device->write(job->bytes.data() + (start - job->start), end - start, start);
    };
    const auto write_data = [&](uint64_t start, uint64_t end) {  // whole blocks: a half of each side would be nobody's
      for (uint64_t stop; start < end; start = stop) {
        stop = std::min(end, (start / block + 1) * block);
        if (!all_zero(job->bytes.data() + (start - job->start), stop - start)) write(start, stop);
      }
    };
    fixed.outside(job->start, job->end, [&](uint64_t start, uint64_t end) {
      doubtful.outside(start, end, write);
      doubtful.inside(start, end, write_data);
    });
    host_.post([this, job, &volume, error, epoch] {
      puts_--;
      if (epoch != epoch_) return;
      if (error) return take_failed(volume, "give back: write", job->start, job->end - job->start, error);
      if (job->is_covered && !follow_staged(*job)) return;  // no room in the log: it stays dirty, and comes again
      page_.add(kGroup_given_back_bytes, job->end - job->start);
      clear(volume, job->start, job->end);
    });
  });
}

bool Resync::follow_staged(const Taking &taking) {
  uint64_t edges = 1;
  taking.volume->fixed.inside(taking.start, taking.end, [&](uint64_t, uint64_t) { edges++; });
  if (!capture_.spare_room(taking.end - taking.start + edges * sizeof(wire::RecordHeader))) return false;
  taking.volume->fixed.outside(taking.start, taking.end, [&](uint64_t start, uint64_t end) {
    capture_.record_sync(*taking.volume, start, end, taking.bytes.data() + (start - taking.start));
  });
  return true;
}

void Resync::take_failed(Volume &volume, const char *operation, uint64_t offset, uint64_t length, int error) {
  if (std::exchange(take_failed_, true)) return;
  host_.events({"device-error",
                {{"volume", static_cast<double>(volume.handle)},
                 {"operation", std::string(operation)},
                 {"error", Status::failed(error, operation).message},
                 {"offset", offset},
                 {"length", length}},
                ""});
}

// Everything is written: it must be on the disks before anybody is told.
bool Resync::is_taken() {
  if (take_failed_) return false;
  if (flushes_.empty())
    for (auto &volume : volumes_) flushes_.push_back(volume->flush.ask());
  for (size_t i = 0; i < volumes_.size(); i++) {
    const FlushState &flush = volumes_[i]->flush;
    if (flush.good >= flushes_[i]) continue;
    if (flush.started >= flushes_[i] && !flush.running)
      take_failed(*volumes_[i], "give back: flush", 0, volumes_[i]->size_bytes, EIO);
    return false;
  }
  return true;
}

}  // namespace understudy::engine
