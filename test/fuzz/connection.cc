// sources: native/engine/connection.cc native/core/*.cc native/log/dirty-map.cc native/wire/nbd.cc  libs:
// The transmission parser: whatever comes, in whatever pieces, every request it gives lies within what came, and the
// replies to it can be made; memory stays bounded.
#include <sys/socket.h>
#include <unistd.h>

#include "core/check.h"
#include "engine/connection.h"
#include "fuzz.h"

using namespace understudy;
using namespace understudy::engine;

namespace {

class Nothing final : public Device {
 public:
  Nothing() { traits_.size_bytes = 1u << 20; }
  int read(void *, size_t, uint64_t) override { return 0; }
  int write(const void *, size_t, uint64_t) override { return 0; }
  int zero(uint64_t, uint64_t, ZeroHow, bool) override { return 0; }
  int flush() override { return 0; }
  Extent extent(uint64_t offset, uint64_t bytes) override { return {std::min<uint64_t>(bytes, 4096), (offset >> 12) % 2 == 0}; }
};

template <typename T>
void put(fuzz::Bytes &bytes, const T &header) {
  const auto *raw = reinterpret_cast<const uint8_t *>(&header);
  bytes.insert(bytes.end(), raw, raw + sizeof header);
}

fuzz::Bytes make_stream(fuzz::Random &random, bool extended) {
  fuzz::Bytes stream;
  for (uint64_t count = random.below(12); count; count--) {
    const uint16_t type = static_cast<uint16_t>(random.one_in(10) ? random.odd() : random.below(8));
    const uint16_t flags = static_cast<uint16_t>(random.one_in(3) ? random.odd() : 0);
    uint64_t length = random.one_in(8) ? random.odd() : random.below(5000);
    if (extended) {
      put(stream, nbd::ExtendedRequest{htobe32(nbd::kExtendedRequestMagic), htobe16(flags), htobe16(type), count,
                                       htobe64(random.odd()), htobe64(length)});
    } else {
      length &= UINT32_MAX;
      put(stream, nbd::Request{htobe32(nbd::kRequestMagic), htobe16(flags), htobe16(type), count, htobe64(random.odd()),
                               htobe32(static_cast<uint32_t>(length))});
    }
    if (type == nbd::kWrite) stream.resize(stream.size() + std::min<uint64_t>(length, 100'000), 0x77);
  }
  return stream;
}

// As the engine does, without its device.
void answer(Connection &connection, const ParsedRequest &request, fuzz::Random &random) {
  [[maybe_unused]] static volatile uint8_t seen;
  for (uint64_t at = 0; request.payload && at < request.length; at++) seen = request.payload[at];  // the sanitizer looks
  const bool inside = request.offset <= 1u << 20 && request.length <= (1u << 20) - request.offset && request.length;
  if (request.type == nbd::kRead && inside) {
    memset(connection.begin_read_reply(request.cookie, request.offset, request.length), 1, request.length);
    if (random.one_in(3)) connection.cancel_read_reply(request.length);
  } else if (request.type == nbd::kBlockStatus && inside && (connection.negotiated.structured_replies || connection.negotiated.extended_headers)) {
    connection.reply_block_status(request.cookie, request.offset, request.length, request.flags & nbd::kRequestOne);
  } else {
    connection.reply(request.type, request.cookie, request.offset, random.one_in(2) ? nbd::kEinval : nbd::kOk);
  }
}

void drain(Connection &connection, int peer) {
  static uint8_t sink[1u << 18];
  while (!connection.send()) CHECK(recv(peer, sink, sizeof sink, MSG_DONTWAIT) > 0);
  while (recv(peer, sink, sizeof sink, MSG_DONTWAIT) > 0) {
  }
}

}  // namespace

void fuzz::round(fuzz::Random &random) {
  static Volume *const volume_ = new Volume("v", 0, std::make_unique<Nothing>());
  Volume &volume = *volume_;
  volume.excluded = RangeTable({{5000, 9000}, {1u << 19, 1u << 20}});
  volume.dirty.mark(0, 1);
  Negotiated negotiated;
  negotiated.extended_headers = random.one_in(2);
  negotiated.structured_replies = negotiated.extended_headers || random.one_in(2);
  negotiated.base_allocation_id = 1;
  if (random.one_in(2)) negotiated.replicated_id = 2;
  if (random.one_in(2)) negotiated.dirty_id = 3;
  fuzz::Bytes stream = make_stream(random, negotiated.extended_headers);
  if (random.one_in(2)) fuzz::mutate(stream, random);
  int sockets[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0);
  Fd peer(sockets[1]);
  ClientState state{Fd(sockets[0]), negotiated};
  if (random.one_in(3) && !stream.empty()) {  // bytes read during the handshake
    const auto early = stream.begin() + static_cast<ptrdiff_t>(random.below(stream.size()));
    state.unread.assign(stream.begin(), early);
    stream.erase(stream.begin(), early);
  }
  Connection connection(1, std::move(state), volume);
  bool broken = false;
  const auto parse = [&] {
    ParsedRequest request;
    for (auto parsed = Connection::Parse::kRequest; !broken && parsed != Connection::Parse::kIncomplete;) {
      parsed = connection.next(request);
      broken = parsed == Connection::Parse::kBroken;
      if (parsed == Connection::Parse::kInvalid) connection.reply(request.type, request.cookie, request.offset, nbd::kEinval);
      if (parsed == Connection::Parse::kRequest) answer(connection, request, random);
      if (parsed == Connection::Parse::kRequest || parsed == Connection::Parse::kInvalid) connection.done(request);
    }
    drain(connection, peer.get());
    CHECK(connection.held_bytes() < 40u << 20);
  };
  parse();
  fuzz::in_pieces(stream, random, [&](std::span<const uint8_t> part) {
    if (broken) return;
    CHECK(send(peer.get(), part.data(), part.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(part.size()));
    while (connection.receive()) parse();
  });
}
