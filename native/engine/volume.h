// Volume: one protected device inside a group, with what the engine thread keeps about it.
#pragma once
#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/counters.h"
#include "core/fd.h"
#include "engine/device.h"
#include "engine/marks.h"
#include "engine/range-table.h"
#include "engine/rule-savings.h"
#include "filesystem/watch.h"
#include "log/dirty-map.h"

namespace understudy::engine {

class Connection;

// Operations under way on workers. A request waits for those it overlaps, unless both only read, so that the order of
// overlapping writes is the same on the device and in the log. Two overlap that touch the same unit of the device.
class FlightTable {
 public:
  explicit FlightTable(uint64_t unit_bytes = 1) : unit_(unit_bytes) {}
  uint64_t add(uint64_t start, uint64_t end, bool writes) {
    flights_.push_back({++last_id_, start / unit_ * unit_, (end + unit_ - 1) / unit_ * unit_, writes});
    return last_id_;
  }
  void remove(uint64_t id) {
    std::erase_if(flights_, [id](const Flight &flight) { return flight.id == id; });
  }
  // Whether a request has to wait.
  bool conflicts(uint64_t start, uint64_t end, bool writes, uint64_t now_ns) const {
    return overlaps(start, end, writes) ||
           (writes && start < wish_.end && wish_.start < end && now_ns < wish_.until_ns);
  }
  // Whether one who reads in the background may begin. If not, writes that come wait until it has asked again, as it does
  // every few milliseconds: where clients always have some under way, the range would never be free of them.
  bool may_read(uint64_t start, uint64_t end, uint64_t now_ns) {
    const bool may = !overlaps(start, end, false);
    wish_ = may ? Wish{} : Wish{start, end, now_ns + kWishNs};
    return may;
  }
  template <typename Visit>
  void each_write(Visit visit) const {
    for (const Flight &flight : flights_)
      if (flight.writes) visit(flight.start, flight.end);
  }
  bool empty() const { return flights_.empty(); }
  uint64_t last() const { return last_id_; }
  // Writes that began until this one was the last.
  bool writes_until(uint64_t last) const {
    return std::any_of(flights_.begin(), flights_.end(), [&](const Flight &flight) { return flight.writes && flight.id <= last; });
  }

 private:
  struct Flight {
    uint64_t id, start, end;
    bool writes;
  };
  struct Wish {
    uint64_t start = 0, end = 0, until_ns = 0;
  };
  static constexpr uint64_t kWishNs = 100'000'000;

  bool overlaps(uint64_t start, uint64_t end, bool writes) const {
    return std::any_of(flights_.begin(), flights_.end(), [&](const Flight &flight) {
      return (writes || flight.writes) && start < flight.end && flight.start < end;
    });
  }

  Wish wish_;
  const uint64_t unit_;
  std::vector<Flight> flights_;  // of a direct device as many as its clients ask at once, else a handful
  uint64_t last_id_ = 0;
};

// A reply that is not due yet.
struct Waiter {
  Connection *connection;
  uint64_t cookie;
  uint64_t offset;  // the request's: extended replies repeat it
  uint64_t bytes;
  uint64_t start_ns;
  uint64_t received_need = 0;  // the standby must have received / made durable up to here; 0: nothing needed
  uint64_t durable_need = 0;
  uint64_t flush_ticket = 0;   // the device's flush that must have ended; 0: nothing needed
  int error = 0;
  RequestKind kind;
};

// Flushes of one device are coalesced: one runs, and all that ask meanwhile share the next.
struct FlushState {
  uint64_t started = 0;
  uint64_t good = 0;  // the last that did not fail
  bool running = false;
  bool wanted = false;
  uint64_t ask() {  // the ticket of the next flush to start: it covers everything written up to now
    wanted = true;
    return started + 1;
  }
};

// Which 4 MiB extents were touched. Taking them costs as much as there are, whatever the volume's size.
class ExtentSet {
 public:
  static constexpr uint64_t kExtent = 4u << 20;
  explicit ExtentSet(uint64_t size_bytes) : bits_(size_bytes / kExtent + 1) {}
  void mark(uint64_t start, uint64_t end) {
    for (uint64_t extent = start / kExtent; extent * kExtent < end; extent++) {
      if (bits_[extent]) continue;
      bits_[extent] = true;
      list_.push_back(extent);
    }
  }
  bool contains(uint64_t offset) const { return bits_[offset / kExtent]; }
  std::vector<uint64_t> take() {
    for (uint64_t extent : list_) bits_[extent] = false;
    return std::exchange(list_, {});
  }

