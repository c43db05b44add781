// What each NBD request does: validated once, carried out inline or on a worker, captured, answered.
#include <algorithm>
#include <cerrno>

#include "core/breakage.h"
#include "core/clock.h"
#include "engine/group.h"
#include "engine/slab.h"

namespace understudy::engine {

using nbd::Command;
using wire::RecordType;

namespace {
constexpr int kReceivesPerTurn = 8;              // of one client, so that others get their turn
constexpr uint64_t kInlineZeroBytes = 1u << 20;  // a larger zero or trim goes to a worker
// Of replies to reads that leave in one call, about what a socket takes: more would leave the processor's cache before it
// is sent, and be moved as the buffer grows. One that is larger leaves alone.
constexpr size_t kReadsTogetherBytes = 240u << 10;
constexpr size_t kOnWorkersMax = 4u << 20;       // of one client's reads and writes there; a single larger one is fine
constexpr uint32_t kOutstandingMax = 16384;      // unanswered requests of one client

bool is_write_like(uint16_t type) { return type == nbd::kWrite || type == nbd::kTrim || type == nbd::kWriteZeroes; }

uint16_t allowed_flags(uint16_t type, const Negotiated &negotiated) {
  const bool chunks = negotiated.structured_replies || negotiated.extended_headers;
  switch (type) {
    case nbd::kRead: return chunks ? nbd::kDontFragment | nbd::kFua : nbd::kFua;
    case nbd::kWrite: return negotiated.extended_headers ? nbd::kFua | nbd::kPayloadLength : nbd::kFua;
    case nbd::kTrim: return nbd::kFua;
    case nbd::kWriteZeroes: return nbd::kFua | nbd::kNoHole | nbd::kFastZero;
    case nbd::kBlockStatus: return nbd::kRequestOne | nbd::kFua;
    default: return nbd::kFua;  // meaningless there, harmless everywhere (proto.md: clients may set it on any command)
  }
}
// A large request goes there alone, as a client with one has one of the places of Admission.
bool fits_on_workers(const Connection &connection, size_t bytes, bool writes) {
  const size_t there = connection.cold_bytes + connection.copied_bytes;
  return there == 0 || (there + bytes <= kOnWorkersMax && !(writes && bytes > Admission::kLargeBytes));
}
}  // namespace

void Group::serve(Connection &connection) {
  connection.awaits_output = false;
  for (int receives = 0; !connection.parked && !connection.awaits_output; receives++) {
    ParsedRequest request;
    for (;;) {
      if (admission_.output_full(connection)) {
        connection.awaits_output = true;
        break;
      }
      if (quiescing_ || connection.outstanding >= kOutstandingMax) {
        connection.parked = true;
        break;
      }
      const Connection::Parse parse = connection.closing && connection.dead ? Connection::Parse::kIncomplete
                                                                            : connection.next(request);
      if (parse == Connection::Parse::kIncomplete) break;
      if (parse == Connection::Parse::kBroken) {
        connection.closing = connection.dead = true;
        break;
      }
      if (parse == Connection::Parse::kInvalid) {
        connection.reply(request.type, request.cookie, request.offset, nbd::kEinval);
        connection.done(request);
        continue;
      }
      if (request.type == nbd::kDisconnect) {
        connection.done(request);
        connection.closing = true;
        connection.failure.clear();
        break;
      }
      request.start_ns = turn_ns_;
      const Outcome outcome = execute(connection, request);
      connection.parked = outcome == Outcome::kPark;
      connection.awaits_output = outcome == Outcome::kAwaitOutput;
      if (outcome != Outcome::kDone) break;
      connection.done(request);
      admission_.finished(connection, request, turn_ns_);
    }
    if (connection.closing || connection.parked || connection.awaits_output) break;
    if (!connection.readable) break;
    if (receives == kReceivesPerTurn) {
      enqueue(connection);
      break;
    }
    if (!admission_.admit(connection, connection.wanted_bytes(), turn_ns_)) {
      connection.parked = true;
      break;
    }
    if (!connection.receive()) {
      connection.readable = false;
      if (connection.closing) break;
    } else {
      patience_.rewarded(turn_ns_);
      connection.last_byte_ns = turn_ns_;
      connection.readable = !connection.drained || connection.hung_up;
    }
  }
  if (connection.parked) parked_.push_back(&connection);
  admission_.count(connection);
  touch(connection);
}

uint32_t Group::validate(const Connection &connection, const ParsedRequest &request) const {
  const DeviceTraits &traits = connection.volume.device->traits();
  if (is_write_like(request.type) && (connection.negotiated.read_only || connection.volume.read_only))
    return nbd::kEperm;
  if (request.type > nbd::kBlockStatus || (request.flags & ~allowed_flags(request.type, connection.negotiated))) return nbd::kEinval;
  if (request.type == nbd::kFlush) return nbd::kOk;
  const uint64_t size = connection.volume.size_bytes;
  if (request.offset > size || request.length > size - request.offset)
    return request.type == nbd::kWrite || request.type == nbd::kWriteZeroes ? nbd::kEnospc : nbd::kEinval;
  if (request.offset % traits.block_bytes_min || request.length % traits.block_bytes_min) return nbd::kEinval;
  if (request.type == nbd::kRead && request.length > wire::kPayloadBytesMax)  // EOVERFLOW is for those who know DF
    return request.flags & nbd::kDontFragment ? nbd::kEoverflow : nbd::kEinval;
  if (request.type == nbd::kBlockStatus && (!connection.negotiated.any_context() || request.length == 0))
    return nbd::kEinval;
  return nbd::kOk;
}

Group::Outcome Group::execute(Connection &connection, const ParsedRequest &request) {
  if (const uint32_t error = validate(connection, request)) {
    static constexpr RequestKind kKinds[] = {RequestKind::kRead,  RequestKind::kWrite, RequestKind::kRead,
                                             RequestKind::kFlush, RequestKind::kTrim,  RequestKind::kCache,
                                             RequestKind::kZero,  RequestKind::kBlockStatus};
    if (request.type <= nbd::kBlockStatus)
      count_request(connection.volume.page, kKinds[request.type], 0, monotonic_ns() - turn_ns_, true);
    connection.reply(request.type, request.cookie, request.offset, error);
    return Outcome::kDone;
  }
  verifier_.clients_asked(turn_ns_);
  const uint64_t end = request.offset + request.length;
  const bool writes = is_write_like(request.type);
  if (request.type != nbd::kFlush && !BROKEN(kSkipOverlapWait) &&
      connection.volume.flights.conflicts(request.offset, end, writes, turn_ns_))
    return Outcome::kPark;
  switch (request.type) {
    case nbd::kRead: return read(connection, request);
    case nbd::kWrite: return write(connection, request);
    case nbd::kTrim: return zero(connection, request, RequestKind::kTrim);
    case nbd::kWriteZeroes: return zero(connection, request, RequestKind::kZero);
    case nbd::kFlush: return flush(connection, request);
    default: return others(connection, request);
  }
}

void Group::answer(Connection &connection, uint16_t type, uint64_t cookie, uint64_t offset, RequestKind kind,
                   uint64_t bytes, uint64_t start_ns, int error) {
  count_request(connection.volume.page, kind, bytes, monotonic_ns() - start_ns, error != 0);
  connection.reply(type, cookie, offset, nbd::error_from_errno(error));
  touch(connection);
}

// A range or buffer of the operation is not free before `ended` ran. `request` loses its payload.
void Group::run_on_worker(Connection &connection, const ParsedRequest &request, bool writes, uint64_t held,
                          std::function<int()> job, std::function<void(int)> ended) {
  Volume &volume = connection.volume;
  const uint64_t flight = volume.flights.add(request.offset, request.offset + request.length, writes);
  const auto log = held ? capture_.log() : nullptr;
  if (log) log->hold(held);
  operations_++;
  connection.outstanding++;
  pool_.submit([this, &connection, &volume, flight, log, held, job = std::move(job), ended = std::move(ended)] {
    const int error = job();
    post([this, &connection, &volume, flight, log, held, ended, error] {
      if (log) log->unhold(held);
      volume.flights.remove(flight);
      operations_--;
      connection.outstanding--;
      ended(error);
      touch(connection);
    });
  });
}

Group::Outcome Group::read(Connection &connection, const ParsedRequest &request) {
  Device &device = *connection.volume.device;
  const size_t bytes = request.length;
  if (!admission_.admit(connection, bytes, turn_ns_)) return Outcome::kPark;
  if (bytes > Admission::kLargeBytes && connection.has_output()) return Outcome::kAwaitOutput;
  if (!fits_on_workers(connection, bytes, false)) return Outcome::kPark;
  if (bytes == 0) {
    answer(connection, nbd::kRead, request.cookie, request.offset, RequestKind::kRead, 0, turn_ns_, 0);
    return Outcome::kDone;
  }
  if (device.traits().direct) {
    read_on_worker(connection, request);
    return Outcome::kDone;
  }
  if (connection.has_output() && connection.output_bytes() + bytes > kReadsTogetherBytes) return Outcome::kAwaitOutput;
  uint8_t *data = connection.begin_read_reply(request.cookie, request.offset, bytes);
  const int error = device.read_now(data, bytes, request.offset);
  if (error == 0) {
    count_request(connection.volume.page, RequestKind::kRead, bytes, monotonic_ns() - turn_ns_, false);
    return Outcome::kDone;
  }
  connection.cancel_read_reply(bytes);
  if (error == EAGAIN) {
    read_on_worker(connection, request);
    return Outcome::kDone;
  }
  failed(connection.volume, "read", request.offset, bytes, error);
  answer(connection, nbd::kRead, request.cookie, request.offset, RequestKind::kRead, bytes, turn_ns_, error);
  return Outcome::kDone;
}

void Group::read_on_worker(Connection &connection, const ParsedRequest &request) {
  auto cold = std::make_shared<Slab>(request.length, request.offset);
  connection.cold_bytes += cold->size();
  run_on_worker(
      connection, request, false, 0,
      [&device = *connection.volume.device, cold, offset = request.offset] {
        return device.read(cold->data(), cold->size(), offset);
      },
      [this, &connection, cold, request](int error) {
        connection.cold_bytes -= cold->size();
        if (error) {
          failed(connection.volume, "read", request.offset, request.length, error);
          return answer(connection, nbd::kRead, request.cookie, request.offset, RequestKind::kRead, request.length,
                        request.start_ns, error);
        }
        if (!connection.dead)
          memcpy(connection.begin_read_reply(request.cookie, request.offset, cold->size()), cold->data(), cold->size());
        count_request(connection.volume.page, RequestKind::kRead, cold->size(), monotonic_ns() - request.start_ns, false);
      });
}

// False: no room, or too far ahead of the standby. The standby being alive, that is back-pressure; is it away, the log
// is given up and there is room. A log file whose disk has to answer first gets as long as a standby.
bool Group::log_has_room(Volume &volume, uint64_t start, uint64_t end, bool payload) {
  if (start != end && !options_.standby.lag_detaches && watch_.lags(capture_.written_bytes())) {
    log_is_blocked();
    return false;
  }
  if (!capture_.room(volume, start, end, payload)) {
    if (room_will_come()) {
      log_is_blocked();
      return false;
    }
    detach("log-full");
  }
  log_unblocked();
  return true;
}

bool Group::room_will_come() {
  if (Spilling *spilling = capture_.spilling(); spilling && spilling->busy()) {
    if (turn_ns_ < spilling->busy_since_ns(turn_ns_) + options_.standby.peer_timeout_ns) return true;
    spilling->give_up();  // detaches, if it holds anything
  }
  return capture_.state() == CaptureState::kStreaming && (!watch_.away() || watch_.blocks());
}

void Group::log_is_blocked() {
  if (!log_blocked_) log_blocked_ns_ = turn_ns_;
  log_blocked_ = true;
}

void Group::log_unblocked() {
  if (log_blocked_) page_.add(kGroup_backpressure_ns, monotonic_ns() - log_blocked_ns_);
  log_blocked_ = false;
}

void Group::failed(Volume &volume, const char *operation, uint64_t offset, uint64_t length, int error) {
  events_({"device-error",
           {{"volume", static_cast<double>(volume.handle)},
            {"operation", std::string(operation)},
            {"error", Status::failed(error, operation).message},
            {"offset", offset},
            {"length", length}},
           ""});
}

Group::Outcome Group::write(Connection &connection, const ParsedRequest &request) {
  Volume &volume = connection.volume;
  Device &device = *volume.device;
  const uint64_t start = request.offset, end = start + request.length;
  const bool direct = device.traits().direct;
  if (direct && !fits_on_workers(connection, request.length, true)) return Outcome::kPark;
  if (!may_write(volume, start, end) || !log_has_room(volume, start, end, true)) return Outcome::kPark;
  if (request.length == 0) {
    finish(connection, request, RequestKind::kWrite, 0, 0);
    return Outcome::kDone;
  }
  capture_.watched_write(volume, start, end);
  volume.unflushed.mark(start, end);
  if (direct) {
    write_on_worker(connection, request);
  } else {
    write_ended(connection, request, device.write(request.payload, request.length, start));
  }
  return Outcome::kDone;
}

// The payload is copied: the buffer it came in goes on with the next requests, and a disk wants it aligned.
void Group::write_on_worker(Connection &connection, const ParsedRequest &request) {
  Volume &volume = connection.volume;
  const uint64_t start = request.offset, end = start + request.length;
  auto copy = std::make_shared<Slab>(request.length, start);
  memcpy(copy->data(), request.payload, copy->size());
  connection.copied_bytes += copy->size();
  run_on_worker(
      connection, request, true, capture_.log_bytes_needed(volume, start, end, true),
      [&device = *volume.device, copy, start] { return device.write(copy->data(), copy->size(), start); },
      [this, &connection, copy, request](int error) {
        connection.copied_bytes -= copy->size();
        ParsedRequest written = request;
        written.payload = copy->data();
        on_device_late(connection.volume, request.offset, request.offset + request.length, true);
        write_ended(connection, written, error);
        admission_.finished(connection, request, turn_ns_);
      });
}

void Group::write_ended(Connection &connection, const ParsedRequest &request, int error) {
  Volume &volume = connection.volume;
  const uint64_t start = request.offset, end = start + request.length;
  follow(volume, start, end, true);
  if (error) {
    failed(volume, "write", start, request.length, error);
    refused(volume, start, end);
  } else {
    hold(volume, start, end);
    capture_.record(volume, RecordType::kWrite, start, end, request.payload, wants_of(request));
  }
  leave_out(volume);
  finish(connection, request, RequestKind::kWrite, request.length, error);
}

// Before the record of what was on a worker: much may have happened meanwhile.
//   - A flush that has ended did not cover it: the next one does.
//   - What was watched may have been read before it was there: it is read again.
//   - The log for which room was held may have gone, or the record fall into more parts: what finds no room is dirty.
void Group::on_device_late(Volume &volume, uint64_t start, uint64_t end, bool payload) {
  volume.unflushed.mark(start, end);
  capture_.watched_write(volume, start, end);
  if (!capture_.room(volume, start, end, payload)) refused(volume, start, end);
}

void Group::refused(Volume &volume, uint64_t start, uint64_t end) {
  capture_.refused(volume, start, end);
  if (volume.marks) volume.marks->note(start, end);
  if (!capture_.step_open()) return;
  resync_.start(session_, Resync::Way::kSend);
  resync_.replan();
}

Group::Outcome Group::zero(Connection &connection, const ParsedRequest &request, RequestKind kind) {
  Volume &volume = connection.volume;
  const uint64_t start = request.offset, end = start + request.length;
  const bool trim = kind == RequestKind::kTrim;
  if (request.length == 0 || (trim && !volume.device->traits().can_zero)) {  // a TRIM that zeroes nothing is no record
    finish(connection, request, kind, request.length, 0);
    return Outcome::kDone;
  }
  if (!may_write(volume, start, end) || !log_has_room(volume, start, end, false)) return Outcome::kPark;
  capture_.watched_write(volume, start, end);
  volume.unflushed.mark(start, end);
  const ZeroHow how = trim || !(request.flags & nbd::kNoHole) ? ZeroHow::kPunch : ZeroHow::kKeep;
  const bool fast = !trim && (request.flags & nbd::kFastZero);
  Device &device = *volume.device;
  auto job = [&device, start, bytes = request.length, how, fast] { return device.zero(start, bytes, how, fast); };
  if (request.length <= kInlineZeroBytes && !device.traits().is_block && !device.traits().direct) {
    zero_ended(connection, request, kind, job());
    return Outcome::kDone;
  }
  run_on_worker(connection, request, true, capture_.log_bytes_needed(volume, start, end, false), std::move(job),
                [this, &connection, request, kind](int error) {
                  on_device_late(connection.volume, request.offset, request.offset + request.length, false);
                  zero_ended(connection, request, kind, error);
                });
  return Outcome::kDone;
}

void Group::zero_ended(Connection &connection, const ParsedRequest &request, RequestKind kind, int error) {
  Volume &volume = connection.volume;
  const uint64_t end = request.offset + request.length;
  follow(volume, request.offset, end, false);
  if (error && error != ENOTSUP) {
    failed(volume, kind == RequestKind::kTrim ? "trim" : "zero", request.offset, request.length, error);
    refused(volume, request.offset, end);
  } else if (!error) {
    volume.held.subtract(request.offset, end);  // its record says all that is there now
    const bool keep = kind == RequestKind::kZero && (request.flags & nbd::kNoHole);
    capture_.record(volume, keep ? RecordType::kZero : RecordType::kTrim, request.offset, end, nullptr, wants_of(request));
  }
  leave_out(volume);
  finish(connection, request, kind, request.length, error);
}

// A write-like request has its outcome on the device: answers now, or when `durability` allows.
void Group::finish(Connection &connection, const ParsedRequest &request, RequestKind kind, uint64_t bytes, int error) {
  const bool fua = request.flags & nbd::kFua;
  const bool waits = fua || options_.durability == Durability::kReceived || options_.durability == Durability::kDurable;
  if (error || !waits)
    return answer(connection, request.type, request.cookie, request.offset, kind, bytes, request.start_ns, error);
  wait_for_durability(connection, request, kind, bytes, fua);
}

Group::Outcome Group::flush(Connection &connection, const ParsedRequest &request) {
  if (connection.volume.read_only) {
    answer(connection, nbd::kFlush, request.cookie, request.offset, RequestKind::kFlush, 0, turn_ns_, 0);
    return Outcome::kDone;
  }
  if (!log_has_room(connection.volume, 0, 0, false)) return Outcome::kPark;
  capture_.record_flush(connection.volume, wants_of(request));
  wait_for_durability(connection, request, RequestKind::kFlush, 0, true);
  return Outcome::kDone;
}

Group::Outcome Group::others(Connection &connection, const ParsedRequest &request) {
  if (request.type == nbd::kBlockStatus) {
    count_request(connection.volume.page, RequestKind::kBlockStatus, request.length, monotonic_ns() - turn_ns_, false);
    connection.reply_block_status(request.cookie, request.offset, request.length, request.flags & nbd::kRequestOne);
    return Outcome::kDone;
  }
  connection.volume.device->prefetch(request.offset, request.length);
  answer(connection, nbd::kCache, request.cookie, request.offset, RequestKind::kCache, request.length, turn_ns_, 0);
  return Outcome::kDone;
}

}  // namespace understudy::engine
