// Run: one seed: a master, a standby and clients for some seconds of their time, what goes wrong meanwhile, and the
// judgement of what the standby shows. Everything of it is drawn from the seed.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/event.h"
#include "engine/group.h"
#include "history.h"
#include "link/codec.h"
#include "network.h"
#include "replay/replica.h"
#include "room.h"

namespace sim {

constexpr uint64_t kMs = 1'000'000, kSecond = 1'000 * kMs;
constexpr uint64_t kVolumeBlocks = 2307, kVolumeBytes = kVolumeBlocks * kBlockBytes;  // 9 MiB and a bit: three extents

struct Settings {
  Settings(Random &random, uint64_t seed);
  understudy::engine::Durability durability;
  bool block;               // --on-standby-loss block
  uint64_t log_bytes, segment_bytes, peer_timeout_ns;
  bool filters;             // block 0 says what is left out
  uint64_t log_file_bytes;  // --log-size; 0: no file
  int writers;
  uint64_t depth;           // requests under way of each
  uint64_t faults;          // so many things go wrong
  uint64_t hot_blocks;      // most writes go to so many blocks
  bool direct;              // --direct
  understudy::link::Compression compression;  // --compress: of every second seed
  understudy::replay::HistoryOptions history;  // --history: of every third seed
};

// The filter that a table (the value of block 0) asks for.
std::vector<understudy::engine::Range> excluded_by(uint64_t table);
Included included_by(uint64_t table);
constexpr uint64_t kWatchedBytes = 64u << 10;

// One life of the master's process.
struct Life {
  Life(uint64_t incarnation_, History history_) : incarnation(incarnation_), history(std::move(history_)) {}
  const uint64_t incarnation;
  History history;
  uint64_t flushed = 0;      // everything that had ended before is on the master's disk
  uint64_t shown = 0;        // the newest cut that the standby showed of it
  uint64_t turns = 0;        // how often the pair fell out of sync or came back
  bool serves = false;       // it had clients
  bool is_owed = false;      // it waits for what the standby has, and base is what it had lost
  // Acknowledged under `received` in sync, and how often the standby had died by then: what it had in memory dies with it.
  std::vector<std::pair<size_t, uint64_t>> received;
};

// What was promised when somebody began to look.
struct Promise {
  size_t life, shown_life;
  History::Promised promised;
  uint64_t shown;
};

// The standby is promoted as of an earlier moment (replica.json of its store: durable, as a whole).
struct Return {
  understudy::wire::Position to;
  std::vector<uint64_t> values;  // what the history showed there when it was chosen
  bool is_done = false;
};

class MasterDaemon;
class Past;
class StandbyDaemon;
struct Run;

// What happens in a run, if it is not drawn from the seed (scripts.cc): the seed decides who is next, and how long it takes.
struct Script {
  const char *name, *title;
  void (*prepare)(Settings &settings);
  void (*play)(Run &run);  // to the settlement
};

struct Run {
  explicit Run(uint64_t seed, const Script *script = nullptr);
  ~Run();

  const std::unique_ptr<Scheduler> own_scheduler;
  const std::unique_ptr<Room> own_room;
  const std::unique_ptr<Network> own_network;
  const Script *const script;
  const Settings settings;
  std::string fault;
  uint64_t tick = 0, stamps = 0;
  bool quiet = false;        // writers hold still
  bool calm = false;         // writers take their time
  bool ending = false;       // writers end
  bool cannot_save = false;  // the disk with the master's files of its groups stands still
  int writers_left = 0;
  std::vector<std::unique_ptr<Life>> lives;
  size_t shown_life = 0;     // of what the standby showed last
  bool had_cut = false;
  MasterDaemon *master = nullptr;    // while its process runs
  StandbyDaemon *standby = nullptr;
  const std::unique_ptr<Past> past;
  std::optional<Return> back;
  uint64_t views = 0, past_views = 0, verifies = 0, writes = 0, faults = 0, returns = 0;

  // Runs to its end; false: `fault` says what is wrong.
  bool go();
  void fail(const std::string &what);
  // With --verbose: what happens, with the time.
  void say(int host, const std::string &what) const;
  bool verbose = false;
  void boot(int host);
  uint64_t new_stamp(uint64_t variant) { return ++stamps << 2 | variant; }

  std::vector<uint64_t> values_of(const Content &content) const;
  // Of a view. 0 or an errno.
  int read_all(understudy::Device &device, std::vector<uint64_t> *values);
  const File &file_of(int host, const std::string &folder, const std::string &name);
  History history_from_device();  // of a life that begins now
  Promise promised() const;
  // incarnation: of the position at which the copy says that it stands.
  void judge_view(const std::vector<uint64_t> &values, uint64_t incarnation, const Promise &promise);
  // The master's device is whole again: its life begins with that.
  void given_back(size_t life);
  // What it holds before the given life must be a legal cut of the last one that had clients, with all that was promised.
  void judge_given_back(size_t life);
  bool in_sync();
  bool settle();             // everything heals; both sides have to become equal
  void compare();

 private:
  void trouble();            // things go wrong, one after the other
  void one_fault();
  void power_after_cooling();
  void fail_disk();
  void device_lost(const std::vector<Change> &changes);
  void verify();
  void promote();
  void employ();             // clients that write
  void lose_master();
  void promote_as_of();
  void go_back();            // killed, and begun again
  void succeed();            // a new standby for what the old one is now
  void kill_soon(int host, Death death);
  void wait_dead(int host);
  void export_view();
  bool look(StandbyDaemon &daemon);  // false: nothing was to be seen
};

extern Run *run;

}  // namespace sim
