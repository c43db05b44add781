// Marks: keeps a volume's MarkFile a superset of what may differ on the standby, at every moment (G4).
//
//   cold --ready(): marked, synced, then the write may begin--> hot --a round: not touched, durable, flushed--> cold
//                                                                \--the same, but dirty in the map: its regions' bits--/
//
// An extent (4 MiB) is hot on disk before a write to it reaches the device. A round begins every 10 s, or every second
// while more than 1024 extents are hot: it remembers the last sequence, asks for a flush of the device, and when the
// standby is durable up to there and the flush has ended, what was not touched since becomes cold. Nobody waits for it.
// What a resynchronisation clears from the dirty map stays hot in the same way (keep()).
//
// Off (no file that could be believed) nothing waits, and hot is known in memory only; fill() makes a file of it.
// Bounded: four bits per extent and one word per block, 2.6 MiB for 16 TiB. Engine thread only; files on a worker.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/event.h"
#include "core/work-pool.h"
#include "log/mark-file.h"

namespace understudy::engine {

struct Volume;

// Where the group stands when a turn of the engine asks.
struct MarkClock {
  uint64_t now_ns;
  uint64_t incarnation;
  uint64_t last_sequence;
  uint64_t durable;  // of this incarnation, on the standby
  bool streaming;    // else what is not durable there is in the dirty map
};

class Marks {
 public:
  struct Host {
    WorkPool *pool = nullptr;
    std::function<void(std::function<void()>)> post;  // run on the engine thread; any thread
    EventSink events;
  };
  using Done = std::function<void(const Status &)>;

  Marks(Volume &volume, std::string path, std::string uuid);
  // Before the engine starts: takes up what the last run left. Its marks are dirty from here on.
  Status load(uint64_t *damaged_blocks);
  // The same of what hand_over() of another process left: `map` as DirtyMap::sparse() has it, exactly. `kept`: the file
  // goes with it, whose marks beyond that are hot. A file that cannot be read is done without (stored()).
  Status inherit(std::span<const uint64_t> map, bool kept);
  bool loaded() const { return loaded_; }
  bool stored() const { return state_ == State::kOn; }
  const log::MarkFile::Floor &floor() const { return floor_; }
  void bind(Host host) { host_ = std::move(host); }

  // Whether a write to [start, end) may begin. If not it is being marked, and a later turn may ask again.
  bool ready(uint64_t start, uint64_t end);
  void keep(uint64_t start, uint64_t end);  // it leaves the dirty map, and the file for it stays true
  void note(uint64_t start, uint64_t end);  // it is to be marked on disk as well; nobody waits
  // Makes a whole file of what is known, or brings the one there is up to date; then tells.
  void fill(Done done);
  void drop();  // everything is dirty, and the file says nothing (the caller has seen to it that it is not believed)
  void turn(const MarkClock &clock);
  // A clean stop: the device has been flushed, everything that is not durable is in the dirty map. The last call.
  void finish(const MarkClock &clock, Done done);
  // Instead, when another process goes on at once: nothing is written, the file stays the superset that it is.
  void hand_over();
  bool busy() const { return busy_; }
  int wait_limit_ms(uint64_t now_ns) const;

 private:
  enum class State { kOff, kFilling, kSealing, kOn };
  struct Batch;

  bool heat(uint64_t start, uint64_t end, bool queue);
  void queue(uint64_t block);
  void round(const MarkClock &clock);
  void cool(const MarkClock &clock);
  void next_job();
  void start_batch(std::vector<uint64_t> blocks, bool fills);
  void batch_ended(const Batch &batch);
  void publish();
  void forget_file(int error);
  void fail(int error, int remove_error);
  void tell(const Status &status);
  void show();

  Volume &volume_;
  const std::string path_;
  const log::MarkFile::Owner owner_;
  Host host_;
  State state_ = State::kOff;
  std::shared_ptr<log::MarkFile> file_;
  log::MarkFile::Floor floor_;
  bool floor_waits_ = false;  // to be written before anything else
  bool busy_ = false;         // a job is on a worker
  bool finished_ = false;
  bool handed_over_ = false;
  bool loaded_ = false;
  uint64_t epoch_ = 0;        // results of jobs of an earlier file are nothing to us
  uint64_t cursor_ = 0;       // while filling: the next block
  std::vector<Done> waiting_;

  std::vector<uint64_t> hot_, stored_, touched_, cooling_;  // one bit per extent; stored: hot on disk too
  uint64_t hot_count_ = 0;
  std::vector<uint64_t> queued_;  // blocks to be written, in the order asked
  std::vector<bool> is_queued_;
  uint64_t round_ns_ = 0, round_sequence_ = 0, round_flush_ = 0;
  bool in_round_ = false;
};

}  // namespace understudy::engine
