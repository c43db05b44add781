#include "past.h"

#include <cerrno>
#include <iterator>

#include "standby-daemon.h"

namespace sim {

using namespace understudy;
using replay::HistorySummary;
using replay::Moment;
using replay::Point;

namespace {
std::string text_of(const Point &point) {
  return std::to_string(point.position.incarnation) + ":" + std::to_string(point.position.sequence);
}
std::string text_of(const Moment &moment) {
  return moment.time_ns ? std::to_string(*moment.time_ns) + " ns" : text_of(Point{*moment.position});
}
}  // namespace

bool Past::is_excused() const { return room->hosts[kStandby].strikes != strikes_; }

void Past::saw(const wire::Position &position, const std::vector<uint64_t> &values) {
  if (!run_.settings.history.is_kept()) return;
  const auto [known, is_new] = seen_.try_emplace({position.incarnation, position.sequence}, values);
  if (is_new || known->second == values) return;
  for (uint64_t block = 0; block < values.size(); block++)
    if (known->second[block] != values[block])
      return run_.fail("moment " + text_of(Point{position}) + ": block " + std::to_string(block) + " shows " +
                       std::to_string(values[block]) + ", and showed " + std::to_string(known->second[block]) + " before");
}

void Past::began(StandbyDaemon &daemon) {
  if (!run_.settings.history.is_kept()) return;
  check_offer(daemon.history());
}

// What was offered is there, and begins where it did. If there is a maximum, later, or earlier: what had expired may be
// there again after a power cut.
void Past::check_offer(const std::optional<HistorySummary> &summary) {
  const bool excused = is_excused();
  strikes_ = room->hosts[kStandby].strikes;
  if (oldest_ && !excused) {
    if (!summary) return run_.fail("the history is gone, and no disk has refused anything");
    if (run_.settings.history.bytes_max > kVolumeBytes * 100 && summary->oldest.position != oldest_->position)
      return run_.fail("the history began at " + text_of(*oldest_) + " and begins at " + text_of(summary->oldest));
  }
  oldest_.reset();
  if (summary) oldest_ = summary->oldest;
}

std::optional<Moment> Past::draw(const HistorySummary &summary, bool *must_be_there) {
  Random &random = scheduler->random;
  *must_be_there = true;
  if (random.one_in(3)) {
    if (summary.newest.time_ns < summary.oldest.time_ns) return std::nullopt;  // its host's clock gave the first
    return Moment{{}, random.between(summary.oldest.time_ns, summary.newest.time_ns)};
  }
  if (random.one_in(2) && !seen_.empty()) {
    auto which = seen_.begin();
    std::advance(which, static_cast<ptrdiff_t>(random.below(seen_.size())));
    *must_be_there = false;  // it may be older than the history
    return Moment{wire::Position{which->first.first, which->first.second}, {}};
  }
  const auto [oldest, newest] = std::pair{summary.oldest.position, summary.newest.position};
  const uint64_t first = oldest.incarnation == newest.incarnation ? oldest.sequence : 0;
  if (first > newest.sequence) return std::nullopt;
  *must_be_there = first != 0;
  return Moment{wire::Position{newest.incarnation, random.between(first, newest.sequence)}, {}};
}

void Past::look(StandbyDaemon &daemon) {
  if (!run_.settings.history.is_kept()) return;
  const auto summary = daemon.history();
  check_offer(summary);
  if (!summary) return;
  bool must_be_there = false;
  const auto moment = draw(*summary, &must_be_there);
  if (!moment) return;
  auto past = daemon.past(*moment);
  if (!past.ok()) {
    const bool has_expired = past.status.error == ERANGE && daemon.history() && daemon.history()->oldest.time_ns > summary->oldest.time_ns;
    if (must_be_there && !has_expired && !is_excused()) run_.fail("moment " + text_of(*moment) + ", which is offered, is not there: " + past.status.message);
    return;
  }
  if (moment->time_ns && past.value.point.time_ns > *moment->time_ns) run_.fail("a moment is younger than what was asked for");
  std::vector<uint64_t> values;
  if (const int error = run_.read_all(*past.value.devices[0], &values)) {
    if (!is_excused()) run_.fail("the past answers " + std::to_string(error));
    return;
  }
  run_.past_views++;
  judge(past.value.point, values);
}

std::optional<Return> Past::choose(StandbyDaemon &daemon) {
  const auto summary = daemon.history();
  if (!summary) return std::nullopt;
  daemon.hold_history();
  for (int tries = 0; tries < 3; tries++) {
    bool must_be_there = false;
    const auto moment = draw(*summary, &must_be_there);
    if (!moment) continue;
    const auto found = daemon.find(*moment);
    if (!found.ok()) continue;
    auto past = daemon.past({found.value.point.position, {}});
    std::vector<uint64_t> values;
    if (!past.ok() || run_.read_all(*past.value.devices[0], &values)) {
      if (!is_excused()) run_.fail("moment " + text_of(found.value.point) + ", which was found, is not there");
      continue;
    }
    judge(found.value.point, values);
    return Return{found.value.point.position, std::move(values)};
  }
  return std::nullopt;
}

void Past::forget() {
  seen_.clear();
  oldest_.reset();
}

void Past::judge(const Point &point, const std::vector<uint64_t> &values) {
  for (const auto &life : run_.lives) {
    if (life->incarnation != point.position.incarnation || life->is_owed) continue;
    uint64_t tick = 0;
    const std::string why = life->history.judge(values, included_by(values[0]), {}, &tick);
    if (!why.empty()) return run_.fail("moment " + text_of(point) + " is no legal cut: " + why);
  }
  saw(point.position, values);
}

}  // namespace sim
