// What the group does about the dirty maps on disk (marks.h): before writes, each turn, and at a clean stop.
#include <algorithm>

#include "engine/group.h"

namespace understudy::engine {

void Group::bind_marks() {
  for (auto &volume : volumes_)
    if (volume->marks) volume->marks->bind({&pool_, [this](std::function<void()> task) { post(std::move(task)); }, events_});
}

// False: not yet; the request is asked again.
bool Group::may_write(Volume &volume, uint64_t start, uint64_t end) {
  return !holds_writes_ && marked(volume, start, end);
}

// False: it is being marked; the request is asked again when that has ended.
bool Group::marked(Volume &volume, uint64_t start, uint64_t end) {
  return start == end || !volume.marks || volume.marks->ready(start, end);
}

void Group::note_dirty(Volume &volume, uint64_t start, uint64_t end) {
  capture_.dirty_again(volume, start, end);
  volume.dirty.mark(start, end);
  if (volume.marks) volume.marks->note(start, end);
}

void Group::suspect(Volume &volume, const RangeTable &ranges) {
  ranges.each([&](uint64_t from, uint64_t to) {
    volume.each_replicated(from, to, [&](uint64_t start, uint64_t end) { note_dirty(volume, start, end); });
  });
}

MarkClock Group::mark_clock() const {
  return {turn_ns_, capture_.incarnation(), capture_.last_sequence(), peer_.durable(),
          capture_.state() == CaptureState::kStreaming};
}

void Group::turn_marks() {
  if (stopping_.load()) return;
  for (auto &volume : volumes_)
    if (volume->marks) volume->marks->turn(mark_clock());
}

bool Group::marks_busy() const {
  return std::any_of(volumes_.begin(), volumes_.end(),
                     [](const auto &volume) { return volume->marks && volume->marks->busy(); });
}

int Group::marks_limit_ms() const {
  int limit = -1;
  for (const auto &volume : volumes_) {
    const int one = volume->marks ? volume->marks->wait_limit_ms(turn_ns_) : -1;
    if (one >= 0 && (limit < 0 || one < limit)) limit = one;
  }
  return limit;
}

void Group::fill_marks(Marks::Done done) {
  struct Outcome {
    size_t left = 1;
    Status status;
  };
  auto outcome = std::make_shared<Outcome>();
  auto one_done = [outcome, done = std::move(done)](const Status &status) {
    if (!status.ok() && outcome->status.ok()) outcome->status = status;
    if (--outcome->left == 0) done(outcome->status);
  };
  for (auto &volume : volumes_) {
    if (!volume->marks) continue;
    outcome->left++;
    volume->marks->fill(one_done);
  }
  one_done(Status::good());
}

void Group::finish_marks(Volume &volume, Marks::Done done) {
  capture_.mark_unacknowledged(peer_.durable());
  if (!volume.marks) return done(Status::good());
  volume.marks->finish(mark_clock(), std::move(done));
}

void Group::hand_over_marks(Volume &volume) {
  capture_.mark_unacknowledged(peer_.durable());
  if (volume.marks) volume.marks->hand_over();
}

}  // namespace understudy::engine
