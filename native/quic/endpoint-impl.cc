#include "quic/endpoint-impl.h"

#include <poll.h>
#include <sys/prctl.h>

#include <algorithm>
#include <cerrno>

#include "core/check.h"
#include "core/clock.h"
#include "core/memory-guard.h"
#include "core/thread.h"
#include "quic/random.h"

namespace understudy::quic {
namespace {
constexpr uint64_t kNapNs = 150'000;  // how long records that nobody waits for may gather
// For a while after a guest the link thread sleeps no longer than this, so that the timers that the next ones leave behind
// (that of a lost packet is at least 6 ms away) are not earlier, and no guest has to wake it for them.
constexpr uint64_t kGuestsSleepNs = 1'000'000, kGuestsStayNs = 20'000'000;
}  // namespace

SessionId next_session_id() {
  static std::atomic<SessionId> next{1};
  return next.fetch_add(1, std::memory_order_relaxed);
}

Result<std::unique_ptr<Endpoint>> Endpoint::open(const EndpointOptions &options, SessionHandler &handler) {
  auto endpoint = std::make_unique<EndpointImpl>(options, handler);
  if (Status status = endpoint->start(); !status.ok()) return status;
  return std::unique_ptr<Endpoint>(std::move(endpoint));
}

EndpointImpl::EndpointImpl(const EndpointOptions &options, SessionHandler &handler)
    : options_(options), handler_(handler), batch_buffer_(new uint8_t[kBatchBytesMax + kDatagramBytesMax]) {}

EndpointImpl::~EndpointImpl() {
  stopping_.store(true, std::memory_order_release);
  waker_.wake();
  if (thread_.joinable()) thread_.join();
  resolver_.stop();
}

Status EndpointImpl::start() {
  if (options_.idle_timeout_ns < 100'000'000) return Status::failed(EINVAL, "endpoint: idle timeout below 0.1 s");
  if (options_.record_window_bytes < kHandshakePacketBytes) return Status::failed(EINVAL, "endpoint: record window");
  Result<std::shared_ptr<Credentials>> credentials = Credentials::create(options_.identity);
  if (!credentials.ok()) return credentials.status;
  credentials_ = std::move(credentials.value);
  if (Status status = open_listeners(); !status.ok()) return status;
  // Without a port of its own a restarted endpoint is another one: a random seed makes its tokens so.
  std::string seed = options_.identity.key_pem;
  if (local_port_ != 0) {
    seed += sockets_.front()->local().text();
  } else {
    uint8_t noise[32];
    fill_random(noise, sizeof noise);
    seed.assign(reinterpret_cast<char *>(noise), sizeof noise);
  }
  stateless_ = std::make_unique<StatelessReplies>(seed);
  thread_ = start_thread("us-link", [this] { run(); });
  return Status::good();
}

Status EndpointImpl::open_listeners() {
  if (options_.listen_host.empty()) return Status::good();
  Result<std::vector<Address>> addresses = look_up(options_.listen_host, options_.listen_port, Lookup::kNames);
  if (!addresses.ok()) return addresses.status;
  Status first_failure;
  for (Address &address : addresses.value) {
    if (sockets_.size() == kListenAddressesMax) break;
    if (local_port_ != 0) address.set_port(local_port_);
    const bool both = address.family() == AF_INET6 && address.is_any();
    Result<std::unique_ptr<UdpSocket>> socket = UdpSocket::open(address, {both, false});
    if (!socket.ok()) {
      if (first_failure.ok()) first_failure = socket.status;
      continue;
    }
    local_port_ = socket.value->local().port();
    sockets_.push_back(std::move(socket.value));
  }
  // A name may have addresses that are not ours (an IPv6 one where IPv6 is off): one that works is enough.
  return sockets_.empty() ? first_failure : Status::good();
}

Status EndpointImpl::open_dialer() {
  if (dialer_) return Status::good();
  Result<std::unique_ptr<UdpSocket>> socket = UdpSocket::open(Address::any(AF_INET6, 0), {true, true});
  if (!socket.ok()) socket = UdpSocket::open(Address::any(AF_INET, 0), {false, true});
  if (!socket.ok()) return socket.status;
  sockets_.push_back(std::move(socket.value));
  dialer_ = sockets_.back().get();
  return Status::good();
}

bool EndpointImpl::is_allowed(const std::string &fingerprint) {
  std::lock_guard lock(mutex_);
  return allowed_.count(fingerprint) > 0;
}

void EndpointImpl::allow(std::set<std::string> fingerprints) {
  {
    std::lock_guard lock(mutex_);
    allowed_ = std::move(fingerprints);
  }
  post([this] {
    for (auto &[id, session] : sessions_)
      if (!session->outgoing && session->established() && !is_allowed(session->peer_fingerprint))
        session->refuse_key("the key " + session->peer_fingerprint + " is not allowed here any more");
  });
}

void EndpointImpl::set_identity(const Identity &identity) {
  post([this, identity] {
    // An identity comes from create_identity() or was read by identity_fingerprint(): a bad one leaves the old.
    Result<std::shared_ptr<Credentials>> credentials = Credentials::create(identity);
    if (credentials.ok()) credentials_ = std::move(credentials.value);
  });
}

SessionId EndpointImpl::connect(const std::string &host, uint16_t port, const std::string &expected_fingerprint) {
  const SessionId id = next_session_id();
  post([=, this] { start_session(id, host, port, expected_fingerprint); });
  return id;
}

void EndpointImpl::start_session(SessionId id, const std::string &host, uint16_t port, const std::string &fingerprint) {
  auto session = std::make_unique<SessionImpl>(*this, id, true);
  SessionImpl &added = *session;
  sessions_.emplace(id, std::move(session));
  added.expect(host + ":" + std::to_string(port), fingerprint, monotonic_ns());
  if (Status status = open_dialer(); !status.ok()) {
    added.fail("connect: " + status.message);
    return;
  }
  Result<std::vector<Address>> addresses = look_up(host, port, Lookup::kNumericOnly);
  if (addresses.ok()) {
    added.dial(std::move(addresses.value), *dialer_);
    return;
  }
  const bool asked = resolver_.ask(host, port, [this, id](Result<std::vector<Address>> answer) {
    post([this, id, answer = std::move(answer)]() mutable {
      auto found = sessions_.find(id);
      if (found == sessions_.end() || found->second->is_ending()) return;
      if (!answer.ok()) found->second->fail("connect: " + answer.status.message);
      else found->second->dial(std::move(answer.value), *dialer_);
    });
  });
  if (!asked) added.fail("connect: " + host + ": too many names are being looked up");
}

void EndpointImpl::post(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    if (closed_for_tasks_) return;
    tasks_.push_back(std::move(task));
    has_tasks_.store(true, std::memory_order_release);
  }
  waker_.wake();
}

