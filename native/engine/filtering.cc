// What of a volume is left out, while clients write: ranges come into force at one position, and what file systems free lapses.
//
//   device has a write -> follow(): its watch says what that means
//     kFreed          out of `excluded`, into `lapsed`; what somebody has written there already is sent as it is
//     kStep, kStale   a step opens before this write's record; `watched` -> read again -> set_ranges()
//     left_out        into `excluded` behind its record, with zeroes for the standby: nothing is sent again from there on
//     committed       what was held gets its record before this write's, or is left out, or stays nobody's (holding.cc)
//     look            a reading may find more to leave out: `look`, once until something is read
#include <algorithm>

#include "core/breakage.h"
#include "engine/group.h"

namespace understudy::engine {

uint64_t Group::watch(Volume &volume, RangeTable watched) {
  volume.watched = std::move(watched);
  volume.look_outstanding = false;
  // 1. a reading begins  2. all that was dirty has been sent  3. the step must not end before what was read is in force.
  if (std::exchange(volume.read_again, false)) volume.watch_outstanding = true;
  return volume.watched_writes;
}

Group::Installed Group::set_ranges(Volume &volume, RangeTable fixed, RangeTable watched, uint64_t mark,
                                   std::vector<FollowedFileSystem> followed) {
  RangeTable next = fixed, freed, places, unstored;
  std::vector<filesystem::ByteRange> newest;
  for (size_t i = 0; i < followed.size(); i++) {
    const auto before = std::find_if(volume.followed.begin(), volume.followed.end(),
                                     [&](const FollowedFileSystem &one) { return one.place == followed[i].place; });
    const filesystem::Verdict verdict = followed[i].watch->start(before == volume.followed.end() ? nullptr : before->watch.get());
    if (verdict.kind == filesystem::Verdict::kStep || verdict.kind == filesystem::Verdict::kStale) {
      if (volume.watch_outstanding) events_({"watched", {{"volume", static_cast<double>(volume.handle)}}, ""});
      return {static_cast<int>(i), verdict.why};
    }
    for (const auto &[offset, bytes] : followed[i].watch->ranges()) next.add(offset, offset + bytes);
    for (const auto &[offset, bytes] : verdict.freed) freed.add(offset, offset + bytes);
    newest.insert(newest.end(), verdict.left_out.begin(), verdict.left_out.end());
    followed[i].place.each([&](uint64_t start, uint64_t end) { places.add(start, end); });
  }
  freed.without(fixed, [&](uint64_t start, uint64_t end) { next.subtract(start, end); });
  for (const auto &[offset, bytes] : newest)
    if (storable(volume, offset, offset + bytes))
      fixed.outside(offset, offset + bytes, [&](uint64_t start, uint64_t end) { next.add(start, end), unstored.add(start, end); });

  const RangeTable excluded = std::exchange(volume.excluded, std::move(next));
  const RangeTable lapsed = std::exchange(volume.lapsed, {});
  volume.fixed = std::move(fixed);
  volume.unstored = std::move(unstored);
  volume.coming = {};
  volume.watched = std::move(watched);
  // What a watch has kept may be millions of pieces: others take it apart.
  auto gone = std::make_shared<std::vector<FollowedFileSystem>>(std::exchange(volume.followed, std::move(followed)));
  if (!gone->empty()) pool_.submit([gone = std::move(gone)]() mutable { gone.reset(); });
  // Newly included: whatever the standby has there is stale. Also what has been freed, and nobody told: it may have been
  // written since, by who has it now, and was not captured. What had lapsed is captured, and stays so where files are followed.
  excluded.without(volume.excluded, [&](uint64_t start, uint64_t end) { note_dirty(volume, start, end); });
  lapsed.without(volume.excluded, [&](uint64_t from, uint64_t to) {
    places.inside(from, to, [&](uint64_t start, uint64_t end) { volume.lapsed.add(start, end); });
    places.outside(from, to, [&](uint64_t start, uint64_t end) { note_dirty(volume, start, end); });
  });
  // Newly left out: it must read as zeroes.
  std::vector<Range> leaving;
  volume.excluded.without(excluded, [&](uint64_t from, uint64_t to) {
    lapsed.outside(from, to, [&](uint64_t start, uint64_t end) { leaving.push_back({start, end}); });
  });
  const bool again = volume.watched_writes != mark;
  volume.watch_outstanding = again;
  volume.flights_read = volume.flights.last();
  if (capture_.state() == CaptureState::kStreaming && (!leaving.empty() || capture_.any_dirty() || capture_.step_open())) {
    capture_.open_step(false);
    for (const Range &range : leaving) capture_.record_left_out(volume, range.start, range.end);
    resync_.start(session_, Resync::Way::kSend);
    resync_.replan();
  }
  settle_held(volume);
  if (again) events_({"watched", {{"volume", static_cast<double>(volume.handle)}}, ""});
  return {};
}

// The device has it, or has failed it; it has no record yet. With what lapses or becomes dirty here the record may fall into
// more parts than there is room for.
void Group::follow(Volume &volume, uint64_t start, uint64_t end, bool payload) {
  if (volume.followed.empty()) return;
  bool committed = false;
  for (FollowedFileSystem &one : volume.followed) {
    const filesystem::Verdict verdict = one.watch->wrote(start, end - start);
    lapse(volume, verdict.freed);
    for (const auto &[offset, bytes] : verdict.written) refused(volume, offset, offset + bytes);  // somebody's already
    for (const auto &[offset, bytes] : verdict.left_out) volume.coming.add(offset, offset + bytes);
    if (!verdict.left_out.empty()) volume.coming_flights = volume.flights.last();
    committed |= verdict.committed;
    if (verdict.kind == filesystem::Verdict::kStep || verdict.kind == filesystem::Verdict::kStale) {
      events_({"log", {{"level", std::string("debug")}, {"message", "volume " + volume.name + ": read again: " + verdict.why}}, ""});
      capture_.doubt(volume);
      volume.coming = {};
      release(volume);
    }
    if (verdict.look && !std::exchange(volume.look_outstanding, true))
      events_({"look", {{"volume", static_cast<double>(volume.handle)}}, ""});
  }
  if (committed) settle_held(volume);
  if (!capture_.room(volume, start, end, payload)) refused(volume, start, end);
}

void Group::lapse(Volume &volume, const std::vector<filesystem::ByteRange> &freed) {
  if (BROKEN(kFreedStaysOut)) return;
  for (const auto &[offset, bytes] : freed) {
    volume.coming.subtract(offset, offset + bytes);
    std::vector<Range> pieces;
    volume.fixed.outside(offset, offset + bytes, [&](uint64_t from, uint64_t to) {
      volume.excluded.inside(from, to, [&](uint64_t start, uint64_t end) { pieces.push_back({start, end}); });
    });
    for (const Range &piece : pieces) {
      volume.excluded.subtract(piece.start, piece.end);
      volume.unstored.subtract(piece.start, piece.end);
      volume.lapsed.add(piece.start, piece.end);
    }
  }
}

// A write has its record. With zeroes before that of the commit a cut between them would show a file empty that is still to be
// replicated there; a direct device has the commit while others are under way, and their records come later, or its own.
void Group::leave_out(Volume &volume) {
  if (volume.coming.empty() || volume.flights.writes_until(volume.coming_flights)) return;
  std::exchange(volume.coming, {}).each([&](uint64_t start, uint64_t end) {
    if (storable(volume, start, end)) leave_out(volume, {start, end});
  });
  send_dirty();
}

void Group::leave_out(Volume &volume, const Range &range) {
  std::vector<Range> pieces, leaving;
  volume.fixed.outside(range.start, range.end, [&](uint64_t from, uint64_t to) {
    volume.excluded.outside(from, to, [&](uint64_t start, uint64_t end) { pieces.push_back({start, end}); });
  });
  for (const Range &piece : pieces) {
    volume.lapsed.outside(piece.start, piece.end, [&](uint64_t start, uint64_t end) { leaving.push_back({start, end}); });
    volume.lapsed.subtract(piece.start, piece.end);
    volume.excluded.add(piece.start, piece.end);
    volume.unstored.add(piece.start, piece.end);
  }
  for (const Range &piece : leaving)
    if (capture_.state() == CaptureState::kStreaming && !BROKEN(kNewKeepsData)) capture_.record_left_out(volume, piece.start, piece.end);
}

// What found no room in the log goes with a step.
void Group::send_dirty() {
  if (capture_.state() != CaptureState::kStreaming || !capture_.any_dirty()) return;
  capture_.open_step(false);
  resync_.start(session_, Resync::Way::kSend);
  resync_.replan();
}

// It is marked on disk as what may differ from the standby's: after a crash nobody else knows that it does.
bool Group::storable(Volume &volume, uint64_t start, uint64_t end) { return !volume.marks || volume.marks->ready(start, end); }

}  // namespace understudy::engine
