// Past: the judge of the standby's history. What a moment showed once, as the present or as the past, it has to show again,
// block by block, after any crash and whatever epochs have ended since; a moment that was never seen has to be a legal cut.
// And what was offered stays so: a kill or a power cut does not take the history away.
#pragma once
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "run.h"

namespace sim {

class Past {
 public:
  explicit Past(Run &run) : run_(run) {}

  // A view of the present, at the position it says that it has.
  void saw(const understudy::wire::Position &position, const std::vector<uint64_t> &values);
  // In a fiber of the standby, whose process has just found what lies there.
  void began(StandbyDaemon &daemon);
  // In a fiber of the standby: a moment drawn at random, and what is offered.
  void look(StandbyDaemon &daemon);
  // In a fiber of the standby: a moment to go back to, and the history is held from then on. Empty: there is none.
  std::optional<Return> choose(StandbyDaemon &daemon);
  void forget();  // the history is another host's

 private:
  using Position = std::pair<uint64_t, uint64_t>;  // incarnation, sequence
  bool is_excused() const;  // the disk has refused something: the history may have been given up
  void check_offer(const std::optional<understudy::replay::HistorySummary> &summary);
  std::optional<understudy::replay::Moment> draw(const understudy::replay::HistorySummary &summary, bool *must_be_there);
  void judge(const understudy::replay::Point &point, const std::vector<uint64_t> &values);

  Run &run_;
  std::map<Position, std::vector<uint64_t>> seen_;
  std::optional<understudy::replay::Point> oldest_;  // that was offered
  uint64_t strikes_ = 0;                             // of the standby's disk, when that was
};

}  // namespace sim
