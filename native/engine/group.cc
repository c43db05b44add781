#include "engine/group.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>

#include "core/clock.h"
#include "core/memory-guard.h"
#include "core/thread.h"

namespace understudy::engine {
namespace {
constexpr int kRetryMs = 5;                      // while something waits for log room: a net under the wake-ups
constexpr int kWatchMs = 100;                    // while the standby owes something
}  // namespace

Group::Group(const GroupOptions &options, std::vector<std::unique_ptr<Volume>> volumes, WorkPool &pool, PeerLink *link,
             EventSink events)
    : options_(options),
      volumes_(std::move(volumes)),
      pool_(pool),
      link_(link),
      events_(std::move(events)),
      page_(CounterPages::instance().take()),
      peer_(page_, waker_),
      capture_(options.capture, volumes_, page_, events_),
      resync_({pool, [this](std::function<void()> task) { post(std::move(task)); }, link, events_,
               options.resync_bytes_per_second},
              capture_, volumes_, page_),
      verifier_({pool, [this](std::function<void()> task) { post(std::move(task)); }, link, events_}, capture_,
                [this](Volume &volume, const std::vector<Range> &ranges) { repair(volume, ranges); }),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      watch_(options.standby),
      lease_(options.lease),
      pairing_(options.durability == Durability::kReceived),
      holds_writes_(options.holds_writes) {
  for (auto &volume : volumes_) {
    volume->page = CounterPages::instance().take();
    volume->page.set(kSizeBytes, volume->size_bytes);
  }
  capture_.publish_volumes();
  bind_marks();
  bind_spilling();
  epoll_event event{};
  event.events = EPOLLIN;
  CHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, waker_.fd(), &event) == 0);
  thread_ = start_thread("us-engine", [this] { run(); });
}

void Group::stop() {
  if (!thread_.joinable()) return;
  stopping_.store(true);
  post([] {});
  thread_.join();
}

Group::~Group() {
  stop();
  for (auto &volume : volumes_) CounterPages::instance().give_back(volume->page);
  CounterPages::instance().give_back(page_);
}

Volume *Group::volume_by_handle(uint32_t handle) {
  for (auto &volume : volumes_)
    if (volume->handle == handle) return volume.get();
  return nullptr;
}

void Group::post(std::function<void()> task) {
  {
    std::lock_guard lock(tasks_mutex_);
    tasks_.push_back(std::move(task));
  }
  tasks_pending_.store(true, std::memory_order_release);
  waker_.wake();
}

void Group::run_tasks() {
  if (!tasks_pending_.exchange(false, std::memory_order_acquire)) return;
  std::vector<std::function<void()>> tasks;
  {
    std::lock_guard lock(tasks_mutex_);
    tasks.swap(tasks_);
  }
  for (auto &task : tasks) task();
  patience_.work();
}

void Group::run() {
  turn_.lock();
  // Stopping waits for what is on workers: their buffers and locks are ours.
  while (!stopping_.load() || operations_ || resync_.busy() || verifier_.reading() || marks_busy() ||
         (capture_.spilling() && capture_.spilling()->working())) {
    wait(wait_limit_ms());
    memory_guard::enter();
    turn_ns_ = monotonic_ns();
    run_tasks();
    take_left_outputs();
    watch_standby();
    watch_lease();
    serve_all();
    if (!resync_.turn()) resync_waits_ = true;
    turn_held();
    verifier_.turn(turn_ns_);
    turn_marks();
    if (Spilling *spilling = capture_.spilling()) spilling->turn(turn_ns_, stopping_.load());
    if (const Capture::News news = capture_.publish(); news != Capture::News::kNone)
      link_->published(news == Capture::News::kUrgent);
    start_flushes();  // after: the standby's disk has the longer way
    answer_waiters();
    send_outputs();
    if (!quiesced_.empty() && operations_ == 0 && !marks_busy() &&
        std::all_of(connections_.begin(), connections_.end(), [](auto &c) { return c.second->outstanding == 0; }))
      for (auto &done : std::exchange(quiesced_, {})) done();
  }
  turn_.unlock();
}

void Group::serve_all() {
  if (!lease_.held()) return drop_gone();
  for (Connection *connection : std::exchange(parked_, {})) {  // whatever they waited for may have happened
    connection->parked = false;
    enqueue(*connection);
  }
  for (Connection *connection : std::exchange(readable_, {})) {
    connection->queued = false;
    serve(*connection);
  }
}

void Group::enqueue(Connection &connection) {
  if (!connection.queued) readable_.push_back(&connection);
  connection.queued = true;
}

bool Group::needs_room() const {
  return log_blocked_ || capture_.step_open() || capture_.spilled() || verifier_.running();
}