void EndpointImpl::close(SessionId session, const std::string &text) {
  post([this, session, text] {
    if (Session *found = find(session)) found->close(text);
  });
}

void EndpointImpl::request(Request request) {
  // The fence orders what was published before against the flag: a flag that is still set will be seen after it.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  uint8_t now = requested_.load(std::memory_order_relaxed);
  while (now < request && !requested_.compare_exchange_weak(now, request, std::memory_order_release)) {
  }
  request == kUrgent ? waker_.wake() : waker_.wake_lazily();
}

Session *EndpointImpl::find(SessionId session) {
  auto found = sessions_.find(session);
  return found == sessions_.end() ? nullptr : found->second.get();
}

void EndpointImpl::turn_now(SessionId session) {
  if (!serve_as_guest(session)) wake();
}

// Whether that was all there is to do.
bool EndpointImpl::serve_as_guest(SessionId id) {
  thread_local Parting parting;
  std::unique_lock turn(turn_, std::try_to_lock);
  if (!turn) return false;
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return false;
  SessionImpl &session = *found->second;
  if (!session.established() || session.is_ending() || session.blocked()) return false;
  if (session.records_ready() > kLittleBytes) return false;
  last_guest_ns_ = monotonic_ns();
  parting.bytes.clear();
  session.leave_sending_to(&parting);
  const bool more = serve(session);
  session.leave_sending_to(nullptr);
  const bool was_all = !more && !session.is_ending() && !session.blocked() &&
                       std::min(session.deadline(), session.turn_due) >= sleeps_until_;
  turn.unlock();
  // What the socket does not take is lost, as packets may be: the link thread repeats it.
  if (!parting.bytes.empty() && parting.socket->send(parting.batch).outcome != SendOutcome::kSent) return false;
  return was_all;
}

void EndpointImpl::run() {
  prctl(PR_SET_TIMERSLACK, 1000ul, 0, 0, 0);  // 1 us: pacing needs better than the usual 50
  std::unique_lock turn(turn_);
  while (!stopping_.load(std::memory_order_acquire)) {
    memory_guard::enter();
    if (!this->turn() && !is_patient()) sleep(turn);
  }
  run_tasks();
  {
    std::lock_guard lock(mutex_);
    closed_for_tasks_ = true;
    tasks_.clear();
  }
  for (auto &[id, session] : sessions_) session->close("the other side is shutting down");
  reap();
}

// Returns whether there is more to do at once.
bool EndpointImpl::turn() {
  run_tasks();
  const bool more_to_read = receive();
  serve_timers(monotonic_ns());
  const bool more_to_write = serve_sessions();
  reap();
  return more_to_read || more_to_write;
}

bool EndpointImpl::is_patient() {
  const uint64_t now = monotonic_ns();
  if (patience_.worked()) patience_.rest(now);
  return patience_.lasts(now);
}

