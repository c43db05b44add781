#include "standby-daemon.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "past.h"

namespace sim {

using namespace understudy;
using replay::ReplicaPhase;

namespace {
constexpr const char *kImagePath = "/sim/store/v/image.raw";
constexpr uint64_t kViewWaitNs = 30 * kSecond;
constexpr uint64_t kPartBytes = 512u << 10;  // an eighth of what the addon takes: there are kills in between
constexpr size_t kPhaseWord = 9;  // of link::kReplicaCounterNames

std::vector<uint8_t> whole(Device &device) {
  std::vector<uint8_t> bytes(kVolumeBytes);
  if (device.read(bytes.data(), bytes.size(), 0) != 0) bytes.clear();
  return bytes;
}
}  // namespace

void StandbyDaemon::main(Run &run) {
  auto *daemon = new StandbyDaemon(run);  // a process that dies leaves everything as it is
  if (daemon->open()) {
    if (run.back && !run.back->is_done) daemon->go_back();
    daemon->serve();
  }
  run.standby = nullptr;
  daemon->stop();
  room->kill(kStandby, Death::kKill);  // exit: never returns
}

bool StandbyDaemon::open() {
  CHECK(strcmp(link::kReplicaCounterNames[kPhaseWord], "phase") == 0);
  replay::ReplicaOptions options;
  options.directory = "/sim/store/v";
  options.volumes = {{"v", kImagePath, kVolumeBytes, true}};
  options.ring_bytes = 2560u << 10;
  options.segment_bytes = run_.settings.segment_bytes;
  options.history = run_.settings.history;
  options.history.is_held = run_.back.has_value();
  page_ = CounterPages::instance().take();
  replica_link_ = std::make_unique<link::ReplicaLink>(1, mailbox_.sink(), page_);
  auto replica = replay::Replica::open(options, *replica_link_);
  if (!replica.ok()) {
    run_.fail("standby: " + replica.status.message);
    return false;
  }
  replica_ = std::move(replica.value);
  run_.past->began(*this);
  replica_link_->bind(*replica_);
  replica_link_->publish_counters();
  link_ = std::make_unique<link::Link>(mailbox_.sink());
  quic::EndpointOptions endpoint;
  endpoint.listen_host = "standby";
  endpoint.idle_timeout_ns = run_.settings.peer_timeout_ns;
  endpoint.record_window_bytes = 1280u << 10;
  if (!link_->open(endpoint).ok()) return false;
  run_.standby = this;
  return true;
}

bool StandbyDaemon::usable() const {
  return replica_->state().phase.load() >= static_cast<uint64_t>(ReplicaPhase::kCut);
}

void StandbyDaemon::serve() {
  while (!is_stopping_) {
    Event event;
    mailbox_.take(&event, kNever);
    const uint64_t session = number_in(event, "session");
    run_.say(kStandby, words_of(event));
    if (event.type == "session-closed") {
      ended_.insert(session);
      if (session == live_) live_ = 0;
    } else if (event.type == "session-message" && event.json == "hello") {
      welcome(session);
    }
  }
}

void StandbyDaemon::welcome(uint64_t session) {
  if (live_) link_->endpoint().close(live_, "replaced by a newer session of the same master");
  const uint64_t deadline = scheduler->now_ns + 5 * kSecond;
  for (Event event; live_ && mailbox_.take(&event, deadline);) {  // its end comes before anything else is done
    if (event.type == "session-closed") ended_.insert(number_in(event, "session"));
    if (event.type == "session-closed" && number_in(event, "session") == live_) live_ = 0;
    if (event.type == "session-message" && event.json == "hello") session = number_in(event, "session");
    if (event.type == "stop") return;
  }
  const auto position = replica_link_->attach(*link_, session, run_.settings.compression);
  if (!position.ok()) return;
  live_ = session;
  const uint64_t phase = page_.get(kPhaseWord);
  const bool untouched = position.value.incarnation == 0;
  const bool is_usable = phase >= static_cast<uint64_t>(ReplicaPhase::kCut);
  char text[160];
  snprintf(text, sizeof text, "welcome copy %lu %lu %d %d", position.value.incarnation, position.value.sequence,
           untouched && phase == static_cast<uint64_t>(ReplicaPhase::kFresh), untouched || !is_usable);
  link_->send_json(session, text);
}

Result<replay::Replica::View> StandbyDaemon::view() {
  const uint64_t deadline = scheduler->now_ns + kViewWaitNs;
  if (Status status = replica_->catch_up(kViewWaitNs); !status.ok()) return status;
  for (;;) {
    auto view = replica_->view(0, false);
    if (view.status.error != EAGAIN || scheduler->now_ns >= deadline) return view;
    scheduler->sleep(20 * kMs);
  }
}

Status StandbyDaemon::seal() {
  replica_link_->detach();
  std::optional<wire::Position> fork;
  const Status sealed = replica_->seal(60 * kSecond, &fork);
  if (!sealed.ok() || !fork) return sealed.ok() ? replica_->drain(60 * kSecond) : sealed;
  auto image = open_device(kImagePath, {});
  if (!image.ok()) return image.status;
  const auto device = replica_->over_unapplied(std::move(image.value), 0);
  const auto shown = whole(*device);
  for (int i = 0; i < 3; i++) {  // while it is being applied
    scheduler->sleep(kMs);
    if (whole(*device) != shown) return Status::failed(EBADMSG, "what is sealed changes while it is applied");
  }
  if (const Status drained = replica_->drain(60 * kSecond); !drained.ok()) return drained;
  if (whole(*device) != shown) return Status::failed(EBADMSG, "what was sealed is another thing when it is applied");
  const auto &state = replica_->state();
  if (fork->incarnation == state.incarnation && fork->sequence == state.applied_sequence) return Status::good();
  return Status::failed(EBADMSG, "what is sealed stands elsewhere when it is applied");
}

void StandbyDaemon::save() {
  room->call(92, 0, 100'000);
  room->call(93, 0, 100'000);
}

void StandbyDaemon::go_back() {
  replica_link_->detach();
  Status status = replica_->seal(60 * kSecond);
  if (status.ok()) status = replica_->drain(60 * kSecond);
  is_going_back_ = true;
  for (bool is_done = false; status.ok() && !is_done;) {
    const auto part = replica_->roll_back(run_.back->to, kPartBytes);
    status = part.status;
    is_done = part.ok() && part.value.is_done;
  }
  if (!status.ok()) return run_.fail("promote --at: " + status.message);
  save();
  run_.back->is_done = true;
}

void StandbyDaemon::stop_cleanly() {
  if (std::exchange(is_stopping_, true)) return;
  mailbox_.put({"stop", {}, ""});
}

void StandbyDaemon::stop() {
  while (looking) scheduler->sleep(kMs);
  if (link_) {
    replica_link_->detach();
    (void)replica_->drain(10 * kSecond);
  }
  link_.reset();
  replica_.reset();
}

}  // namespace sim