bool Group::needs_acks() const {
  if (needs_room() || (pairing_.is_apart() && in_sync())) return true;
  return std::any_of(volumes_.begin(), volumes_.end(), [](const auto &volume) {
    return !volume->received_waiters.empty() || !volume->flush_waiters.empty();
  });
}

int Group::wait_limit_ms() {
  int limit = wait_limit_without_timers_ms();
  const bool stopping = stopping_.load();  // nothing is begun any more, so that what is due stays so
  const int spill = capture_.spilling() && !stopping ? capture_.spilling()->wait_limit_ms(turn_ns_) : -1;
  const int marks = stopping ? -1 : marks_limit_ms();
  for (const int timer : {verifier_.wait_limit_ms(turn_ns_), marks, spill, lease_limit_ms(), held_limit_ms()})
    if (timer >= 0 && (limit < 0 || timer < limit)) limit = timer;
  return limit;
}

int Group::wait_limit_without_timers_ms() {
  const bool wants = needs_acks();
  peer_.want(needs_room() ? PeerMarks::kRoom : wants ? PeerMarks::kMarks : PeerMarks::kNothing);
  const bool serves = lease_.held();
  const bool readable = serves && !readable_.empty();
  if (readable || peer_.updates() != updates_seen_) return wants || readable ? 0 : kWatchMs;
  if (resync_waits_ || (serves && (log_blocked_ || !parked_.empty()))) return kRetryMs;
  if (watch_.outstanding() || wants) return kWatchMs;
  const bool stalled = std::any_of(connections_.begin(), connections_.end(), [](auto &entry) {
    return entry.second->mid_request() || entry.second->has_output();
  });
  return stalled ? 1000 : -1;
}

// Not while workers or the standby are to do something: they need the processors, and it takes them longer.
bool Group::is_patient() {
  if (patience_.worked()) patience_.rest(monotonic_ns());
  return operations_ == 0 && !watch_.outstanding() && patience_.lasts(turn_ns_);
}

// A single client is asked itself, which costs less than epoll; what others post is found without either.
bool Group::ask_again() {
  if (connections_.size() != 1 || connections_.begin()->first->parked) return false;
  Connection &connection = *connections_.begin()->first;
  connection.readable = true;
  enqueue(connection);
  return true;
}

void Group::wait(int limit_ms) {
  resync_waits_ = false;
  if (limit_ms != 0 && is_patient()) {
    if (ask_again()) return;
    limit_ms = 0;
  }
  waker_.prepare();
  // Not because of stopping_: its stop() has posted, and so does each worker that is waited for.
  if (tasks_pending_.load(std::memory_order_acquire) || outputs_left_.load() ||
      (needs_acks() && peer_.updates() != updates_seen_)) {
    waker_.cancel();
    limit_ms = 0;
  }
  epoll_event events[64];
  turn_.unlock();
  const int count = epoll_wait(epoll_.get(), events, 64, limit_ms);
  turn_.lock();
  bool woken = false;
  for (int i = 0; i < count; i++) {
    auto *connection = static_cast<Connection *>(events[i].data.ptr);
    if (!connection) {
      woken = true;
    } else {
      connection->readable = true;
      connection->hung_up |= (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
      enqueue(*connection);
      if (events[i].events & EPOLLOUT) touch(*connection);
    }
  }
  if (woken) {
    waker_.woken();
  } else {
    waker_.cancel();
  }
}

void Group::adopt(uint64_t id, ClientState state, Volume &volume) {
  auto connection = std::make_unique<Connection>(id, std::move(state), volume);
  connection->readable = true;
  connection->last_byte_ns = monotonic_ns();
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP | EPOLLET;
  event.data.ptr = connection.get();
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, connection->fd(), &event) != 0) return;
  volume.page.add(kConnections, 1);
  enqueue(*connection);
  connections_.emplace(connection.get(), std::move(connection));
}

void Group::touch(Connection &connection) {
  if (std::find(touched_.begin(), touched_.end(), &connection) == touched_.end()) touched_.push_back(&connection);
}

void Group::send_outputs() {
  std::vector<Connection *> touched;
  touched.swap(touched_);
  for (Connection *connection : touched) {
    if (!may_answer()) {
      touched_.push_back(connection);
      continue;
    }
    send_output(*connection);
    settle(*connection);
  }
  if (lease_.held() && turn_ns_ >= stall_check_ns_) drop_stalled();
}

// What the link thread could not send (answer_now).
void Group::take_left_outputs() {
  if (!outputs_left_.exchange(false, std::memory_order_acquire)) return;
  for (auto &entry : connections_)
    if (entry.first->has_output()) touch(*entry.first);
}

