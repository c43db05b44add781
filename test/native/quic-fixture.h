// What the tests of native/quic share: TAP, an endpoint with a handler that writes down what happened, and a source
// and a sink of records whose bytes are a function of their offset.
#pragma once
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/clock.h"
#include "quic/endpoint.h"

namespace understudy::quic {

inline int g_tests = 0, g_failures = 0;
inline void ok(bool good, const std::string &title) {
  printf("%s %d - %s\n", good ? "ok" : "not ok", ++g_tests, title.c_str());
  fflush(stdout);
  if (!good) g_failures++;
}
inline int done_testing() {
  printf("1..%d\n", g_tests);
  return g_failures ? 1 : 0;
}

// The pattern: 64-bit words derived from their offset, so that a shifted or repeated piece is seen.
inline uint64_t pattern_word(uint64_t index) {
  uint64_t x = (index + 1) * 0x9e3779b97f4a7c15ull;
  return x ^ (x >> 29);
}

// As the replication log does it: a ring, mapped in one piece, that is overwritten as soon as acked() allows.
class PatternSource : public RecordSource {
 public:
  explicit PatternSource(uint64_t total, size_t ring_bytes = 4u << 20) : total_(total), ring_(ring_bytes / 8) {}
  size_t peek(uint64_t offset, const uint8_t **data) override {
    CHECK(!closed);
    const uint64_t ring_bytes = ring_.size() * 8;
    while (filled_ < total_ && filled_ + 8 <= acked_ + ring_bytes) {  // fills what was acknowledged
      ring_[filled_ / 8 % ring_.size()] = pattern_word(filled_ / 8);
      filled_ += 8;
    }
    CHECK(offset >= acked_ && offset <= filled_);
    const uint64_t at = offset % ring_bytes;
    *data = reinterpret_cast<const uint8_t *>(ring_.data()) + at;
    return static_cast<size_t>(std::min({filled_ - offset, ring_bytes - at, total_ - std::min<uint64_t>(total_, offset)}));
  }
  void acked(uint64_t offset) override {
    CHECK(!closed);
    CHECK(offset >= acked_ && offset <= total_);
    acked_ = offset;
  }
  void grow(uint64_t bytes) { total_ += bytes; }  // by multiples of 8; any thread
  std::atomic<bool> closed{false};

 private:
  std::atomic<uint64_t> total_;
  std::vector<uint64_t> ring_;
  uint64_t filled_ = 0, acked_ = 0;
};

struct SessionLog {
  bool established = false, closed = false;
  CloseReason reason{};
  std::string text, fingerprint, address, control;
  uint64_t records = 0, packet_bytes = 0, lost = 0;
  size_t moves = 0;
  bool damaged = false;
  uint64_t closed_at = 0;
};

// A handler; every field but the hooks is read through with().
class Recorder : public SessionHandler {
 public:
  std::function<void(Session &)> on_established, on_turn;
  std::function<void(Session &, std::span<const uint8_t>)> on_control;
  std::atomic<bool> consume{true};
  std::atomic<uint64_t> turns{0}, packets_sent{0};

  void established(Session &session) override {
    update(session, [&](SessionLog &log) {
      log.established = true;
      log.fingerprint = session.peer_fingerprint;
    });
    if (on_established) on_established(session);
  }
  void control_received(Session &session, std::span<const uint8_t> bytes) override {
    update(session,
           [&](SessionLog &log) { log.control.append(reinterpret_cast<const char *>(bytes.data()), bytes.size()); });
    if (on_control) on_control(session, bytes);
  }
  void records_received(Session &session, std::span<const uint8_t> bytes) override {
    update(session, [&](SessionLog &log) {
      for (size_t i = 0; i < bytes.size();) {
        const uint64_t word = pattern_word(log.records / 8);
        const size_t at = log.records % 8, count = std::min(8 - at, bytes.size() - i);
        log.damaged |= memcmp(bytes.data() + i, reinterpret_cast<const uint8_t *>(&word) + at, count) != 0;
        log.records += count;
        i += count;
      }
      log.packet_bytes = session.stats.packet_bytes;
    });
    owed_[session.id] += bytes.size();
    if (consume) pay(session);
  }
  void moved(Session &session) override {
    update(session, [](SessionLog &log) { log.moves++; });
  }
  void turn(Session &session) override {
    turns++;
    packets_sent = session.stats.packets_sent.load();
    if (consume) pay(session);
    if (on_turn) on_turn(session);
  }
  void closed(Session &session, CloseReason reason, const std::string &text) override {
    update(session, [&](SessionLog &log) {
      log.closed = true;
      log.reason = reason;
      log.text = text;
      log.address = session.peer_address;
      log.packet_bytes = session.stats.packet_bytes;
      log.lost = session.stats.packets_lost;
      log.closed_at = monotonic_ns();
    });
  }

  bool wait(double seconds, const std::function<bool(std::map<SessionId, SessionLog> &)> &until) {
    std::unique_lock lock(mutex_);
    // Four times as long as it says: a machine that others use, too, makes no test fail.
    return changed_.wait_for(lock, std::chrono::duration<double>(4 * seconds), [&] { return until(logs_); });
  }
  SessionLog first() {
    std::lock_guard lock(mutex_);
    return logs_.empty() ? SessionLog{} : logs_.begin()->second;
  }
  SessionLog of(SessionId id) {
    std::lock_guard lock(mutex_);
    return logs_[id];
  }
  size_t count() {
    std::lock_guard lock(mutex_);
    return logs_.size();
  }

 private:
  void pay(Session &session) {
    const size_t bytes = std::exchange(owed_[session.id], 0);
    session.records_consumed(bytes);
  }
  void update(Session &session, const std::function<void(SessionLog &)> &change) {
    std::lock_guard lock(mutex_);
    change(logs_[session.id]);
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<SessionId, SessionLog> logs_;
  std::map<SessionId, size_t> owed_;  // link thread
};

using Logs = std::map<SessionId, SessionLog>;
inline bool any(const Logs &logs, const std::function<bool(const SessionLog &)> &test) {
  for (auto &[id, log] : logs)
    if (test(log)) return true;
  return false;
}

inline Identity must_identity() {
  Result<Identity> identity = create_identity();
  CHECK(identity.ok());
  return identity.value;
}
inline std::string must_fingerprint(const Identity &identity) {
  Result<std::string> fingerprint = identity_fingerprint(identity);
  CHECK(fingerprint.ok());
  return fingerprint.value;
}

// One endpoint with its recorder. The recorder must outlive it: the order of the fields.
struct Host {
  Identity identity = must_identity();
  std::string fingerprint = must_fingerprint(identity);
  EndpointOptions options;
  Recorder seen;
  std::unique_ptr<Endpoint> endpoint;

  void open(const std::string &listen_host = "") {
    options.identity = identity;
    options.listen_host = listen_host;
    Result<std::unique_ptr<Endpoint>> opened = Endpoint::open(options, seen);
    if (!opened.ok()) {
      printf("Bail out! %s\n", opened.status.message.c_str());
      exit(1);
    }
    endpoint = std::move(opened.value);
  }
  uint16_t port() const { return endpoint->local_port(); }
};

// A master and a standby that know each other.
struct Pair {
  Host standby, master;
  void open() {
    standby.open("127.0.0.1");
    standby.endpoint->allow({master.fingerprint});
    master.open();
  }
  SessionId connect(uint16_t port = 0) {
    return master.endpoint->connect("127.0.0.1", port ? port : standby.port(), standby.fingerprint);
  }
};

}  // namespace understudy::quic
