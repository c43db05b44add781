// StandbyDaemon: the standby's process: the real replica and link, and what src/standby decides about them
// (standby-group.ts: one session at a time, the welcome, views).
#pragma once
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "link/link.h"
#include "mailbox.h"
#include "run.h"

namespace sim {

class StandbyDaemon {
 public:
  static void main(Run &run);  // in a fiber of the host; ends with the process

  // As export does: with everything that was received before, or no view. In a fiber of the host.
  understudy::Result<understudy::replay::Replica::View> view();
  // As export --at does.
  understudy::Result<understudy::replay::Replica::Views> past(const understudy::replay::Moment &moment) {
    return replica_->views({0}, moment, false);
  }
  std::optional<understudy::replay::HistorySummary> history() const { return replica_->history(); }
  understudy::Result<understudy::replay::Replica::Found> find(const understudy::replay::Moment &moment) { return replica_->find(moment); }
  void hold_history() { replica_->hold_history(true); }
  // As promote --at does from the moment on at which Run::back is on disk, and as each start after that (rollback.ts).
  void go_back();
  bool is_going_back() const { return is_going_back_; }
  void save();  // replica.json
  // As promote does: everything durable is applied, committed or not, and no record is taken any more.
  understudy::Status seal();
  bool usable() const;
  const understudy::replay::ReplicaState &state() const { return replica_->state(); }
  void stop_cleanly();  // any fiber: asks for it
  int looking = 0;      // views that are open, or being opened

 private:
  explicit StandbyDaemon(Run &run) : run_(run) {}
  bool open();
  void serve();
  void welcome(uint64_t session);
  void stop();

  Run &run_;
  Mailbox mailbox_;
  std::unique_ptr<understudy::link::Link> link_;
  std::unique_ptr<understudy::link::ReplicaLink> replica_link_;
  std::unique_ptr<understudy::replay::Replica> replica_;
  understudy::CounterPage page_;
  std::set<uint64_t> ended_;
  uint64_t live_ = 0;
  bool is_stopping_ = false, is_going_back_ = false;
};

}  // namespace sim
