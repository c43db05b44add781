#include "engine/connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <iterator>

#include "wire/record.h"

namespace understudy::engine {
namespace {
constexpr size_t kReceiveBytes = 64u << 10;     // asked of the socket beyond what the front request still needs
constexpr uint64_t kSkipMax = 1ull << 32;       // a longer refused payload ends the connection
constexpr size_t kExtentsMax = 1024;            // of one context in a BLOCK_STATUS reply
}  // namespace

Connection::Connection(uint64_t connection_id, ClientState state, Volume &served)
    : id(connection_id),
      volume(served),
      negotiated(state.negotiated),
      closing(state.closing),
      socket_(std::move(state.socket)),
      skip_bytes_(state.skip_bytes) {
  in_.append(state.unread.data(), state.unread.size());
  out_.append(state.unsent.data(), state.unsent.size());
}

ClientState Connection::give_up() {
  take_back_left();
  const auto rest = [](Buffer &buffer) { return std::vector<uint8_t>(buffer.begin(), buffer.end()); };
  return {std::move(socket_), negotiated, rest(in_), rest(out_), skip_bytes_, closing, id};
}

bool Connection::receive() {
  // A large payload is received into its place, with little behind it that would have to be moved afterwards.
  in_.reserve(wanted_bytes_ + kReceiveBytes);
  const size_t room = wanted_bytes_ > kReceiveBytes ? wanted_bytes_ + kReceiveBytes : in_.room();
  const size_t asked = std::min(room, in_.room());
  ssize_t got;
  do got = recv(fd(), in_.end(), asked, MSG_DONTWAIT);
  while (got < 0 && errno == EINTR);
  if (got > 0) {
    drained = static_cast<size_t>(got) < asked;
    in_.grow(static_cast<size_t>(got));
    wanted_bytes_ -= std::min(wanted_bytes_, static_cast<size_t>(got));
    return true;
  }
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
  closing = true;
  if (got < 0) {
    dead = true;
    failure = Status::failed(errno, "receive").message;
  } else {
    failure = "the client closed the connection without DISC";
  }
  return false;
}

bool Connection::parse_header(ParsedRequest &request) {
  if (negotiated.extended_headers) {
    nbd::ExtendedRequest raw;
    memcpy(&raw, in_.begin(), sizeof raw);
    request = {be16toh(raw.type), be16toh(raw.flags), be64toh(raw.cookie), be64toh(raw.offset), be64toh(raw.length),
               nullptr, sizeof raw};
    return be32toh(raw.magic) == nbd::kExtendedRequestMagic;
  }
  nbd::Request raw;
  memcpy(&raw, in_.begin(), sizeof raw);
  request = {be16toh(raw.type), be16toh(raw.flags), be64toh(raw.cookie), be64toh(raw.offset), be32toh(raw.length),
             nullptr, sizeof raw};
  return be32toh(raw.magic) == nbd::kRequestMagic;
}

Connection::Parse Connection::next(ParsedRequest &request) {
  if (skip_bytes_) {
    const size_t part = std::min<uint64_t>(skip_bytes_, in_.size());
    in_.consume(part);
    skip_bytes_ -= part;
  }
  if (skip_bytes_ || in_.size() < header_bytes()) return Parse::kIncomplete;
  if (!parse_header(request)) {
    failure = "bad request magic";
    return Parse::kBroken;
  }
  // A WRITE always carries its payload; with extended headers any other command may, if its flag says so.
  const bool carries = request.type == nbd::kWrite ||
                       (negotiated.extended_headers && (request.flags & nbd::kPayloadLength));
  if (!carries || request.length == 0) return Parse::kRequest;
  if (request.length > wire::kPayloadBytesMax || request.type != nbd::kWrite) {
    if (request.length > kSkipMax) {
      failure = "a payload of " + std::to_string(request.length) + " bytes is refused";
      return Parse::kBroken;
    }
    skip_bytes_ = request.length;
    return Parse::kInvalid;
  }
  const size_t total = header_bytes() + request.length;
  if (in_.size() < total) {
    wanted_bytes_ = total - in_.size();
    return Parse::kIncomplete;
  }
  request.payload = in_.begin() + header_bytes();
  request.total_bytes = total;
  return Parse::kRequest;
}

void Connection::put_chunk(uint16_t flags, uint16_t type, uint64_t cookie, uint64_t offset, uint64_t bytes) {
  if (negotiated.extended_headers) {
    const nbd::ExtendedReply header{htobe32(nbd::kExtendedReplyMagic), htobe16(flags), htobe16(type), htobe64(cookie),
                                    htobe64(offset), htobe64(bytes)};
    out_.append(&header, sizeof header);
  } else {
    const nbd::StructuredReply header{htobe32(nbd::kStructuredReplyMagic), htobe16(flags), htobe16(type),
                                      htobe64(cookie), htobe32(static_cast<uint32_t>(bytes))};
    out_.append(&header, sizeof header);
  }
}

void Connection::put_error(uint64_t cookie, uint64_t offset, uint32_t error) {
  struct [[gnu::packed]] {
    uint32_t error;
    uint16_t message_bytes;
  } body{htobe32(error), 0};
  put_chunk(nbd::kChunkDone, nbd::kChunkError, cookie, offset, sizeof body);
  out_.append(&body, sizeof body);
}

void Connection::reply(uint16_t type, uint64_t cookie, uint64_t offset, uint32_t error) {
  if (dead) return;
  const bool chunks = negotiated.extended_headers ||
                      (negotiated.structured_replies && (type == nbd::kRead || type == nbd::kBlockStatus));
  if (!chunks) {
    const nbd::SimpleReply header{htobe32(nbd::kSimpleReplyMagic), htobe32(error), htobe64(cookie)};
    out_.append(&header, sizeof header);
  } else if (error) {
    put_error(cookie, offset, error);
  } else {
    put_chunk(nbd::kChunkDone, nbd::kChunkNone, cookie, offset, 0);
  }
}

uint8_t *Connection::begin_read_reply(uint64_t cookie, uint64_t offset, size_t bytes) {
  if (negotiated.structured_replies || negotiated.extended_headers) {
    const uint64_t start = htobe64(offset);
    put_chunk(nbd::kChunkDone, nbd::kChunkOffsetData, cookie, offset, sizeof start + bytes);
    out_.append(&start, sizeof start);
  } else {
    const nbd::SimpleReply header{htobe32(nbd::kSimpleReplyMagic), 0, htobe64(cookie)};
    out_.append(&header, sizeof header);
  }
  out_.reserve(bytes);
  uint8_t *data = out_.end();
  out_.grow(bytes);
  return data;
}

void Connection::cancel_read_reply(size_t bytes) {
  size_t header = sizeof(nbd::SimpleReply);
  if (negotiated.extended_headers) {
    header = sizeof(nbd::ExtendedReply) + sizeof(uint64_t);
  } else if (negotiated.structured_replies) {
    header = sizeof(nbd::StructuredReply) + sizeof(uint64_t);
  }
  out_.shrink(bytes + header);
}

void Connection::put_extents(uint16_t flags, uint64_t cookie, uint64_t offset, uint32_t context,
                             const StatusExtents &extents) {
  const uint32_t id = htobe32(context);
  if (negotiated.extended_headers) {
    const uint32_t count = htobe32(static_cast<uint32_t>(extents.size()));
    put_chunk(flags, nbd::kChunkBlockStatusExtended, cookie, offset, 8 + 16 * extents.size());
    out_.append(&id, sizeof id);
    out_.append(&count, sizeof count);
    for (const StatusExtent &extent : extents.list()) {
      const uint64_t words[2] = {htobe64(extent.bytes), htobe64(extent.flags)};
      out_.append(words, sizeof words);
    }
  } else {
    put_chunk(flags, nbd::kChunkBlockStatus, cookie, offset, 4 + 8 * extents.size());
    out_.append(&id, sizeof id);
    for (const StatusExtent &extent : extents.list()) {
      const uint32_t words[2] = {htobe32(static_cast<uint32_t>(extent.bytes)), htobe32(extent.flags)};
      out_.append(words, sizeof words);
    }
  }
}

void Connection::reply_block_status(uint64_t cookie, uint64_t offset, uint64_t length, bool one) {
  const struct {
    uint32_t id;
    StatusExtents (*status)(const Volume &, uint64_t start, uint64_t end, size_t most);
  } contexts[] = {{negotiated.base_allocation_id, allocation_status},
                  {negotiated.replicated_id, replicated_status},
                  {negotiated.dirty_id, dirty_status}};
  auto left = std::count_if(std::begin(contexts), std::end(contexts), [](const auto &context) { return context.id; });
  for (const auto &context : contexts) {
    if (!context.id) continue;
    const uint16_t flags = --left ? 0 : nbd::kChunkDone;
    put_extents(flags, cookie, offset, context.id, context.status(volume, offset, offset + length, one ? 1 : kExtentsMax));
  }
}

Connection::Parting Connection::part() {
  Parting parting{this, std::unique_lock(sending_), {out_.begin(), out_.begin() + out_.size()}};
  out_.consume(out_.size());
  return parting;
}

bool Connection::Parting::send() {
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t more = ::send(connection->fd(), bytes.data() + sent, bytes.size() - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (more >= 0) sent += static_cast<size_t>(more);
    else if (errno != EINTR) break;  // a broken socket says so again
  }
  connection->left_.insert(connection->left_.end(), bytes.begin() + static_cast<ptrdiff_t>(sent), bytes.end());
  connection->left_bytes_ = connection->left_.size();
  const bool all = connection->left_.empty();
  sending.unlock();
  return all;
}

void Connection::take_back_left() {
  const std::lock_guard sending(sending_);
  if (left_.empty()) return;
  left_.insert(left_.end(), out_.begin(), out_.begin() + out_.size());
  out_.consume(out_.size());
  out_.append(left_.data(), left_.size());
  left_.clear();
  left_bytes_ = 0;
}

bool Connection::send() {
  if (!out_.empty() || left_bytes_) take_back_left();  // and nobody else is sending: only who has the turn begins to
  while (!out_.empty() && !dead) {
    const ssize_t sent = ::send(fd(), out_.begin(), out_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
      out_.consume(static_cast<size_t>(sent));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return false;
    } else if (errno != EINTR) {
      dead = closing = true;
      failure = Status::failed(errno, "send").message;
    }
  }
  if (dead) out_.consume(out_.size());
  return true;
}

}  // namespace understudy::engine
