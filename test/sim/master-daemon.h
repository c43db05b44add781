// MasterDaemon: the master's process: the real engine, log, dirty map and link, and what src/master decides about them,
// retold in C++ (attach-decision.ts, map-trust.ts, group-opening.ts, group-file.ts, clean-stop.ts, filter/follow.ts).
// Where TypeScript changes, this has to follow.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/work-pool.h"
#include "link/link.h"
#include "mailbox.h"
#include "run.h"

namespace sim {

struct KnownPosition {
  uint64_t incarnation, durable;
};
struct KnownCopy {
  std::string replica;
  std::vector<KnownPosition> positions;
};

// STATE/groups/NAME.json. Written as a whole and durable: a crash leaves the old one or the new one.
struct MasterRecord {
  uint64_t incarnation = 0;
  std::vector<understudy::engine::Range> excluded;
  bool has_live = false, has_clean = false;
  KnownCopy live;
  std::optional<KnownCopy> clean;  // within has_clean
  std::optional<uint64_t> paired;  // Host::boots when the standby had everything that was acknowledged (give-back.ts)
};

struct Welcome {
  std::string replica;
  uint64_t incarnation = 0, received = 0;
  bool fresh = false, initial = false;
};

class MasterDaemon {
 public:
  // In a fiber of the host; ends with the process.
  static void main(Run &run, MasterRecord &record);

  bool serves() const { return serves_; }
  bool attached() const { return attached_; }
  understudy::engine::Group &group() { return *group_; }
  size_t life() const { return life_; }
  uint64_t turns() const { return turns_; }   // how often the pair fell out of sync or came back
  bool in_sync() const;
  bool notes_paired() const { return record_.paired.has_value(); }
  void give_client(int descriptor);           // a connection, negotiated
  void stop_cleanly(uint64_t drain_ns);       // any fiber: asks for it
  void cut_session();

 private:
  MasterDaemon(Run &run, MasterRecord &record) : run_(run), record_(record) {}
  void open();
  void open_group(bool trusted, bool served_before);
  std::optional<KnownCopy> known_at_open(const MasterRecord &found) const;
  void begin(const std::vector<understudy::engine::Range> &excluded_now);
  void serve();
  void handle(const understudy::Event &event);
  void welcomed(uint64_t session, const Welcome &welcome);
  void distrust();
  void complete(uint64_t after_ns = 0);
  void follow();
  uint64_t watch();
  void set_ranges(std::vector<understudy::engine::Range> excluded, uint64_t mark);
  std::vector<understudy::engine::Range> read_filter();
  void note_durable();
  void settle_pairing();
  void note_pairing(bool paired);
  void given_back();
  void stop();
  void save();
  void write_down(KnownCopy known);

  Run &run_;
  MasterRecord &record_;
  Mailbox mailbox_;
  std::unique_ptr<understudy::WorkPool> pool_;
  std::unique_ptr<understudy::link::Link> link_;
  std::unique_ptr<understudy::link::GroupLink> group_link_;
  std::unique_ptr<understudy::engine::Group> group_;
  understudy::engine::Volume *volume_ = nullptr;
  std::optional<KnownCopy> known_;
  uint64_t durable_ = 0, trust_epoch_ = 0, session_ = 0, connections_ = 0, turns_ = 0;
  uint64_t connect_ns_ = 0;     // 0: a session is there, or on its way
  size_t life_ = 0;
  bool serves_ = false, is_owed_ = false, attached_ = false, following_ = false, watched_again_ = false;
  uint64_t drain_ns_ = 0;
  bool is_stopping_ = false;
};

}  // namespace sim