void Group::send_output(Connection &connection) {
  const size_t before = connection.output_bytes();
  const bool sent = connection.send();
  if (connection.output_bytes() < before) connection.last_byte_ns = turn_ns_;
  admission_.leave(connection);
  admission_.count(connection);
  if (connection.awaits_output && connection.output_bytes() < before) enqueue(connection);
  if (!sent == connection.polls_output) return;
  connection.polls_output = !sent;
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP | EPOLLET | (sent ? 0u : static_cast<uint32_t>(EPOLLOUT));
  event.data.ptr = &connection;
  (void)epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, connection.fd(), &event);
}

void Group::drop_stalled() {
  stall_check_ns_ = turn_ns_ + 1'000'000'000;
  for (auto entry = connections_.begin(); entry != connections_.end();) {
    Connection &connection = *(entry++)->second;
    if (connection.parked || connection.outstanding || !admission_.overdue(connection, turn_ns_)) continue;
    if (!connection.mid_request() && !connection.has_output()) continue;
    connection.closing = connection.dead = true;
    connection.failure = "the client stalled in the middle of a request";
    (void)connection.send();  // drops what it never read
    settle(connection);
  }
}

void Group::settle(Connection &connection) {
  if (!connection.closing || connection.outstanding) return;
  connection.wait_for_partings();
  if (connection.has_output() && !connection.dead) return;
  events_({"disconnected",
           {{"connection", static_cast<double>(connection.id)},
            {"volume", static_cast<double>(connection.volume.handle)},
            {"reason", connection.failure}},
           ""});
  (void)forget(connection);
}

std::unique_ptr<Connection> Group::forget(Connection &connection) {
  std::erase(readable_, &connection);
  std::erase(parked_, &connection);
  std::erase(touched_, &connection);
  admission_.forget(connection);
  connection.wait_for_partings();
  // Closing our descriptor would not do: the handshake's duplicate may still be open, and with it the registration.
  (void)epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, connection.fd(), nullptr);
  connection.volume.page.add(kConnections, ~uint64_t{0});
  return std::move(connections_.extract(&connection).mapped());
}

void Group::quiesce(std::function<void()> done) {
  quiescing_ = true;
  quiesced_.push_back(std::move(done));
}

void Group::resume() {
  quiescing_ = false;
  quiesced_.clear();
}

std::vector<ClientState> Group::take_clients(const Volume &volume) {
  std::vector<ClientState> taken;
  for (auto entry = connections_.begin(); entry != connections_.end();) {
    Connection &connection = *(entry++)->second;
    if (&connection.volume != &volume) continue;
    CHECK(quiescing_ && connection.outstanding == 0);
    const bool lives = !connection.dead;
    ClientState state = forget(connection)->give_up();
    if (lives) taken.push_back(std::move(state));
  }
  return taken;
}

void Group::attach(const AttachRequest &request) {
  if (request.fresh || request.all_dirty)
    for (auto &volume : volumes_)
      if (volume->marks) volume->marks->drop();
  auto attached = capture_.attach(request);
  if (!attached.ok()) {
    events_({"log", {{"level", std::string("error")}, {"message", "attach: " + attached.status.message}}, ""});
    return;
  }
  session_ = request.session;
  watch_.attached(turn_ns_);  // not later than the turn: it subtracts
  page_.set(kGroup_away, 0);
  if (attached.value.resumed) {
    resync_.session_changed(session_);
  } else {
    verifier_.cancel("the session was lost");
    resync_.cancel();
    resync_.start(session_, request.give_back ? Resync::Way::kTake : request.fresh ? Resync::Way::kFresh : Resync::Way::kSend);
  }
  capture_.publish();
  link_->start_records(session_, capture_.log(), attached.value.log_position);
  events_({"attached",
           {{"session", request.session}, {"mode", std::string(attached.value.resumed ? "resume" : "resync")}},
           ""});
}

void Group::session_lost(uint64_t session) {
  if (session != session_) return;
  session_ = 0;
  resync_.session_changed(0);
  verifier_.cancel("the session was lost");  // its results with it: they would be waited for until the next detach
}

void Group::detach(const char *reason) {
  verifier_.cancel("the standby is away");
  resync_.cancel();
  capture_.detach(reason, peer_.durable());
  session_ = 0;
}

// What differs is dirty from here on, so that clients' writes to it and the blocks that are resent have one order.
void Group::repair(Volume &volume, const std::vector<Range> &ranges) {
  capture_.open_step(false);
  for (const Range &range : ranges) {
    volume.resent.mark(range.start, range.end);
    volume.distrusted.mark(range.start, range.end);  // what was compared is what is sent
    volume.each_replicated(range.start, range.end, [&](uint64_t start, uint64_t end) { note_dirty(volume, start, end); });
    volume.each_left_out(range.start, range.end, [&](uint64_t start, uint64_t end) { capture_.record_left_out(volume, start, end); });
  }
  resync_.start(session_, Resync::Way::kSend);
  resync_.replan();
}

}  // namespace understudy::engine
