// Admission: what all clients of a group together can make the engine hold, whatever they send or leave unread (G7).
//
//   a large request      (above kLargeBytes)  needs one of kPlaces places; the others wait in the order they came
//   all that is held     up to kHeldMax: each client may have kOutputMax of replies unread
//                        beyond: kOutputLow, and requests above kSmallBytes need a place too
//   a place is given up  when its request is done and its reply has left; while others wait, also when its client
//                        moves no byte for kStalledNs, or takes longer than kPlaceNs for one request: it is dropped
//
// Not here: what a single small request takes, and the buffers of the sockets. Engine thread only.
#pragma once
#include <deque>

#include "engine/connection.h"

namespace understudy::engine {

class Admission {
 public:
  static constexpr uint64_t kLargeBytes = 1u << 20;
  static constexpr size_t kPlaces = 8;

  // Whether memory for `bytes` may be taken now. False: ask again, the client keeps its turn.
  bool admit(Connection &connection, uint64_t bytes, uint64_t now_ns) {
    if (connection.large) return true;
    if (!needs_place(bytes)) {
      withdraw(connection);
      return true;
    }
    if (!connection.large_queued) waiting_.push_back(&connection);
    connection.large_queued = true;
    if (taken_ >= kPlaces || waiting_.front() != &connection) return false;
    waiting_.pop_front();
    connection.large_queued = false;
    connection.large = true;
    connection.large_since_ns = now_ns;
    taken_++;
    return true;
  }
  // A request is done, but for its reply: the next one of this client comes after those that wait.
  void finished(Connection &connection, const ParsedRequest &request, uint64_t now_ns) {
    if (!connection.large || request.length <= kSmallBytes) return;
    connection.large_since_ns = now_ns;
    if (request.type != nbd::kWrite || waiting_.empty() || connection.copied_bytes) return;
    connection.large = false;
    taken_--;
  }
  // Nothing that needed the place is left.
  void leave(Connection &connection) {
    if (!connection.large || connection.has_output() || connection.outstanding || connection.wanted_bytes()) return;
    connection.large = false;
    taken_--;
  }
  void forget(Connection &connection) {
    if (connection.large) taken_--;
    withdraw(connection);
    held_bytes_ -= connection.counted_bytes;
  }

  bool output_full(const Connection &connection) const {
    return connection.output_bytes() > (crowded() ? kOutputLow : kOutputMax);
  }
  void count(Connection &connection) {
    held_bytes_ += connection.held_bytes() - connection.counted_bytes;
    connection.counted_bytes = connection.held_bytes();
  }
  // Of a client that is in the middle of something: whether it has been for too long.
  bool overdue(const Connection &connection, uint64_t now_ns) const {
    const bool hinders = connection.large && !waiting_.empty();
    if (hinders && now_ns > connection.large_since_ns + kPlaceNs) return true;
    return now_ns > connection.last_byte_ns + (hinders ? kHinderingNs : kStalledNs);
  }

 private:
  static constexpr uint64_t kSmallBytes = 64u << 10;
  static constexpr size_t kOutputMax = 4u << 20, kOutputLow = 256u << 10;
  static constexpr size_t kHeldMax = 128u << 20;
  static constexpr uint64_t kStalledNs = 60'000'000'000, kHinderingNs = 5'000'000'000, kPlaceNs = 30'000'000'000;

  bool crowded() const { return held_bytes_ > kHeldMax; }
  bool needs_place(uint64_t bytes) const { return bytes > (crowded() ? kSmallBytes : kLargeBytes); }
  void withdraw(Connection &connection) {
    if (connection.large_queued) std::erase(waiting_, &connection);
    connection.large_queued = false;
  }

  std::deque<Connection *> waiting_;
  size_t taken_ = 0;
  size_t held_bytes_ = 0;  // as of the last count() of each client
};

}  // namespace understudy::engine
