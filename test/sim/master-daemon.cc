#include "master-daemon.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "core/breakage.h"
#include "log/spill-file.h"

namespace sim {

using namespace understudy;
using engine::Range;

namespace {
constexpr uint64_t kSampleNs = 100 * kMs;
constexpr uint64_t kPositionsMax = 64;
constexpr uint64_t kRetryNs = 5 * kSecond;

bool same(const std::vector<Range> &a, const std::vector<Range> &b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Range &x, const Range &y) { return x.start == y.start && x.end == y.end; });
}
engine::RangeTable watched_by(bool filters) {
  return engine::RangeTable(filters ? std::vector<Range>{{0, kWatchedBytes}} : std::vector<Range>{});
}
}  // namespace

void MasterDaemon::main(Run &run, MasterRecord &record) {
  auto *daemon = new MasterDaemon(run, record);  // a process that dies leaves everything as it is
  daemon->open();
  daemon->serve();
  run.master = nullptr;
  daemon->stop();
  room->kill(kMaster, Death::kKill);  // exit: never returns
}

void MasterDaemon::save() {
  while (run_.cannot_save) scheduler->sleep(kMs);
  room->call(90, 0, 100'000);
  room->call(91, 0, 100'000);
}

// ---- opening (group-preparation.ts, group-opening.ts)

void MasterDaemon::open() {
  pool_ = std::make_unique<WorkPool>(2);
  link_ = std::make_unique<link::Link>(mailbox_.sink());
  quic::EndpointOptions options;
  options.idle_timeout_ns = run_.settings.peer_timeout_ns;
  options.record_window_bytes = 1280u << 10;
  if (!link_->open(options).ok()) run_.fail("master: the link does not open");
  const std::vector<Range> excluded_now = read_filter();
  const bool is_first = record_.incarnation == 0, trusted = record_.has_clean || record_.has_live;
  MasterRecord next = record_;
  if (is_first || !BROKEN(kReuseSequence)) next.incarnation = scheduler->random.next() | 1;
  if (is_first) next.excluded = excluded_now;
  if (record_.has_clean) next.has_live = record_.clean.has_value();
  if (record_.clean) next.live = *record_.clean;
  next.has_clean = false;
  next.clean.reset();
  save();
  const MasterRecord found = std::exchange(record_, next);
  open_group(trusted, !is_first);
  known_ = known_at_open(found);
  settle_pairing();
  begin(excluded_now);
}

void MasterDaemon::open_group(bool trusted, bool served_before) {
  DeviceOptions device_options;
  device_options.direct = run_.settings.direct;
  auto device = open_device("/sim/device", device_options);
  if (!device.ok()) return run_.fail("master: " + device.status.message);
  std::vector<std::unique_ptr<engine::Volume>> volumes;
  volumes.push_back(std::make_unique<engine::Volume>("v", 0, std::move(device.value)));
  volume_ = volumes.front().get();
  volume_->handle = 1;
  volume_->served_before = served_before;
  volume_->excluded = volume_->fixed = engine::RangeTable(record_.excluded);
  volume_->watched = watched_by(run_.settings.filters);
  volume_->marks = std::make_unique<engine::Marks>(*volume_, "/sim/state/v.map", "uuid");
  uint64_t damaged = 0;
  if (trusted && !volume_->marks->load(&damaged).ok())
    volume_->excluded.outside(0, kVolumeBytes, [&](uint64_t start, uint64_t end) { volume_->dirty.mark(start, end); });
  engine::GroupOptions options;
  options.name = "g";
  std::shared_ptr<log::SpillFile> log_file;
  if (run_.settings.log_file_bytes) {
    auto opened = log::SpillFile::open("/sim/state/v.log", run_.settings.log_file_bytes);
    if (!opened.ok()) return run_.fail("master: " + opened.status.message);
    log_file = std::move(opened.value);
  }
  options.capture = {record_.incarnation, run_.settings.log_bytes, true, log_file};
  options.durability = run_.settings.durability;
  options.standby.block = run_.settings.block;
  options.standby.peer_timeout_ns = run_.settings.peer_timeout_ns;
  group_link_ = std::make_unique<link::GroupLink>();
  group_ = std::make_unique<engine::Group>(options, std::move(volumes), *pool_, group_link_.get(), mailbox_.sink());
  group_link_->bind(*group_);
}

// The copy for which the maps hold, and where it may stand.
std::optional<KnownCopy> MasterDaemon::known_at_open(const MasterRecord &found) const {
  if (!volume_->marks->loaded()) return std::nullopt;
  if (found.has_clean) return found.clean;
  if (!found.has_live) return std::nullopt;
  const log::MarkFile::Floor floor = volume_->marks->floor();
  if (floor.incarnation == 0) return found.live;
  const auto &positions = found.live.positions;
  const auto at = std::find_if(positions.begin(), positions.end(),
                               [&](const KnownPosition &one) { return one.incarnation == floor.incarnation; });
  if (at == positions.end()) return std::nullopt;
  KnownCopy known{found.live.replica, {at, positions.end()}};
  known.positions.front().durable = std::max(at->durable, floor.durable);
  return known;
}

void MasterDaemon::begin(const std::vector<Range> &excluded_now) {
  if (known_) write_down(*known_);
  else distrust();
  if (!is_owed_ && !same(record_.excluded, excluded_now)) set_ranges(excluded_now, 0);
  run_.lives.push_back(std::make_unique<Life>(record_.incarnation, run_.history_from_device()));
  life_ = run_.lives.size() - 1;
  run_.say(kMaster, "serves; its maps are " + std::string(known_ ? "believed" : "not believed") + ", " +
                        std::to_string(volume_->dirty.dirty_bytes()) + " bytes dirty");
  run_.lives.back()->is_owed = is_owed_;
  run_.lives.back()->serves = serves_ = !is_owed_;
  connect_ns_ = scheduler->now_ns;
  run_.master = this;
}

void MasterDaemon::give_client(int descriptor) {
  auto socket = std::make_shared<Fd>(descriptor);
  group_->post([this, socket, id = ++connections_] { group_->adopt(id, {std::move(*socket)}, *volume_); });
}

// ---- what this host may have lost (give-back.ts)

void MasterDaemon::settle_pairing() {
  if (!record_.paired) return;
  const bool lost = *record_.paired != room->hosts[kMaster].boots;
  if (lost && known_ && !BROKEN(kKeepOwnDevice)) {
    is_owed_ = true;
    return run_.say(kMaster, "is owed what it may have lost");
  }
  if (lost && known_) run_.judge_given_back(run_.lives.size());
  if (!lost) {
    const Fd device(::open("/sim/device", O_RDONLY | O_CLOEXEC));
    (void)fsync(device.get());
  }
  save();
  record_.paired.reset();
}

void MasterDaemon::note_pairing(bool paired) {
  save();
  if (paired) record_.paired = room->hosts[kMaster].boots;
  else record_.paired.reset();
  if (!paired) group_->post([this] { group_->part(); });
}

void MasterDaemon::given_back() {
  run_.given_back(life_);
  save();
  record_.paired.reset();
  is_owed_ = false;
  const std::vector<Range> excluded = read_filter();
  if (!same(record_.excluded, excluded)) set_ranges(excluded, 0);
  run_.lives[life_]->serves = serves_ = true;
  run_.say(kMaster, "serves what was given back");
}

// ---- trust in the maps (map-trust.ts)

void MasterDaemon::distrust() {
  trust_epoch_++;
  if (!record_.has_live) return;
  save();
  record_.has_live = false;
}

void MasterDaemon::write_down(KnownCopy known) {
  if (!record_.has_live) return;
  if (known.positions.size() > kPositionsMax) return distrust();
  save();
  record_.live = std::move(known);
}

// Again and again until it works, or until the next distrust().
void MasterDaemon::complete(uint64_t after_ns) {
  scheduler->spawn(kMaster, "complete", [this, after_ns, epoch = after_ns ? trust_epoch_ : ++trust_epoch_] {
    if (after_ns) scheduler->sleep(after_ns);
    if (epoch != trust_epoch_ || is_stopping_) return;
    const auto filled = std::make_shared<Later>();
    group_->post([this, filled] { group_->fill_marks([filled](const Status &status) { filled->bring(status.ok()); }); });
    const bool good = filled->wait();
    if (epoch != trust_epoch_ || is_stopping_) return;
    if (!good) return complete(kRetryNs);
    if (!known_) return;
    save();
    if (epoch != trust_epoch_) return;
    record_.live = *known_;
    record_.has_live = true;
  });
}

// ---- sessions (session-keeper.ts, attach-decision.ts)

void MasterDaemon::note_durable() { durable_ = std::max(durable_, group_->page().get(kGroup_durable_sequence)); }

void MasterDaemon::welcomed(uint64_t session, const Welcome &welcome) {
  note_durable();
  bool fresh = false, initial = welcome.initial, all_dirty = true;
  if (welcome.incarnation == 0) {
    fresh = welcome.fresh;
    initial = true;
  } else if (known_ && known_->replica == welcome.replica) {
    const auto &positions = known_->positions;
    const auto at = std::find_if(positions.begin(), positions.end(), [&](const KnownPosition &one) {
      return one.incarnation == welcome.incarnation;
    });
    const bool is_ours = welcome.incarnation == record_.incarnation;
    if (at != positions.end())
      all_dirty = welcome.received < (is_ours ? durable_ : at->durable) || (!is_ours && durable_ > 0);
  }
  KnownCopy known{welcome.replica, {}};
  if (!all_dirty)
    for (const KnownPosition &one : known_->positions)
      if (one.incarnation != record_.incarnation) known.positions.push_back(one);
  known.positions.push_back({record_.incarnation, durable_});
  if (all_dirty || fresh) distrust();
  else write_down(known);
  engine::AttachRequest request;
  request.session = session;
  request.peer = {welcome.incarnation, welcome.received};
  request.fresh = fresh;
  request.initial = initial;
  request.all_dirty = all_dirty;
  request.give_back = is_owed_ && !all_dirty;
  if (is_owed_ && all_dirty) run_.fail("the standby that had everything is not believed");
  group_link_->use(*link_, run_.settings.compression);
  group_->post([this, request] { group_->attach(request); });
  known_ = known;
}

bool MasterDaemon::in_sync() const {
  CounterPage page = group_->page();
  return attached_ && page.get(kGroup_state) == 2 && !page.get(kGroup_away) && !page.get(kGroup_behind);
}

void MasterDaemon::cut_session() {
  if (session_) link_->endpoint().close(session_, "cut");
}

void MasterDaemon::handle(const Event &event) {
  const uint64_t session = number_in(event, "session");
  run_.say(kMaster, words_of(event));
  if (event.type == "session-established") {
    if (session == session_) link_->send_json(session, "hello");
  } else if (event.type == "session-message") {
    Welcome welcome;
    char replica[64] = "";
    int fresh = 0, initial = 0;
    if (session != session_ || sscanf(event.json.c_str(), "welcome %63s %lu %lu %d %d", replica, &welcome.incarnation,
                                      &welcome.received, &fresh, &initial) != 5)
      return;
    welcome.replica = replica;
    welcome.fresh = fresh, welcome.initial = initial;
    welcomed(session, welcome);
  } else if (event.type == "session-closed") {
    if (session != session_) return;
    session_ = 0;
    attached_ = false;
    turns_++;
    connect_ns_ = scheduler->now_ns + 1 + scheduler->random.below(30 * kMs);
  } else if (event.type == "attached") {
    attached_ = true;
    turns_++;
  } else if (event.type == "detached") {
    attached_ = false;
    turns_++;
    if (session_) link_->endpoint().close(session_, "detached");
    else connect_ns_ = scheduler->now_ns + 1 + scheduler->random.below(30 * kMs);
  } else if (event.type == "standby-away") {
    turns_++;
  } else if (event.type == "resync-done") {
    turns_++;
    if (is_owed_) given_back();
    if (!record_.has_live) complete();
  } else if (event.type == "pairing") {
    note_pairing(number_in(event, "paired") != 0);
  } else if (event.type == "map-failed") {
    const bool was = record_.has_live;
    distrust();
    if (was) complete(kRetryNs);
  } else if (event.type == "watched") {
    follow();
  }
}

void MasterDaemon::serve() {
  while (!is_stopping_) {
    if (connect_ns_ && scheduler->now_ns >= connect_ns_) {
      connect_ns_ = 0;
      session_ = link_->endpoint().connect("standby", 1, "peer");
    }
    Event event;
    const uint64_t sample_ns = scheduler->now_ns + kSampleNs;
    if (mailbox_.take(&event, connect_ns_ ? std::min(connect_ns_, sample_ns) : sample_ns)) handle(event);
    note_durable();
  }
}

// ---- the filter (filter/follow.ts)

std::vector<Range> MasterDaemon::read_filter() {
  if (!run_.settings.filters) return {};
  const Fd device(::open("/sim/device", O_RDONLY | O_CLOEXEC));
  uint8_t block[kBlockBytes];
  const bool good = device && pread(device.get(), block, sizeof block, 0) == sizeof block;
  return excluded_by(good ? value_of(block) : ~0ull);
}

void MasterDaemon::follow() {
  watched_again_ = true;
  if (std::exchange(following_, true)) return;
  scheduler->spawn(kMaster, "follower", [this] {
    for (;;) {
      scheduler->sleep(1 + scheduler->random.below(20 * kMs));  // until the table has settled
      watched_again_ = false;
      const uint64_t mark = watch();
      const std::vector<Range> excluded = read_filter();
      if (is_stopping_) return;
      set_ranges(excluded, mark);
      const std::vector<Range> again = read_filter();
      if (is_stopping_ || (!watched_again_ && same(again, excluded))) break;
    }
    following_ = false;
  });
}

uint64_t MasterDaemon::watch() {
  const auto mark = std::make_shared<std::optional<uint64_t>>();
  group_->post([this, mark] { *mark = group_->watch(*volume_, watched_by(run_.settings.filters)); });
  while (!*mark && !is_stopping_) scheduler->sleep(kMs);
  return mark->value_or(0);
}

void MasterDaemon::set_ranges(std::vector<Range> excluded, uint64_t mark) {
  const bool trusted = record_.has_live;
  distrust();
  group_->post([this, excluded, mark] {
    group_->set_ranges(*volume_, engine::RangeTable(excluded), watched_by(run_.settings.filters), mark);
  });
  save();
  record_.excluded = std::move(excluded);
  if (trusted) complete();
}

// ---- a clean stop (clean-stop.ts)

void MasterDaemon::stop_cleanly(uint64_t drain_ns) {
  if (std::exchange(is_stopping_, true)) return;
  serves_ = false;
  drain_ns_ = drain_ns;
  mailbox_.put({"stop", {}, ""});
}

void MasterDaemon::stop() {
  const auto quiet = std::make_shared<Later>();
  group_->post([this, quiet] { group_->quiesce([quiet] { quiet->bring(true); }); });
  quiet->wait();
  const uint64_t deadline = scheduler->now_ns + drain_ns_;
  CounterPage page = group_->page();
  const auto drained = [&] {
    return in_sync() && page.get(kGroup_written_sequence) == page.get(kGroup_applied_sequence) && volume_->page.get(kDirtyBytes) == 0;
  };
  for (Event event; !drained() && scheduler->now_ns < deadline;)
    if (mailbox_.take(&event, scheduler->now_ns + 10 * kMs)) handle(event);
  note_durable();
  const Fd device(::open("/sim/device", O_RDONLY | O_CLOEXEC));
  bool good = device && fsync(device.get()) == 0;
  const auto finished = std::make_shared<Later>();
  group_->post([this, finished] {
    group_->finish_marks(*volume_, [finished](const Status &status) { finished->bring(status.ok()); });
  });
  good = finished->wait() && good;
  std::optional<KnownCopy> known = known_;
  if (known && durable_) known->positions = {{record_.incarnation, durable_}};
  if (session_) link_->endpoint().close(session_, "the master has stopped");
  group_link_->leave();
  group_.reset();
  link_.reset();
  if (!good) return;
  save();
  if (!is_owed_) record_.paired.reset();
  record_.has_clean = true;
  record_.clean = known;
}

}  // namespace sim
