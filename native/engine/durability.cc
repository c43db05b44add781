// When a reply may leave (G3), and what happens when the standby does not keep up.
//
//   kind              waits for
//   write, received   the standby's memory
//   write, durable    the standby's disk and a flush of the device
//   FLUSH, FUA        a flush of the device; but for `async` also the standby's disk
//
// The standby's half holds while the pair is in sync. Once it made no progress for the peer timeout it is `away`, and
// (unless the policy is to block) nobody waits for it: such a flush counts as alone. The same holds while it is `behind`. If the policy is to block, a reply
// waits through a resynchronisation: what the standby has of one is nothing that it would put on stage before the step.
#include <algorithm>
#include <functional>

#include "core/breakage.h"
#include "core/clock.h"
#include "engine/group.h"

namespace understudy::engine {

bool Group::in_sync() const {
  return capture_.state() == CaptureState::kStreaming && !capture_.step_open() && !watch_.away() && !watch_.behind();
}

// Until it is written down that the standby does not count any more (pairing.h).
bool Group::is_held() const { return pairing_.paired() && !in_sync() && !BROKEN(kNeverPart); }

bool Group::standby_counts() const {
  if (capture_.state() == CaptureState::kAlone) return false;
  return watch_.blocks() || in_sync();
}

// What the reply to this request will wait for at the standby, so that it is told at once.
uint8_t Group::wants_of(const ParsedRequest &request) const {
  const bool flush = request.type == nbd::kFlush || (request.flags & nbd::kFua);
  if (options_.durability == Durability::kAsync) return 0;
  if (flush || options_.durability == Durability::kDurable) return wire::kWantDurable;
  return options_.durability == Durability::kReceived ? wire::kWantReceived : 0;
}

void Group::wait_for_durability(Connection &connection, const ParsedRequest &request, RequestKind kind, uint64_t bytes,
                                bool flush) {
  Volume &volume = connection.volume;
  const bool both_disks = options_.durability == Durability::kDurable;
  Waiter waiter{&connection, request.cookie, request.offset, bytes, request.start_ns, 0, 0, 0, 0, kind};
  if (flush || both_disks) waiter.flush_ticket = volume.flush.ask();
  const bool standby = flush ? options_.durability != Durability::kAsync : true;
  if (standby && standby_counts()) {
    (flush || both_disks ? waiter.durable_need : waiter.received_need) = capture_.last_sequence();
    watch_.owes_from(turn_ns_);
  } else if (standby && is_held()) {
    (flush || both_disks ? waiter.durable_need : waiter.received_need) = UINT64_MAX;
    holding_ = true;
  } else if (standby && flush && capture_.state() != CaptureState::kAlone) {
    page_.add(kGroup_alone_flushes, 1);
  }
  connection.outstanding++;
  (waiter.flush_ticket ? volume.flush_waiters : volume.received_waiters).push_back(waiter);
}

void Group::start_flushes() {
  for (auto &entry : volumes_) {
    Volume &volume = *entry;
    if (!volume.flush.wanted || volume.flush.running) continue;
    volume.flush.wanted = false;
    volume.flush.running = true;
    const uint64_t ticket = ++volume.flush.started;
    operations_++;
    pool_.submit([this, &volume, ticket, covered = volume.unflushed.take()] {
      const int error = volume.device->flush();
      post([this, &volume, ticket, error, covered] {
        operations_--;
        flush_ended(volume, ticket, error, covered);
      });
    });
  }
}

void Group::flush_ended(Volume &volume, uint64_t ticket, int error, const std::vector<uint64_t> &covered) {
  volume.flush.running = false;
  for (Waiter &waiter : volume.flush_waiters) {
    if (waiter.flush_ticket != ticket) continue;
    waiter.flush_ticket = 0;
    waiter.error = error;
  }
  if (!error) {
    volume.flush.good = ticket;
    return;
  }
  // The kernel may have dropped what it could not write: nobody knows what the device holds now.
  failed(volume, "flush", 0, volume.size_bytes, error);
  for (uint64_t extent : covered) {
    const uint64_t start = extent * ExtentSet::kExtent, end = std::min(volume.size_bytes, start + ExtentSet::kExtent);
    volume.distrusted.mark(start, end);
    refused(volume, start, end);
  }
}

void Group::answer_queue(std::deque<Waiter> &queue, uint64_t received, uint64_t durable) {
  while (!queue.empty()) {
    const Waiter &waiter = queue.front();
    if (waiter.flush_ticket) return;
    if (!waiter.error && (waiter.received_need > received || waiter.durable_need > durable)) return;
    const uint16_t type = waiter.kind == RequestKind::kFlush ? nbd::kFlush : nbd::kWrite;
    waiter.connection->outstanding--;
    answer(*waiter.connection, type, waiter.cookie, waiter.offset, waiter.kind, waiter.bytes, waiter.start_ns, waiter.error);
    queue.pop_front();
  }
}

// Under `block`. A number asked for now says nothing: writes to regions that are dirty have a sequence and no record, and
// the others are staged. When the step is closed, all of them are before it.
void Group::hold_until_step() {
  const bool in_sync = capture_.state() == CaptureState::kStreaming && !capture_.step_open();
  if (in_sync && !holding_) return;
  holding_ = !in_sync;
  for (auto &volume : volumes_) {
    for (auto *queue : {&volume->received_waiters, &volume->flush_waiters}) {
      for (Waiter &waiter : *queue)
        for (uint64_t *need : {&waiter.received_need, &waiter.durable_need})
          if (*need) *need = in_sync ? capture_.last_sequence() : UINT64_MAX;
    }
  }
}

// What was asked while nobody was answered: it waits for the standby after all, or for nothing.
void Group::let_go() {
  holding_ = false;
  const uint64_t need = standby_counts() ? capture_.last_sequence() : 0;
  for (auto &volume : volumes_) {
    for (auto *queue : {&volume->received_waiters, &volume->flush_waiters}) {
      for (Waiter &waiter : *queue) {
        if (waiter.durable_need == UINT64_MAX && !need) page_.add(kGroup_alone_flushes, 1);
        for (uint64_t *one : {&waiter.received_need, &waiter.durable_need})
          if (*one == UINT64_MAX) *one = need;
      }
    }
  }
}

void Group::answer_waiters() {
  if (is_held()) return;
  if (watch_.blocks()) hold_until_step();
  else if (holding_) let_go();
  const uint64_t received = peer_.received(), durable = peer_.durable();
  for (auto &volume : volumes_) {
    answer_queue(volume->received_waiters, received, durable);
    answer_queue(volume->flush_waiters, received, durable);
  }
}

void Group::marks_arrived(const wire::WatermarksBody &marks) {
  if (peer_.update(marks) && !answer_now()) waker_.wake();
}

// Link thread. Replies that waited for these marks leave at once, if the engine thread sleeps and answering is all there
// is to do. Whether it was. No connection is freed here: the engine thread may be about to wake up with news of it.
bool Group::answer_now() {
  std::unique_lock turn(turn_, std::try_to_lock);
  if (!turn || stopping_.load() || tasks_pending_.load(std::memory_order_acquire)) return false;
  if (quiescing_ || holding_ || needs_room() || !in_sync()) return false;
  if (!readable_.empty() || !parked_.empty() || !touched_.empty()) return false;
  turn_ns_ = monotonic_ns();
  answer_waiters();
  const auto is_simple = [](Connection *connection) {
    return !connection->closing && !connection->awaits_output && !connection->polls_output && !connection->has_left();
  };
  if (!may_answer() || !std::all_of(touched_.begin(), touched_.end(), is_simple)) return false;
  // A lock of each is held at once: always in the same order.
  std::sort(touched_.begin(), touched_.end(), std::less<>());
  std::vector<Connection::Parting> partings;
  for (Connection *connection : touched_) {
    partings.push_back(connection->part());
    connection->last_byte_ns = turn_ns_;
    admission_.leave(*connection);
    admission_.count(*connection);
  }
  touched_.clear();
  turn.unlock();
  bool all = true;
  for (Connection::Parting &parting : partings) all &= parting.send();
  if (!all) outputs_left_.store(true, std::memory_order_release);
  return all;
}

// Nobody waits for the standby any longer.
void Group::release_alone() {
  for (auto &volume : volumes_) {
    for (auto *queue : {&volume->received_waiters, &volume->flush_waiters}) {
      for (Waiter &waiter : *queue) {
        if (waiter.durable_need > peer_.durable()) page_.add(kGroup_alone_flushes, 1);
        waiter.received_need = waiter.durable_need = 0;
      }
    }
  }
}

// Follows the standby's watermarks. What is found is counted and told before a reply leaves because of it.
void Group::watch_standby() {
  updates_seen_ = peer_.updates();
  const bool streaming = capture_.state() == CaptureState::kStreaming;
  const auto news = watch_.look({turn_ns_, streaming, capture_.step_open(), capture_.spilled(), capture_.last_logged(),
                                 capture_.written_bytes(), peer_.received(), peer_.durable(),
                                 page_.get(kGroup_applied_sequence), page_.get(kGroup_durable_bytes),
                                 page_.get(kGroup_acked_position)});
  if (news == StandbyWatch::News::kAway) page_.add(kGroup_detaches_peer_timeout, 1);
  if (news != StandbyWatch::News::kNone) {
    page_.set(kGroup_away, watch_.away());
    events_({"standby-away", {{"away", watch_.away()}}, ""});
  }
  page_.set(kGroup_behind, watch_.behind());
  if (options_.standby.lag_detaches && watch_.lags(capture_.written_bytes())) detach("max-lag");
  // Detached while replies were waiting: they will not hear of the standby before a resynchronisation.
  const bool lost = capture_.state() != CaptureState::kStreaming || watch_.away() || watch_.behind();
  pair();
  if (is_held() || watch_.blocks() || capture_.state() == CaptureState::kAlone) return;
  if (lost || options_.standby.block) release_alone();
}

void Group::pair() {
  const auto news = pairing_.look(in_sync(), peer_.durable(), capture_.last_logged());
  page_.set(kGroup_paired, pairing_.paired());
  if (news != Pairing::News::kNone) events_({"pairing", {{"paired", news == Pairing::News::kPaired}}, ""});
}

void Group::bind_spilling() {
  if (Spilling *spilling = capture_.spilling())
    spilling->bind({[this](std::function<void()> task) { post(std::move(task)); }, [this] { detach("log-file"); }, events_});
}

}  // namespace understudy::engine
