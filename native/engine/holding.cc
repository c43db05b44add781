// Where rules name what is replicated (--only-files), a write to blocks that are nobody's as of the file system's last commit
// gets no record yet: with ordered data, and delayed allocation, a file's data come before the commit that says whose they are.
//
//   written to nobody's blocks -> held: a range, not the bytes; the device has them
//     a commit, before its record:  a left-out file's: zeroes for the standby, and left out
//                                   anybody else's: read back, and captured
//                                   nobody's: stays
//     no list any more (too much, too long, a step, a verify, a stop): read back, and captured
//
// Why a cut may lack them: at any cut before that commit these blocks are nobody's on the standby as well, whatever they hold.
// A flush does not need them either: what a file system calls synced has been committed before.
// What is captured late is what the device has then: newer writes to it among them, whose own records follow.
// A range that is held is marked on disk as what may differ, until its record is durable, or what left it out is stored.
// Bounded: kRangesMax ranges, a quarter of the log, twice hold_ns. What finds no room in the log when it is captured, or is not in
// the page cache any more, goes with a step.
#include <algorithm>

#include "core/breakage.h"
#include "engine/group.h"

namespace understudy::engine {
namespace {
constexpr size_t kRangesMax = 16'384;
constexpr uint64_t kPieceBytes = 1u << 20;  // read back at once
}  // namespace

// What of a range is nobody's as far as is known, and not left out.
template <typename Visit>
static void each_nobodys(const Volume &volume, uint64_t start, uint64_t end, Visit visit) {
  for (const FollowedFileSystem &one : volume.followed)
    if (one.holds)
      one.watch->nobodys(start, end - start, [&](uint64_t offset, uint64_t bytes) { volume.excluded.outside(offset, offset + bytes, visit); });
}

// A direct device has commits while others are under way.
bool Group::may_hold(const Volume &volume) const {
  return capture_.state() == CaptureState::kStreaming && !volume.device->traits().direct && !quiescing_ && !verifier_.running() &&
         std::any_of(volume.followed.begin(), volume.followed.end(), [](const FollowedFileSystem &one) { return one.holds; });
}

// A write is on the device, and its record is about to be made.
void Group::hold(Volume &volume, uint64_t start, uint64_t end) {
  volume.held.subtract(start, end);
  if (!may_hold(volume)) return;
  std::vector<Range> pieces;
  each_nobodys(volume, start, end, [&](uint64_t from, uint64_t to) {
    if (!volume.dirty.touches(from, to)) pieces.push_back({from, to});
  });
  if (pieces.empty()) return;
  uint64_t bytes = volume.held.bytes();
  for (const Range &piece : pieces) bytes += piece.end - piece.start;
  if (bytes > capture_.log()->bytes_max() / 4 || volume.held.size() + pieces.size() > kRangesMax) {
    release(volume);
    if (!capture_.room(volume, start, end, true)) refused(volume, start, end);  // that may have taken the room this write was to have
    return;
  }
  if (volume.held.empty()) volume.held_before = {}, volume.held_since_ns = turn_ns_;
  for (const Range &piece : pieces) volume.held.add(piece.start, piece.end), volume.lapsed.subtract(piece.start, piece.end);
}

// Of what is held not what is nobody's still. Before the record of the commit that names its owner.
void Group::settle_held(Volume &volume) {
  if (volume.held.empty() || BROKEN(kHeldStays)) return;
  RangeTable nobodys;
  std::vector<Range> theirs;
  volume.held.each([&](uint64_t from, uint64_t to) {
    if (may_hold(volume)) each_nobodys(volume, from, to, [&](uint64_t start, uint64_t end) { nobodys.add(start, end); });
    volume.coming.inside(from, to, [&](uint64_t start, uint64_t end) {
      if (storable(volume, start, end)) theirs.push_back({start, end});
    });
  });
  RangeTable rest = std::exchange(volume.held, std::move(nobodys));
  volume.held.each([&](uint64_t start, uint64_t end) { rest.subtract(start, end); });
  for (const Range &range : theirs) {
    volume.page.add(kLeftOutBytes, range.end - range.start);
    volume.coming.subtract(range.start, range.end);
    rest.subtract(range.start, range.end);
    leave_out(volume, range);
  }
  send_dirty();  // before the commit's record: what had no room for its zeroes
  rest.each([&](uint64_t start, uint64_t end) {
    volume.excluded.outside(start, end, [&](uint64_t from, uint64_t to) { release(volume, from, to); });
  });
}

void Group::release(Volume &volume) {
  std::exchange(volume.held, {}).each([&](uint64_t start, uint64_t end) {
    volume.excluded.outside(start, end, [&](uint64_t from, uint64_t to) { release(volume, from, to); });
  });
}

// Nothing of it is held any more.
void Group::release(Volume &volume, uint64_t start, uint64_t end) {
  std::vector<uint8_t> data(std::min(kPieceBytes, end - start));
  for (uint64_t from = start; from < end; from += kPieceBytes) {
    const uint64_t to = std::min(end, from + kPieceBytes);
    const bool known = capture_.room(volume, from, to, true) && !volume.flights.conflicts(from, to, false, turn_ns_) &&
                       volume.device->read_now(data.data(), to - from, from) == 0;
    if (known) capture_.record(volume, wire::RecordType::kWrite, from, to, data.data(), 0);
    else refused(volume, from, to);
  }
}

void Group::turn_held() {
  for (auto &volume : volumes_) {
    if (volume->held.empty()) continue;
    if (!may_hold(*volume)) release(*volume);
    else if (turn_ns_ >= volume->held_since_ns + options_.hold_ns) release_old(*volume);
  }
}

// What was held already when this was last done: so that a file system that always has some under way keeps what is new.
void Group::release_old(Volume &volume) {
  std::vector<Range> old;
  volume.held_before.each([&](uint64_t from, uint64_t to) {
    volume.held.inside(from, to, [&](uint64_t start, uint64_t end) { old.push_back({start, end}); });
  });
  for (const Range &range : old) volume.held.subtract(range.start, range.end);
  volume.held_before = volume.held, volume.held_since_ns = turn_ns_;
  for (const Range &range : old) release(volume, range.start, range.end);
}

int Group::held_limit_ms() const {
  int limit = -1;
  for (const auto &volume : volumes_) {
    if (volume->held.empty()) continue;
    const uint64_t due = volume->held_since_ns + options_.hold_ns;
    const int one = due <= turn_ns_ ? 0 : static_cast<int>((due - turn_ns_) / 1'000'000 + 1);
    if (limit < 0 || one < limit) limit = one;
  }
  return limit;
}

}  // namespace understudy::engine