 private:
  std::vector<bool> bits_;
  std::vector<uint64_t> list_;
};

// Rules for its files are in force (filesystem/watch.h).
struct FollowedFileSystem {
  std::shared_ptr<Fd> fd;  // the watch reads through it
  std::unique_ptr<filesystem::Watch> watch;
  RangeTable place;
  RuleRanges rules;
  bool holds = false;  // rules name what is replicated: what is nobody's yet is held (holding.cc)
};

struct Volume {
  Volume(std::string volume_name, uint16_t volume_index, std::unique_ptr<Device> volume_device)
      : name(std::move(volume_name)),
        index(volume_index),
        device(std::move(volume_device)),
        size_bytes(device->traits().size_bytes),
        dirty(size_bytes),
        flights(device->traits().unit_bytes) {}

  const std::string name;
  const uint16_t index;
  const std::unique_ptr<Device> device;
  const uint64_t size_bytes;
  bool read_only = false;
  bool replicated = true;  // false: nothing of it, as there is no standby
  uint32_t handle = 0;  // of the addon
  CounterPage page;
  RuleSavings saved;  // of what is kept from the standby, the part of each rule for files

  // Not captured. What comes in or goes out does so at one position: Group::set_ranges().
  RangeTable excluded;
  RangeTable fixed;  // of it, what no file system has a say in
  // Was left out, belongs to nobody now, and was not written since: zeroes at the standby, anything here. Captured when it
  // is written, and in sync from then on. Disjoint from `excluded`.
  RangeTable lapsed;
  // Files have got it by a commit: it is left out once that has its record, and all writes that were under way.
  RangeTable coming;
  uint64_t coming_flights = 0;
  // Of `excluded`, what came at a commit: who made the rest from a reading has not stored it. It stays marked on disk (marks.h).
  RangeTable unstored;
  // Written, and nobody's as of the file system's last commit: no record says so yet (holding.cc). Disjoint from `excluded`. Marked
  // on disk as what may differ.
  RangeTable held;
  RangeTable held_before;      // what was in `held` at held_since_ns: the next to go, unless its owner is known by then
  uint64_t held_since_ns = 0;
  RangeTable watched;
  std::vector<FollowedFileSystem> followed;  // the files of which are in `excluded`
  // Before a step ends, what the rest of `excluded` was made from must be read once more: by who asks for `watched`.
  bool read_again = false;
  // 1. on a worker, a name of a file changes  2. that is read, and the file left out  3. the record of 1: no step ends before.
  uint64_t flights_read = 0;
  bool look_outstanding = false;  // `look` was raised, and nothing has been read since
  uint64_t watched_writes = 0;     // to `watched`, since the group was opened: who read it can tell whether that still holds
  bool watch_outstanding = false;  // `watched` was raised and not answered by set_ranges yet
  log::DirtyMap dirty;
  std::unique_ptr<Marks> marks;  // null: read-only, or a view: nothing of it can become dirty
  ExtentSet unflushed{size_bytes};  // written since the last flush began: what becomes dirty when it fails
  // A flush failed over these, or a verify found them different: the disk may not have what the page cache says, so that
  // a resynchronisation reads past it. Until the next start: only reading costs more.
  ExtentSet distrusted{size_bytes};
  // By another process, and no step has ended in this one: what that one distrusted is dirty, and nobody knows it any
  // more. 1. a flush fails 2. the process is killed 3. the next one finds in the page cache what is not on the disk, and
  // called clean; the standby would get it, and the master lose it whenever the kernel needs the memory.
  bool served_before = false;
  ExtentSet resent{size_bytes};  // in this step, what is dirty here is sent without asking for the standby's hashes
  FlightTable flights;
  FlushState flush;

  // What the standby is to have as it is here: neither excluded nor lapsed.
  template <typename Visit>
  void each_replicated(uint64_t start, uint64_t end, Visit visit) const {
    excluded.outside(start, end, [&](uint64_t from, uint64_t to) { lapsed.outside(from, to, visit); });
  }
  // All else: zeroes there.
  template <typename Visit>
  void each_left_out(uint64_t start, uint64_t end, Visit visit) const {
    excluded.inside(start, end, visit);
    lapsed.inside(start, end, visit);
  }
  // For a worker: this changes meanwhile.
  RangeTable left_out(uint64_t start, uint64_t end) const {
    RangeTable table;
    each_left_out(start, end, [&](uint64_t from, uint64_t to) { table.add(from, to); });
    return table;
  }

  std::deque<Waiter> received_waiters, flush_waiters;  // each in the order of submission
};

}  // namespace understudy::engine
