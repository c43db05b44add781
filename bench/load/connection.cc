#include "connection.h"

#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace understudy::bench {
namespace {

constexpr size_t kReceiveBytes = 256 << 10;
constexpr size_t kPayloadAt = 64;  // in a slot: aligned, as what a program writes is; the header ends there
constexpr uint64_t kStampEvery = 4096;

struct Stamp {
  uint64_t offset, number;
};

}  // namespace

uint64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

Connection::Connection(const Options &options, int fd, uint64_t export_bytes, unsigned index)
    : options_(options), fd_(fd), places_(options, export_bytes, index), requests_(nullptr, &std::free) {
  const size_t stride = kPayloadAt + (options.block_bytes + 63) / 64 * 64;
  requests_.reset(static_cast<uint8_t *>(std::aligned_alloc(64, stride * options.depth)));
  for (size_t i = 0; i < stride * options.depth; i += 8) {  // nothing that compresses
    const uint64_t word = places_.below(UINT64_MAX);
    std::memcpy(requests_.get() + i, &word, 8);
  }
  for (uint32_t i = 0; i < options.depth; ++i) {
    slots_.push_back({0, 0, 0, requests_.get() + stride * i + kPayloadAt - sizeof(nbd::Request)});
    free_.push_back(options.depth - 1 - i);
  }
  unsent_.reserve(options.depth);
  received_.resize(kReceiveBytes);
}

Connection::~Connection() { close(fd_); }

bool Connection::fail(const std::string &what) {
  error_ = what;
  return false;
}

// ---- requests --------------------------------------------------------------------------------------------------------

bool Connection::begin(uint64_t now, Budget &budget) {
  while (!free_.empty() && !flushing_) {
    if (options_.flush_every > 0 && writes_since_flush_ == options_.flush_every) {
      if (in_flight()) break;  // what is flushed has been answered, as before an fsync
      make_request(now, nbd::kFlush);
      flushing_ = true;  // and goes alone
      writes_since_flush_ = 0;
      break;
    }
    if (budget.exhausted()) break;
    --budget.requests_left;
    const bool read = options_.read_percent > 0 && places_.below(100) < options_.read_percent;
    make_request(now, read ? nbd::kRead : nbd::kWrite);
    if (!read) ++writes_since_flush_;
  }
  return send_more();
}

void Connection::make_request(uint64_t now, uint16_t type) {
  const uint32_t index = free_.back();
  free_.pop_back();
  Slot &slot = slots_[index];
  slot.begun_ns = now;
  slot.type = type;
  slot.offset = type == nbd::kFlush ? 0 : places_.next();
  const uint32_t length = type == nbd::kFlush ? 0 : options_.block_bytes;
  const nbd::Request request{.magic = htobe32(nbd::kRequestMagic), .flags = 0, .type = htobe16(type),
                             .cookie = index, .offset = htobe64(slot.offset), .length = htobe32(length)};
  std::memcpy(slot.request, &request, sizeof request);
  const bool write = type == nbd::kWrite;
  if (write) stamp(slot.request + sizeof request, slot.offset);
  unsent_.push_back({slot.request, sizeof request + (write ? length : 0)});
}

void Connection::stamp(uint8_t *payload, uint64_t offset) {
  for (uint64_t at = 0; at + sizeof(Stamp) <= options_.block_bytes; at += kStampEvery) {
    const Stamp stamp{offset + at, ++stamps_};
    std::memcpy(payload + at, &stamp, sizeof stamp);
  }
}

bool Connection::send_more() {
  while (unsent()) {
    msghdr message{};
    message.msg_iov = unsent_.data() + first_unsent_;
    message.msg_iovlen = unsent_.size() - first_unsent_;
    const ssize_t sent = sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) return true;
    if (sent < 0) return fail(std::string("send: ") + std::strerror(errno));
    size_t left = static_cast<size_t>(sent);
    for (; unsent() && left >= unsent_[first_unsent_].iov_len; ++first_unsent_) left -= unsent_[first_unsent_].iov_len;
    if (!unsent()) break;
    iovec &partial = unsent_[first_unsent_];
    partial = {static_cast<uint8_t *>(partial.iov_base) + left, partial.iov_len - left};
  }
  unsent_.clear();
  first_unsent_ = 0;
  return true;
}

