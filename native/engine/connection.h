// Connection: one NBD client in its transmission phase: bytes to requests, outcomes to replies. It knows the protocol,
// not what a request does. Engine thread only.
#pragma once
#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "core/fd.h"
#include "engine/block-status.h"
#include "engine/buffer.h"
#include "engine/volume.h"
#include "wire/nbd.h"

namespace understudy::engine {

struct Negotiated {
  bool structured_replies = false;
  bool extended_headers = false;
  uint32_t base_allocation_id = 0, replicated_id = 0, dirty_id = 0;  // of metadata contexts; 0: not selected
  bool read_only = false;
  bool any_context() const { return base_allocation_id || replicated_id || dirty_id; }
};

// A client at a request boundary, with nothing of it in flight: what another engine needs to go on with it.
struct ClientState {
  Fd socket;
  Negotiated negotiated;
  std::vector<uint8_t> unread;  // received and not carried out: whole requests, and the beginning of one
  std::vector<uint8_t> unsent;  // replies, in the order they are owed
  uint64_t skip_bytes = 0;      // payload of a refused WRITE that is still to come
  bool closing = false;         // it has sent its last request; what is unsent is still owed to it
  uint64_t connection = 0;      // its number here; where it is adopted it gets another
};

struct ParsedRequest {
  uint16_t type, flags;
  uint64_t cookie, offset, length;
  const uint8_t *payload;  // of a WRITE, `length` bytes
  size_t total_bytes;      // header and payload in the buffer
  uint64_t start_ns = 0;   // when the turn began in which it was carried out
};

class Connection {
 public:
  Connection(uint64_t id, ClientState state, Volume &volume);
  ClientState give_up();  // what is left is to be destroyed

  const uint64_t id;
  Volume &volume;
  const Negotiated negotiated;
  uint32_t outstanding = 0;   // requests not answered yet: a connection is not freed before that is 0
  bool closing = false;       // DISC or end of stream: no more requests, answer what is outstanding, close
  bool dead = false;          // the socket failed: answers are dropped
  bool parked = false;        // waits for a range lock, log room or a place: tried again every turn
  bool awaits_output = false; // waits for its client to read; tried again when it has
  bool readable = false;      // the kernel may have bytes for us
  bool drained = false;       // the last recv took all there was: the next bytes are announced (edge-triggered epoll)
  bool hung_up = false;       // the client has closed its sending side: read on to the end of the stream
  bool queued = false;        // is in the engine's list of connections to serve
  bool large = false;         // holds one of the places of Admission,
  bool large_queued = false;  // ... waits for one
  uint64_t large_since_ns = 0;
  size_t counted_bytes = 0;   // what Admission has counted of held_bytes()
  size_t cold_bytes = 0;      // of reads on workers
  size_t copied_bytes = 0;    // of writes on workers
  bool polls_output = false;  // epoll watches for EPOLLOUT
  uint64_t last_byte_ns = 0;  // when something was last received
  std::string failure;        // why it ended, if not by DISC

  int fd() const { return socket_.get(); }

  // One recv. False: nothing came (EAGAIN), or the stream has ended (closing/dead is set).
  bool receive();

  enum class Parse { kRequest, kIncomplete, kInvalid, kBroken };
  // kRequest: a whole request, to be consumed with done() when it was executed, or left for later.
  // kInvalid: a WRITE too large to take; answer EINVAL, its payload is skipped as it comes. kBroken: close.
  Parse next(ParsedRequest &request);
  void done(const ParsedRequest &request) { in_.consume(request.total_bytes); }
  bool mid_request() const { return !in_.empty() || skip_bytes_ != 0; }

  // Replies; they leave with send().
  void reply(uint16_t type, uint64_t cookie, uint64_t offset, uint32_t error);
  // Room for a successful READ's data; cancel_read_reply() takes it back, with its header.
  uint8_t *begin_read_reply(uint64_t cookie, uint64_t offset, size_t bytes);
  void cancel_read_reply(size_t bytes);
  // A chunk for each context that was selected. `one`: of one extent.
  void reply_block_status(uint64_t cookie, uint64_t offset, uint64_t length, bool one);

  // Sends what is queued. False: the socket is full, wait until it can be written to.
  bool send();
  bool has_output() const { return output_bytes() != 0; }
  size_t output_bytes() const { return out_.size() + left_bytes_; }

  // The same by a thread that holds the turn only for the first half (Group::answer_now): whoever is woken by what it
  // sends may want the turn at once. Until it has ended send() waits for it, and so does whoever frees the connection.
  struct Parting {
    Connection *connection;
    std::unique_lock<std::mutex> sending;
    std::vector<uint8_t> bytes;
    bool send();  // without the turn. False: not all of it was taken; the rest is output again
  };
  Parting part();  // not while there is something left
  bool has_left() const { return left_bytes_ != 0; }
  void wait_for_partings() { const std::lock_guard sending(sending_); }
  size_t wanted_bytes() const { return wanted_bytes_; }  // still missing of the request at the front
  size_t held_bytes() const { return in_.size() + out_.size() + cold_bytes + copied_bytes; }

 private:
  size_t header_bytes() const { return negotiated.extended_headers ? sizeof(nbd::ExtendedRequest) : sizeof(nbd::Request); }
  bool parse_header(ParsedRequest &request);
  void put_chunk(uint16_t flags, uint16_t type, uint64_t cookie, uint64_t offset, uint64_t bytes);
  void put_extents(uint16_t flags, uint64_t cookie, uint64_t offset, uint32_t context, const StatusExtents &extents);
  void put_error(uint64_t cookie, uint64_t offset, uint32_t error);
  void take_back_left();

  Fd socket_;
  Buffer in_{256u << 10};
  Buffer out_{64u << 10};
  std::mutex sending_;                  // of the socket's sending side, and of
  std::vector<uint8_t> left_;           // what a parting thread has not sent: it goes first
  std::atomic<size_t> left_bytes_{0};   // of left_
  size_t wanted_bytes_ = 0;   // still missing of the request at the front
  uint64_t skip_bytes_ = 0;   // payload of a refused WRITE that is still to come
};

}  // namespace understudy::engine
