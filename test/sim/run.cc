#include "run.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "clients.h"
#include "master-daemon.h"
#include "past.h"
#include "standby-daemon.h"

namespace sim {

using namespace understudy;
using engine::Range;

Run *run = nullptr;

namespace {
constexpr uint64_t kAreaA = 1u << 20, kAreaAEnd = 3u << 19, kAreaB = 5u << 20, kAreaBEnd = (5u << 20) + (68u << 12);
constexpr uint64_t kSettleNs = 120 * kSecond;
MasterRecord master_record;  // STATE of the master; one run a process

bool is_table(uint64_t value) { return value != 0 && !(value >> 63); }

// So small that epochs end within a run; half of them keep all of it, and half compress segments as soon as they may.
replay::HistoryOptions history_for(uint64_t seed) {
  if (seed % 3 != 0) return {};
  const uint64_t pack_rest_ns = seed % 4 < 2 ? 0 : 3 * kSecond;
  return {0, seed % 2 ? 6u << 20 : 1u << 30, (64u << 10) << seed / 6 % 4, pack_rest_ns};
}

void make_folders() {
  for (const char *path : {"/sim", "/sim/state"}) room->hosts[kMaster].disk.make_directory(path);
  for (const char *path : {"/sim", "/sim/store", "/sim/store/v"}) room->hosts[kStandby].disk.make_directory(path);
}

Settings settings_for(Random &random, uint64_t seed, const Script *script) {
  Settings settings(random, seed);
  if (script) script->prepare(settings);
  return settings;
}
}  // namespace

Settings::Settings(Random &random, uint64_t seed) {
  using engine::Durability;
  constexpr Durability kChoices[] = {Durability::kFlush, Durability::kFlush, Durability::kDurable, Durability::kReceived, Durability::kAsync};
  durability = kChoices[random.below(5)];
  block = random.one_in(5);
  log_bytes = random.one_in(2) ? 2u << 20 : 4u << 20;
  segment_bytes = 64u << (10 + random.below(5));
  peer_timeout_ns = random.between(100, 600) * kMs;
  filters = random.one_in(3);
  log_file_bytes = random.one_in(3) ? random.between(4, 16) << 20 : 0;
  writers = static_cast<int>(random.between(1, 3));
  depth = random.between(1, 8);
  faults = random.between(2, 7);
  hot_blocks = random.between(20, 400);
  direct = hot_blocks % 3 == 0;
  using link::Compression;
  compression = seed % 2 ? Compression::kOff : seed % 4 ? Compression::kZstd : Compression::kLz4;
  history = history_for(seed);
}

std::vector<Range> excluded_by(uint64_t table) {
  std::vector<Range> excluded;
  if (is_table(table) && (table & 1)) excluded.push_back({kAreaA, kAreaAEnd});
  if (is_table(table) && (table & 2)) excluded.push_back({kAreaB, kAreaBEnd});
  return excluded;
}

Included included_by(uint64_t table) {
  return [excluded = excluded_by(table)](uint64_t block) {
    return std::none_of(excluded.begin(), excluded.end(), [block](const Range &range) {
      return block * kBlockBytes >= range.start && block * kBlockBytes < range.end;
    });
  };
}

Run::Run(uint64_t seed, const Script *script_)
    : own_scheduler(std::make_unique<Scheduler>(seed)),
      own_room(std::make_unique<Room>()),
      own_network(std::make_unique<Network>()),
      script(script_),
      settings(settings_for(own_scheduler->random, seed, script)),
      past(std::make_unique<Past>(*this)) {
  scheduler = own_scheduler.get();
  room = own_room.get();
  network = own_network.get();
  run = this;
  master_record = {};
  make_folders();
  room->hosts[kMaster].device_lost = [this](const std::vector<Change> &changes) { device_lost(changes); };
  auto device = std::make_shared<File>();
  device->apply({Change::Kind::kResize, 0, kVolumeBytes, {}});
  device->end_sync(device->begin_sync());
  Directory &folder = *room->hosts[kMaster].disk.directory("/sim");
  folder.link("device", device);
  folder.end_sync(folder.begin_sync());
}

Run::~Run() = default;

void Run::fail(const std::string &what) {
  if (fault.empty()) fault = what;
  if (verbose) scheduler->list();
  scheduler->stop();
}

void Run::say(int host, const std::string &what) const {
  static constexpr const char *kNames[] = {"", "master", "standby", "clients"};
  if (verbose) printf("%12.6f %-8s %s\n", static_cast<double>(scheduler->now_ns) / 1e9, kNames[host], what.c_str());
}

void Run::boot(int number) {
  say(number, "starts");
  Host &host = room->hosts[static_cast<size_t>(number)];
  host.alive = true;
  host.fault = {};
  host.died = [this, number] {
    say(number, "ends");
    (number == kMaster ? reinterpret_cast<void *&>(master) : reinterpret_cast<void *&>(standby)) = nullptr;
    network->host_died(number);
  };
  scheduler->spawn(number, "daemon", [this, number] {
    if (number == kMaster) MasterDaemon::main(*this, master_record);
    else StandbyDaemon::main(*this);
  });
}

// ---- judging

std::vector<uint64_t> Run::values_of(const Content &content) const {
  std::vector<uint64_t> values;
  uint8_t block[kBlockBytes];
  for (uint64_t at = 0; at < kVolumeBlocks; at++) {
    const bool hole = content.is_hole(at * kBlockBytes);
    if (!hole) content.read(block, sizeof block, at * kBlockBytes);
    values.push_back(hole ? 0 : value_of(block));
  }
  return values;
}

const File &Run::file_of(int host, const std::string &folder, const std::string &name) {
  return *room->hosts[static_cast<size_t>(host)].disk.directory(folder)->find(name);
}

History Run::history_from_device() {
  const File &device = file_of(kMaster, "/sim", "device");
  const auto cached = values_of(device.content()), stored = values_of(device.stored());
  History history(cached);
  for (uint64_t block = 0; block < kVolumeBlocks; block++)
    if (cached[block] != stored[block]) history.unsure(block);
  return history;
}

// What had not been flushed may be gone, as after a power cut; a FLUSH is told.
void Run::device_lost(const std::vector<Change> &changes) {
  if (lives.empty()) return;
  History &history = lives.back()->history;
  for (const Change &change : changes)
    for (uint64_t block = change.offset / kBlockBytes; block * kBlockBytes < change.offset + change.bytes; block++) {
      if (block >= kVolumeBlocks) break;
      const uint64_t at = std::max(block * kBlockBytes, change.offset) - change.offset;
      uint64_t stamp;
      memcpy(&stamp, change.data.data() + at, sizeof stamp);
      history.lose(block, stamp);
    }
}

Promise Run::promised() const {
  return {lives.size() - 1, shown_life, lives.back()->history.promised(), lives.back()->shown};
}

// A legal cut of the life of the master that it says it is of, not older than anything shown or promised before.
void Run::judge_view(const std::vector<uint64_t> &values, uint64_t incarnation, const Promise &promise) {
  views++;
  size_t at = lives.size() - 1;
  while (at > 0 && lives[at]->incarnation != incarnation) at--;
  Life &life = *lives[at];
  if (life.incarnation != incarnation) return fail("the standby stands in an incarnation that never was");
  given_back(at);  // the standby may be seen behind the step before the master has heard of it
  if (at < promise.shown_life) return fail("the standby shows an earlier life of the master than before");
  History::Promised least;  // what an earlier life promised, the step at the beginning of a later one has
  if (at == promise.life) least = promise.promised, least.tick = std::max(least.tick, promise.shown);
  if (at < promise.life) least = life.history.promised(), least.tick = std::max(least.tick, life.shown);
  uint64_t tick = 0;
  const std::string why = life.history.judge(values, included_by(values[0]), least, &tick);
  if (!why.empty()) return fail("the standby shows no legal cut of life " + std::to_string(at) + ": " + why);
  life.shown = std::max(life.shown, tick);
  shown_life = std::max(shown_life, at);
}

void Run::given_back(size_t at) {
  Life &life = *lives[at];
  if (!std::exchange(life.is_owed, false)) return;
  judge_given_back(at);
  life.history = history_from_device();
}

void Run::judge_given_back(size_t at) {
  while (at > 0 && !lives[at - 1]->serves) at--;
  if (at == 0) return;
  Life &last = *lives[at - 1];
  for (const auto &[write, deaths] : last.received)
    if (deaths == room->hosts[kStandby].deaths) last.history.promise(write);
  History::Promised least = last.history.promised();
  least.tick = std::max(least.tick, last.shown);
  const auto values = values_of(file_of(kMaster, "/sim", "device").content());
  uint64_t tick = 0;
  std::string why = last.history.judge(values, included_by(values[0]), least, &tick);
  if (why.empty()) why = last.history.judge_flushed(values, last.flushed);
  if (!why.empty()) fail("the master serves what is no legal cut of life " + std::to_string(at - 1) + ": " + why);
}

void Run::export_view() {
  scheduler->spawn(kStandby, "export", [this] {
    if (standby) look(*standby);
  });
}

// In a fiber of the standby, which does not end meanwhile, unless it is killed.
bool Run::look(StandbyDaemon &daemon) {
  struct Looking {
    explicit Looking(int &count) : count(++count) {}
    ~Looking() { count--; }
    int &count;
  } looking(daemon.looking);
  const Promise promise = promised();
  auto view = daemon.view();
  if (view.status.error == ENODATA) {
    if (had_cut) fail("the standby had a cut and has none any more");
    return false;
  }
  if (!view.ok()) return false;  // it is being stopped, or a step takes long
  had_cut = true;
  for (int looks = scheduler->random.one_in(4) ? 2 : 1; looks; looks--) {
    std::vector<uint64_t> values;
    if (const int error = read_all(*view.value.device, &values)) fail("a view answers " + std::to_string(error));
    judge_view(values, view.value.position.incarnation, promise);
    past->saw(view.value.position, values);
    if (looks > 1) scheduler->sleep(scheduler->random.below(20 * kMs));
  }
  view.value.device.reset();
  past->look(daemon);
  return true;
}

int Run::read_all(Device &device, std::vector<uint64_t> *values) {
  std::vector<uint8_t> piece(256u << 10);
  for (uint64_t at = 0; at < kVolumeBytes; at += piece.size()) {
    const uint64_t bytes = std::min<uint64_t>(piece.size(), kVolumeBytes - at);
    if (const int error = device.read(piece.data(), bytes, at)) return error;
    for (uint64_t block = 0; block < bytes; block += kBlockBytes) values->push_back(value_of(piece.data() + block));
  }
  return 0;
}

// Online, while clients write: both sides are equal, so any difference that it tells is a false alarm.
void Run::verify() {
  if (!master || !master->in_sync()) return;
  master->group().post([this, daemon = master] {
    engine::Group &group = daemon->group();
    (void)group.verifier().start(*group.volumes()[0], {}, [this](const Status &status, const engine::VerifyOutcome &outcome) {
      if (!status.ok()) return;
      verifies++;
      if (outcome.different) fail("verify found " + std::to_string(outcome.different) + " chunks that differ");
    });
  });
}

// ---- what goes wrong

void Run::kill_soon(int number, Death death) {
  Host &host = room->hosts[static_cast<size_t>(number)];
  if (!host.alive) return;
  host.death = death;
  host.dies_in = scheduler->random.between(1, scheduler->random.one_in(3) ? 400 : 40);
}

void Run::wait_dead(int number) {
  Host &host = room->hosts[static_cast<size_t>(number)];
  for (const uint64_t limit = scheduler->now_ns + 50 * kMs; host.alive && scheduler->now_ns < limit;) scheduler->sleep(kMs);
  if (host.alive) room->kill(number, host.death);
  scheduler->sleep(scheduler->random.below(300 * kMs));
  boot(number);
}

void Run::one_fault() {
  Random &random = scheduler->random;
  const Death death = random.one_in(3) ? Death::kKill : Death::kPower;
  const uint64_t kind = random.below(14);
  say(kOutside, "fault " + std::to_string(kind));
  switch (kind) {
    case 0:
    case 1:
      kill_soon(kStandby, death);
      return wait_dead(kStandby);
    case 2:
    case 3:
      kill_soon(kMaster, death);
      return wait_dead(kMaster);
    case 4:
      kill_soon(kMaster, death);
      kill_soon(kStandby, death);
      wait_dead(kMaster);
      return wait_dead(kStandby);
    case 5:
    case 6:
      network->set_down(true);
      scheduler->sleep(random.below(3 * settings.peer_timeout_ns));
      return network->set_down(false);
    case 7:
      network->damage_next = random.between(1, 20);
      return;
    case 8:
      if (master) master->cut_session();
      return;
    case 9:
      if (master && master->serves()) master->group().post([group = &master->group()] { group->detach("requested"); });
      return;
    case 10:
      if (random.one_in(2) && master) {
        master->stop_cleanly(random.below(3 * kSecond));
        for (int i = 0; i < 1000 && room->hosts[kMaster].alive; i++) scheduler->sleep(10 * kMs);
        return wait_dead(kMaster);
      }
      if (standby) standby->stop_cleanly();
      for (int i = 0; i < 3000 && room->hosts[kStandby].alive; i++) scheduler->sleep(10 * kMs);
      return wait_dead(kStandby);
    case 11: return power_after_cooling();
    default: return fail_disk();
  }
}

// A disk that refuses some calls on one file, for a while; the host may die meanwhile.
void Run::fail_disk() {
  struct Kind {
    int host;
    Place place;
    Strike strike;
  };
  static constexpr Kind kKinds[] = {
      {kMaster, Place::kDevice, Strike::kWrite},     {kMaster, Place::kDevice, Strike::kSync},
      {kMaster, Place::kMap, Strike::kWrite},        {kMaster, Place::kMap, Strike::kSync},
      {kMaster, Place::kSpill, Strike::kWrite},      {kMaster, Place::kSpill, Strike::kSync},
      {kMaster, Place::kSpill, Strike::kRead},       {kStandby, Place::kSegments, Strike::kWrite},
      {kStandby, Place::kSegments, Strike::kSync},   {kStandby, Place::kSegments, Strike::kRead},
      {kStandby, Place::kImage, Strike::kWrite},     {kStandby, Place::kImage, Strike::kSync},
      {kStandby, Place::kWatermark, Strike::kWrite}, {kStandby, Place::kWatermark, Strike::kSync},
      {kStandby, Place::kHistory, Strike::kWrite},   {kStandby, Place::kHistory, Strike::kSync},
  };
  Random &random = scheduler->random;
  const size_t kinds = std::size(kKinds) - (settings.history.is_kept() ? 0 : 2);
  const Kind kind = kKinds[random.below(kinds)];
  if (kind.host == kMaster ? !master || !master->serves() : !standby) return;
  const bool full = kind.strike == Strike::kWrite && random.one_in(2);
  DiskFault &fault = room->hosts[static_cast<size_t>(kind.host)].fault;
  fault = {kind.place, kind.strike, full ? ENOSPC : EIO, random.one_in(3) ? UINT64_MAX : random.between(1, 3)};
  say(kind.host, "disk: place " + std::to_string(static_cast<int>(kind.place)) + " fails at " +
                     std::to_string(static_cast<int>(kind.strike)));
  scheduler->sleep(random.below(random.one_in(3) ? 3 * kSecond : 100 * kMs));
  if (random.one_in(2)) {
    // Cut off, the standby is seen as it stands, before the master mends it.
    const bool alone = kind.host == kStandby && random.one_in(2);
    const Death death = alone ? Death::kPower : random.one_in(3) ? Death::kPower : Death::kKill;
    kill_soon(kind.host, death);
    if (alone) network->set_down(true);
    wait_dead(kind.host);
    fault = {};
    if (alone) {
      scheduler->sleep(random.below(20 * kMs));
      export_view();
      scheduler->sleep(random.below(100 * kMs));
      return network->set_down(false);
    }
    if (!random.one_in(3)) return;
    // What the next process found in the cache, and took for what is on the disk, is gone.
    scheduler->sleep(random.below(100 * kMs));
    kill_soon(kind.host, Death::kPower);
    wait_dead(kind.host);
  }
  fault = {};
}


// A slow device, and nobody writes, until a round of the marks has ended (engine/marks.h): then the power goes, when what
// is cold now may be on the disk of the map, and what was written may not be on the device.
void Run::power_after_cooling() {
  Random &random = scheduler->random;
  Host &host = room->hosts[kMaster];
  for (int i = 0; i < 200 && !in_sync(); i++) scheduler->sleep(5 * kMs);
  quiet = !random.one_in(4);
  calm = true;
  host.slow = random.one_in(4) ? 1 : 1000;  // a second, say
  MasterDaemon *const daemon = master;
  uint64_t hot = 0;
  for (const uint64_t limit = scheduler->now_ns + 22 * kSecond; scheduler->now_ns < limit && master && master == daemon;) {
    const uint64_t now = daemon->group().volumes()[0]->page.get(kHotBytes);
    if (now < hot) {
      say(kMaster, "has cooled a part of what was hot");
      break;
    }
    hot = now;
    scheduler->sleep(kMs);
  }
  scheduler->sleep(random.below(20 * kMs));
  if (master == daemon) room->kill(kMaster, Death::kPower);
  wait_dead(kMaster);
  quiet = calm = false;
  host.slow = 1;
}

void Run::employ() {
  for (int i = 0; i < settings.writers; i++) {
    writers_left++;
    scheduler->spawn(kClients, "client", [this, i] { client_main(*this, i); });
  }
}

void Run::trouble() {
  boot(kStandby);
  boot(kMaster);
  employ();
  Random &random = scheduler->random;
  for (faults = 0; faults < settings.faults; faults++) {
    for (uint64_t i = random.between(1, 4); i; i--) {
      scheduler->sleep(random.below(random.one_in(4) ? 200 * kMs : 15 * kMs));
      if (standby && master) export_view();
      if (random.one_in(6)) verify();
    }
    one_fault();
  }
  scheduler->sleep(random.below(50 * kMs));
  if (random.one_in(4)) {
    if (settings.history.is_kept() && random.one_in(2)) promote_as_of();
    else promote();
  } else if (settle()) {
    compare();
    if (settings.history.is_kept() && fault.empty() && random.one_in(2)) promote_as_of();
  }
  scheduler->stop();
}

// ---- the end

void Run::lose_master() {
  network->set_down(true);
  ending = true;
  if (room->hosts[kMaster].alive) room->kill(kMaster, Death::kPower);
  if (!room->hosts[kStandby].alive) boot(kStandby);
  while (!standby) scheduler->sleep(kMs);
}

// The master's host is lost for good, and the standby takes over with all that it has.
void Run::promote() {
  lose_master();
  bool done = false;
  scheduler->spawn(kStandby, "promote", [this, &done] {
    const Status sealed = standby->seal();
    if (!sealed.ok()) fail("promote: " + sealed.message);
    else if (!look(*standby) && had_cut) fail("promoted, and nothing is to be seen");
    done = true;
  });
  while (!done) scheduler->sleep(5 * kMs);
}

// The standby becomes what it was at an earlier moment, is the master from then on, and gets a standby of its own.
void Run::promote_as_of() {
  lose_master();
  while (writers_left || standby->looking) scheduler->sleep(kMs);
  bool chosen = false;
  scheduler->spawn(kStandby, "promote", [this, &chosen] {
    StandbyDaemon &daemon = *standby;
    if (auto moment = past->choose(daemon)) {
      daemon.save();
      back = std::move(moment);
    }
    chosen = true;
    if (back) daemon.go_back();
  });
  while (!chosen) scheduler->sleep(kMs);
  if (!back || !fault.empty()) return;
  go_back();
  if (fault.empty()) succeed();
}

void Run::go_back() {
  Random &random = scheduler->random;
  const uint64_t limit = scheduler->now_ns + kSettleNs;
  const auto is_over = [&] { return back->is_done || !fault.empty() || scheduler->now_ns >= limit; };
  for (uint64_t kills = random.below(5); kills && !is_over(); kills--) {
    // Where it is begun again, or where it writes.
    while (!is_over() && !(standby && standby->is_going_back()) && !random.one_in(1000)) scheduler->sleep(kMs / 10);
    kill_soon(kStandby, random.one_in(3) ? Death::kKill : Death::kPower);
    wait_dead(kStandby);
  }
  while (!is_over()) scheduler->sleep(kMs);
  if (!back->is_done) return fail("what was written after the moment is not undone two minutes later");
  room->kill(kStandby, Death::kPower);
  returns++;
  const auto image = values_of(file_of(kStandby, "/sim/store/v", "image.raw").content());
  for (uint64_t block = 0; block < kVolumeBlocks; block++)
    if (image[block] != back->values[block])
      return fail("promoted as of sequence " + std::to_string(back->to.sequence) + ", and block " + std::to_string(block) + " holds " +
                  std::to_string(image[block]) + " instead of " + std::to_string(back->values[block]));
}

// The hosts change their parts: kMaster is the one that has the copy now, kStandby one that has nothing yet.
void Run::succeed() {
  auto device = room->hosts[kStandby].disk.directory("/sim/store/v")->find("image.raw");
  for (const int host : {kMaster, kStandby}) room->hosts[static_cast<size_t>(host)].disk = {};
  make_folders();
  Directory &folder = *room->hosts[kMaster].disk.directory("/sim");
  folder.link("device", device);
  folder.end_sync(folder.begin_sync());
  master_record = {};
  back.reset();
  had_cut = false;
  shown_life = lives.size();
  past->forget();
  network->set_down(false);
  ending = false;
  boot(kMaster);
  boot(kStandby);
  employ();
  scheduler->sleep(scheduler->random.below(500 * kMs));
  if (scheduler->random.one_in(2)) one_fault();
  if (settle()) compare();
}

bool Run::in_sync() {
  if (!master || !master->serves() || !standby || !standby->usable() || !master->in_sync()) return false;
  CounterPage page = master->group().page();
  return page.get(kGroup_written_sequence) == page.get(kGroup_applied_sequence) &&
         master->group().volumes()[0]->page.get(kDirtyBytes) == 0;
}

bool Run::settle() {
  network->damage_next = 0;
  ending = true;
  const uint64_t limit = scheduler->now_ns + kSettleNs;
  while (writers_left && scheduler->now_ns < limit) scheduler->sleep(5 * kMs);
  while (!in_sync() && scheduler->now_ns < limit) scheduler->sleep(5 * kMs);
  if (writers_left) fail("a client waits for ever");
  else if (!in_sync()) fail("the pair is not in sync two minutes after all faults ended");
  return fault.empty();
}

void Run::compare() {
  // As they are once the caches have gone.
  const auto device = values_of(file_of(kMaster, "/sim", "device").stored());
  const auto image = values_of(file_of(kStandby, "/sim/store/v", "image.raw").stored());
  const Included included = included_by(device[0]);
  for (uint64_t block = 0; block < kVolumeBlocks; block++) {
    const uint64_t wanted = included(block) ? device[block] : 0;
    if (image[block] == wanted) continue;
    return fail("in sync, and block " + std::to_string(block) + " holds " + std::to_string(image[block]) +
                " on the standby and " + std::to_string(wanted) + " on the master");
  }
  judge_view(image, lives.back()->incarnation, promised());
}

bool Run::go() {
  scheduler->spawn(kOutside, "trouble", [this] {
    if (!script) return trouble();
    script->play(*this);
    if (settle()) compare();
    scheduler->stop();
  });
  if (!scheduler->run()) fail("nothing can go on: every thread waits for another");
  return fault.empty();
}

}  // namespace sim