// ---- replies ---------------------------------------------------------------------------------------------------------

bool Connection::receive(bool may_wait, Totals &totals) {
  const ssize_t got = recv(fd_, received_.data() + received_bytes_, received_.size() - received_bytes_,
                           may_wait ? 0 : MSG_DONTWAIT);
  if (got < 0 && (errno == EINTR || (errno == EAGAIN && !may_wait))) return true;
  if (got < 0) return fail(errno == EAGAIN ? "no reply for 60 s" : std::string("recv: ") + std::strerror(errno));
  if (got == 0) return fail("the server hung up");
  const size_t bytes = received_bytes_ + static_cast<size_t>(got);
  const size_t taken = take(bytes, now_ns(), totals);
  received_bytes_ = bytes - taken;
  if (received_bytes_ > 0 && taken > 0) std::memmove(received_.data(), received_.data() + taken, received_bytes_);
  return error_.empty();
}

// Returns how much of the first `bytes` bytes is done with: all but the beginning of a reply.
size_t Connection::take(size_t bytes, uint64_t now, Totals &totals) {
  size_t at = 0;
  for (;;) {
    if (payload_left_ > 0) {
      const size_t done = take_payload(received_.data() + at, bytes - at, totals);
      at += done;
      if (payload_left_ > 0) return at;
      end_request(payload_slot_, now, totals);
    }
    nbd::SimpleReply reply;
    if (bytes - at < sizeof reply) return at;
    std::memcpy(&reply, received_.data() + at, sizeof reply);
    if (!take_reply(reply, now, totals)) return at;
    at += sizeof reply;
  }
}

// The payload is looked at in passing, if at all.
size_t Connection::take_payload(const uint8_t *data, size_t bytes, Totals &totals) {
  if (!options_.verify) {
    const size_t done = std::min<uint64_t>(bytes, payload_left_);
    payload_left_ -= done;
    return done;
  }
  size_t at = 0;
  while (payload_left_ > 0 && at < bytes) {
    const uint64_t behind = payload_at_ % kStampEvery;
    size_t step = std::min<uint64_t>({kStampEvery - behind, payload_left_, bytes - at});
    if (behind == 0) {
      if (bytes - at < sizeof(uint64_t)) break;  // comes whole with the next ones
      uint64_t found;
      std::memcpy(&found, data + at, sizeof found);
      if (found != 0 && found != payload_at_) ++totals.wrong;
      step = sizeof(uint64_t);
    }
    at += step;
    payload_at_ += step;
    payload_left_ -= step;
  }
  return at;
}

bool Connection::take_reply(const nbd::SimpleReply &reply, uint64_t now, Totals &totals) {
  if (be32toh(reply.magic) != nbd::kSimpleReplyMagic) return fail("a reply without its magic number");
  if (reply.cookie >= slots_.size() || slots_[reply.cookie].begun_ns == 0) return fail("a reply to no request");
  const Slot &slot = slots_[reply.cookie];
  if (slot.type == nbd::kRead && reply.error == 0) {
    payload_left_ = options_.block_bytes;
    payload_at_ = slot.offset;
    payload_slot_ = reply.cookie;
    return true;
  }
  if (reply.error != 0) ++totals.errors;
  end_request(reply.cookie, now, totals);
  return true;
}

void Connection::end_request(size_t index, uint64_t now, Totals &totals) {
  Slot &slot = slots_[index];
  const uint64_t took = now - slot.begun_ns;
  if (slot.type == nbd::kRead) ++totals.reads, totals.read_ns.add(took);
  if (slot.type == nbd::kWrite) ++totals.writes, totals.write_ns.add(took);
  if (slot.type == nbd::kFlush) ++totals.flushes, totals.flush_ns.add(took), flushing_ = false;
  slot.begun_ns = 0;
  free_.push_back(static_cast<uint32_t>(index));
}

}  // namespace understudy::bench
