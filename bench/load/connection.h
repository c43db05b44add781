// One connection that keeps `depth` requests in flight: sends all that may be sent in one system call, takes all that
// has come in one. Costs two system calls and one look at the clock a batch, whatever its size.
//
// What is written carries, every 4 KiB, the place it was written to and a number of its own, so that data in the wrong
// place shows (--verify, and test/e2e/load-generator.test.ts).
#pragma once
#include <sys/uio.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "histogram.h"
#include "options.h"
#include "places.h"
#include "wire/nbd.h"

namespace understudy::bench {

struct Totals {
  uint64_t reads = 0, writes = 0, flushes = 0, errors = 0;
  uint64_t wrong = 0;  // 4 KiB pieces read that are neither zero nor stamped with their place
  Histogram read_ns, write_ns, flush_ns;
};

// How many more requests may be begun, by all connections together.
struct Budget {
  uint64_t requests_left;
  bool over = false;  // time is up
  bool exhausted() const { return over || requests_left == 0; }
};

class Connection {
 public:
  Connection(const Options &options, int fd, uint64_t export_bytes, unsigned index);
  ~Connection();
  Connection(const Connection &) = delete;

  bool possible() const { return places_.possible(); }
  int fd() const { return fd_; }
  bool unsent() const { return first_unsent_ < unsent_.size(); }
  bool in_flight() const { return free_.size() < slots_.size(); }

  // All return false when the connection is of no more use: error() says why.
  bool begin(uint64_t now_ns, Budget &budget);  // makes requests for all free slots, sends what it can
  bool send_more();
  bool receive(bool may_wait, Totals &totals);  // one recv
  const std::string &error() const { return error_; }

 private:
  struct Slot {
    uint64_t begun_ns, offset;
    uint16_t type;
    uint8_t *request;  // header, and the payload of a write behind it
  };

  void make_request(uint64_t now_ns, uint16_t type);
  void stamp(uint8_t *payload, uint64_t offset);
  size_t take(size_t bytes, uint64_t now_ns, Totals &totals);
  size_t take_payload(const uint8_t *data, size_t bytes, Totals &totals);
  bool take_reply(const nbd::SimpleReply &reply, uint64_t now_ns, Totals &totals);
  void end_request(size_t slot, uint64_t now_ns, Totals &totals);
  bool fail(const std::string &what);

  const Options &options_;
  const int fd_;
  Places places_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;  // the one freed last is used first: it is in the cache
  std::unique_ptr<uint8_t, decltype(&std::free)> requests_;

  std::vector<iovec> unsent_;
  size_t first_unsent_ = 0;

  std::vector<uint8_t> received_;
  size_t received_bytes_ = 0;  // at its start, not taken yet

  uint64_t payload_left_ = 0, payload_at_ = 0;  // of the read that is being received; its place on the device
  size_t payload_slot_ = 0;
  unsigned writes_since_flush_ = 0;
  bool flushing_ = false;
  uint64_t stamps_ = 0;
  std::string error_;
};

uint64_t now_ns();  // monotonic

}  // namespace understudy::bench
