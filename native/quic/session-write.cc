// What a session says: control first, then records, in batches of equal packets.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/check.h"
#include "core/clock.h"
#include "quic/session-impl.h"

namespace understudy::quic {
namespace {
constexpr int kBatchesPerTurn = 8;  // then the other sessions and the socket's receive side have their turn
// How long a session that sends records, and has none, owes what it has received an answer. That is nearly always a bare
// acknowledgement, which ngtcp2 would send an eighth of the round trip later: on a short way a wake-up of the peer for
// each of its frames. Or it is a packet held for lost, for which a millisecond is the grain anyway (RFC 9002, 6.1.2).
constexpr uint64_t kAckRestNs = 1'000'000;
}

SessionImpl::Written SessionImpl::write(uint64_t now) {
  dirty = false;
  if (is_ending() || !conn_) return Written::kAll;
  if (blocked_) return Written::kBlocked;
  if (!flush_unsent()) return Written::kBlocked;
  if (now < rests_until_ && !control_.has_unsent() && !records_ready()) return Written::kAll;
  rests_until_ = 0;
  if (established_) packet_size_.maybe_grow(now);
  const Written written = write_batches(now);
  if (is_ending() || !conn_) return Written::kAll;
  if (written == Written::kAll) {
    // Forgets a pacing timer of less than a millisecond, which would only wake an idle thread for nothing.
    if (int error = ngtcp2_conn_handle_expiry(conn_, clock(now))) {
      end_by_failure(error, "timer");
      return Written::kAll;
    }
  }
  may_rest_ = records_ && written == Written::kAll;
  update_stats();
  return written;
}

SessionImpl::Written SessionImpl::write_batches(uint64_t now) {
  control_blocked_ = records_blocked_ = false;
  if (established_ && !open_streams()) return Written::kAll;
  for (int i = 0; i < kBatchesPerTurn; i++) {
    if (i > 0) now = monotonic_ns();
    size_t bytes_max = packet_size_.current();
    if (established_) bytes_max = std::clamp(ngtcp2_conn_get_send_quantum(conn_), bytes_max, kBatchBytesMax);
    Batch batch{host_.batch_buffer(), 0, 0, 0, local_, remote_};
    const Filled filled = fill_batch(batch, bytes_max, now);
    if (filled == Filled::kFailed) return Written::kAll;
    // Must follow every batch: it is what paces the next one (ngtcp2_conn_update_pkt_tx_time).
    ngtcp2_conn_update_pkt_tx_time(conn_, clock(now));
    if (!flush({batch.data, batch.length, batch.segment, batch.local, batch.remote})) return Written::kBlocked;
    if (filled == Filled::kNothingMore) return Written::kAll;
  }
  return Written::kMore;
}

SessionImpl::Filled SessionImpl::fill_batch(Batch &batch, size_t bytes_max, uint64_t now) {
  ngtcp2_path_storage path, first;  // of this packet, and of the first one of the batch
  for (;;) {
    const size_t size = packet_size_.current();
    if (batch.packets == kBatchPacketsMax || (batch.packets > 0 && batch.length + size > bytes_max))
      return Filled::kFull;
    ngtcp2_path_storage_zero(&path);
    uint8_t *packet = batch.data + batch.length;
    const ngtcp2_ssize written = write_packet(packet, size, &path.path, now);
    if (written < 0) return Filled::kFailed;
    if (written == 0) return Filled::kNothingMore;
    const auto bytes = static_cast<size_t>(written);
    SessionStats::add(stats.packets_sent, 1);
    pace_.take(bytes);
    if (batch.packets > 0 && (bytes > batch.segment || !ngtcp2_path_eq(&path.path, &first.path))) {
      // It fits not in this batch: a larger one, or on its way to another address of the peer. It starts the next.
      if (!flush({batch.data, batch.length, batch.segment, batch.local, batch.remote})) {
        // The socket is full and unsent_ has the batch: this packet is lost, as packets may be.
        batch.length = batch.packets = 0;
        return Filled::kNothingMore;
      }
      memmove(batch.data, packet, bytes);
      batch.length = batch.packets = 0;
    }
    if (batch.packets == 0) {
      batch.segment = bytes;
      batch.local = Address::from(path.path.local.addr, path.path.local.addrlen);
      batch.remote = Address::from(path.path.remote.addr, path.path.remote.addrlen);
      ngtcp2_path_storage_init(&first, path.path.local.addr, path.path.local.addrlen, path.path.remote.addr,
                               path.path.remote.addrlen, nullptr);
    }
    batch.length += bytes;
    batch.packets++;
    if (bytes < batch.segment) return Filled::kFull;  // only the last one may be shorter
  }
}

// One packet of at most `bytes`. 0: nothing to send, or not now (congestion, pacing). Negative: the session has ended.
ngtcp2_ssize SessionImpl::write_packet(uint8_t *packet, size_t bytes, ngtcp2_path *path, uint64_t now) {
  ngtcp2_pkt_info info{};
  for (;;) {
    const Chunk chunk = next_chunk(bytes, now);
    ngtcp2_ssize taken = -1;
    const ngtcp2_ssize written =
        ngtcp2_conn_writev_stream(conn_, path, &info, packet, bytes, &taken,
                                  chunk.stream == -1 ? NGTCP2_WRITE_STREAM_FLAG_NONE : NGTCP2_WRITE_STREAM_FLAG_MORE,
                                  chunk.stream, &chunk.vector, chunk.stream == -1 ? 0 : 1, clock(now));
    if (taken > 0) chunk_sent(chunk, static_cast<size_t>(taken), written > 0 ? static_cast<size_t>(written) : bytes);
    if (written == NGTCP2_ERR_WRITE_MORE) continue;
    if (written == NGTCP2_ERR_STREAM_DATA_BLOCKED) {
      (chunk.stream == control_stream_ ? control_blocked_ : records_blocked_) = true;
      continue;
    }
    if (written < 0) end_by_failure(static_cast<int>(written), "send");
    return written;
  }
}

SessionImpl::Chunk SessionImpl::next_chunk(size_t bytes, uint64_t now) {
  Chunk chunk;
  if (!established_ || is_ending()) return chunk;
  if (control_.has_unsent() && !control_blocked_) {
    const std::span<const uint8_t> unsent = control_.unsent();
    chunk.stream = control_stream_;
    chunk.vector = {const_cast<uint8_t *>(unsent.data()), std::min(unsent.size(), bytes)};
    return chunk;
  }
  if (!records_ || records_blocked_) return chunk;
  if (!pace_.open(now)) {
    if (records_ready()) turn_within(pace_.wait_ns());
    return chunk;
  }
  const uint8_t *data = nullptr;
  const size_t ready = records_->peek(records_sent_, &data);
  if (ready == 0) return chunk;
  chunk.stream = records_stream_;
  chunk.vector = {const_cast<uint8_t *>(data), std::min(ready, bytes)};
  return chunk;
}

void SessionImpl::chunk_sent(const Chunk &chunk, size_t bytes, size_t packet_bytes) {
  if (chunk.stream == control_stream_) {
    control_.sent(bytes);
    return;
  }
  records_sent_ += bytes;
  packet_size_.records_sent(packet_bytes, records_sent_);
}

void SessionImpl::rest() {
  if (may_rest_ && !rests_until_) rests_until_ = last_heard_ + kAckRestNs;
}

size_t SessionImpl::records_ready() const {
  return records_ ? records_->ready(records_sent_) : 0;
}

bool SessionImpl::open_streams() {
  int error = 0;
  if (control_stream_ == -1 && control_.has_unsent())
    error = ngtcp2_conn_open_bidi_stream(conn_, &control_stream_, nullptr);
  if (!error && records_stream_ == -1 && records_)
    error = ngtcp2_conn_open_uni_stream(conn_, &records_stream_, nullptr);
  if (error) end_by_failure(error, "open a stream");
  return error == 0;
}

// False: the socket is full; what it did not take is kept for later.
bool SessionImpl::flush(const OutgoingBatch &batch) {
  if (batch.length == 0) return true;
  if (parting_) {
    if (!parting_->bytes.empty()) (void)socket_->send(parting_->batch);
    parting_->bytes.assign(batch.data, batch.data + batch.length);
    parting_->batch = batch;
    parting_->batch.data = parting_->bytes.data();
    parting_->socket = socket_;
    SessionStats::add(stats.bytes_sent, batch.length);
    return true;
  }
  const SendResult result = socket_->send(batch);
  SessionStats::add(stats.bytes_sent, result.sent);
  switch (result.outcome) {
    case SendOutcome::kSent: return true;
    case SendOutcome::kBlocked:
      unsent_ = {{batch.data + result.sent, batch.data + batch.length}, batch.segment, batch.local, batch.remote};
      blocked_ = true;
      return false;
    case SendOutcome::kTooLarge: packet_size_.too_large(); return true;  // lost, and repeated in smaller packets
    case SendOutcome::kUnreachable:
      last_failure_ = "send to " + batch.remote.text() + ": " + strerror(errno);
      // A way may come back before the idle timeout; while connecting the next address may have one.
      if (outgoing && !established_ && errno != ENOBUFS && address_index_ + 1 < addresses_.size())
        attempt_deadline_ = std::min(attempt_deadline_, last_ts_);
      return true;
  }
  return true;
}

bool SessionImpl::flush_unsent() {
  if (unsent_.bytes.empty()) return true;
  Unsent unsent = std::move(unsent_);
  unsent_ = {};
  return flush({unsent.bytes.data(), unsent.bytes.size(), unsent.segment, unsent.local, unsent.remote});
}

}  // namespace understudy::quic