void EndpointImpl::run_tasks() {
  // acquire: what was published before wake() is visible to the handlers' turn().
  const uint8_t requested = requested_.load(std::memory_order_relaxed) ? requested_.exchange(kNothing) : uint8_t{kNothing};
  bool everybody = requested != kNothing;
  may_nap_ |= requested == kLazy;
  if (has_tasks_.load(std::memory_order_acquire)) {
    std::vector<std::function<void()>> tasks;
    {
      std::lock_guard lock(mutex_);
      tasks.swap(tasks_);
      has_tasks_.store(false, std::memory_order_relaxed);
    }
    for (std::function<void()> &task : tasks) task();
    everybody = true;
  }
  if (!everybody) return;
  for (auto &[id, session] : sessions_) session->dirty = true;
}

void EndpointImpl::serve_timers(uint64_t now) {
  for (auto &[id, session] : sessions_) {
    if (session->turn_due <= now) {
      session->turn_due = UINT64_MAX;
      session->dirty = true;
    }
    if (session->deadline() <= now) session->on_timer(now);
  }
}

bool EndpointImpl::serve_sessions() {
  bool more = false;
  for (auto &[id, session] : sessions_) {
    if (session->dirty && !session->is_ending()) more |= serve(*session);
  }
  return more;
}

// Returns whether it has more to send at once.
bool EndpointImpl::serve(SessionImpl &session) {
  if (session.established()) handler_.turn(session);
  const bool more = session.write(monotonic_ns()) == SessionImpl::Written::kMore;
  session.dirty |= more;
  session.update_deadline();
  return more;
}

void EndpointImpl::reap() {
  for (auto at = sessions_.begin(); at != sessions_.end();) {
    if (!at->second->is_ending()) {
      ++at;
      continue;
    }
    std::unique_ptr<SessionImpl> session = std::move(at->second);
    at = sessions_.erase(at);
    if (!session->outgoing) incoming_--;
    SessionImpl::Farewell farewell = session->say_farewell(monotonic_ns());
    if (session->socket() && !farewell.connection_ids.empty()) {
      auto grave =
          std::make_shared<Grave>(Grave{session->socket(), std::move(farewell.packet), farewell.local, farewell.remote,
                                        std::move(farewell.connection_ids), farewell.keep_until});
      for (const ngtcp2_cid &cid : grave->connection_ids) routes_[cid] = {nullptr, grave};
      graves_.push_back(grave);
      visit_grave(*grave);  // says it the first time
    }
    handler_.closed(*session, farewell.reason, farewell.text);
  }
  while (!graves_.empty() && (graves_.size() > kGravesMax || graves_.front()->keep_until <= monotonic_ns())) {
    for (const ngtcp2_cid &cid : graves_.front()->connection_ids) routes_.erase(cid);
    graves_.pop_front();
  }
}

void EndpointImpl::sleep(std::unique_lock<std::mutex> &turn) {
  pollfd polled[kListenAddressesMax + 2];
  size_t count = 0;
  for (auto &socket : sockets_) polled[count++] = {socket->fd(), POLLIN, 0};
  uint64_t deadline = graves_.empty() ? UINT64_MAX : graves_.front()->keep_until;
  bool anyone_dirty = false;
  for (auto &[id, session] : sessions_) {
    anyone_dirty |= session->dirty || session->is_ending();
    deadline = std::min({deadline, session->deadline(), session->turn_due});
    for (size_t i = 0; session->blocked() && i < sockets_.size(); i++)
      if (sockets_[i].get() == session->socket()) polled[i].events |= POLLOUT;
  }
  const bool nap = std::exchange(may_nap_, false);
  waker_.prepare(nap ? Waker::kNap : Waker::kSleep);
  if (anyone_dirty || has_tasks_.load(std::memory_order_acquire) || stopping_.load(std::memory_order_acquire) ||
      requested_.load(std::memory_order_acquire) > (nap ? kLazy : kNothing)) {
    waker_.cancel();
    return;
  }
  polled[count++] = {waker_.fd(), POLLIN, 0};
  const uint64_t now = monotonic_ns();
  if (nap) deadline = std::min(deadline, now + kNapNs);
  if (now < last_guest_ns_ + kGuestsStayNs) deadline = std::min(deadline, now + kGuestsSleepNs);
  sleeps_until_ = deadline;
  const uint64_t wait = deadline > now ? std::min<uint64_t>(deadline - now, 60'000'000'000) : 0;
  const timespec timeout{static_cast<time_t>(wait / 1'000'000'000), static_cast<long>(wait % 1'000'000'000)};
  turn.unlock();
  const int ready = ppoll(polled, count, &timeout, nullptr);
  turn.lock();
  polled[count - 1].revents ? waker_.woken() : waker_.cancel();
  if (ready <= 0) return;
  for (size_t i = 0; i < sockets_.size(); i++) {
    if (polled[i].revents & POLLERR)
      sockets_[i]->take_errors([this](const Address &remote, int error) {
        for (auto &[id, session] : sessions_) session->address_refused(remote, error);
      });
    if (!(polled[i].revents & POLLOUT)) continue;
    for (auto &[id, session] : sessions_)
      if (session->blocked() && session->socket() == sockets_[i].get()) session->socket_writable();
  }
}

}  // namespace understudy::quic
