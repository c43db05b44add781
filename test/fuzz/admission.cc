// sources: native/quic/*.cc native/core/*.cc  libs: -lngtcp2_crypto_gnutls -lngtcp2 -lgnutls
// QUIC's first packets, from anybody who can reach the port: a real endpoint on the loopback gets a recorded first
// flight, again and changed, and packets made to look like one. It lives, nobody is let in, and a stranger never gets
// more back than three times what it sent (RFC 9000, 8.1).
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>

#include "core/check.h"
#include "core/fd.h"
#include "fuzz.h"
#include "quic/endpoint.h"

using namespace understudy;

namespace {

class Nobody final : public quic::SessionHandler {
 public:
  void established(quic::Session &) override { CHECK(!"a stranger was let in"); }
  void control_received(quic::Session &, std::span<const uint8_t>) override { CHECK(!"a stranger was heard"); }
  void records_received(quic::Session &, std::span<const uint8_t>) override { CHECK(!"a stranger was heard"); }
  void turn(quic::Session &) override {}
  void closed(quic::Session &, quic::CloseReason, const std::string &) override {}
};

sockaddr_in loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

Fd make_socket(uint16_t *port) {
  Fd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in address = loopback(0);
  socklen_t length = sizeof address;
  CHECK(fd && bind(fd.get(), reinterpret_cast<sockaddr *>(&address), length) == 0);
  CHECK(getsockname(fd.get(), reinterpret_cast<sockaddr *>(&address), &length) == 0);
  if (port) *port = ntohs(address.sin_port);
  return fd;
}

struct Target {
  Nobody handler;
  std::unique_ptr<quic::Endpoint> endpoint;
  fuzz::Bytes first_flight;

  Target() {
    auto identity = quic::create_identity();
    CHECK(identity.ok());
    quic::EndpointOptions options;
    options.identity = identity.value;
    options.idle_timeout_ns = 100'000'000;  // half-open sessions go soon
    {  // what a client sends first
      auto client = quic::Endpoint::open(options, handler);
      uint16_t port = 0;
      const Fd listener = make_socket(&port);
      CHECK(client.ok());
      client.value->connect("127.0.0.1", port, std::string(64, 'a'));
      first_flight.resize(65536);
      ssize_t got = -1;
      for (int i = 0; i < 2000 && got < 0; i++, usleep(1000)) got = recv(listener.get(), first_flight.data(), first_flight.size(), 0);
      CHECK(got > 1000);
      first_flight.resize(static_cast<size_t>(got));
    }
    options.listen_host = "127.0.0.1";
    auto opened = quic::Endpoint::open(options, handler);
    CHECK(opened.ok());
    endpoint = std::move(opened.value);
  }
  // The link thread has seen all that was sent before.
  void settle() {
    for (int i = 0; i < 2; i++) {
      std::promise<void> done;
      endpoint->post([&] { done.set_value(); });
      done.get_future().wait();
    }
  }
};

// Long header, version, connection ids, token, length; then what nobody can decrypt.
fuzz::Bytes make_packet(fuzz::Random &random) {
  fuzz::Bytes packet;
  const auto byte = [&](uint64_t value) { packet.push_back(static_cast<uint8_t>(value)); };
  byte(random.one_in(4) ? random.below(256) : 0xc3);
  const uint32_t version = random.one_in(4) ? static_cast<uint32_t>(random.odd()) : 1;
  for (int shift = 24; shift >= 0; shift -= 8) byte(version >> shift);
  for (int id = 0; id < 2; id++) {
    const uint64_t bytes = random.one_in(6) ? random.below(256) : 8 + random.below(13);
    byte(bytes);
    for (uint64_t i = 0; i < std::min<uint64_t>(bytes, 40); i++) byte(random.below(256));
  }
  const uint64_t token = random.one_in(2) ? 0 : random.below(64);
  byte(token);
  for (uint64_t i = 0; i < token; i++) byte(i == 0 ? 0xb6 : random.below(256));  // looks like a Retry's
  byte(0x44 + random.below(3)), byte(random.below(256));
  const size_t bytes = random.one_in(4) ? random.below(1500) : 1200;
  while (packet.size() < bytes) byte(random.below(256));
  return packet;
}

}  // namespace

void fuzz::round(fuzz::Random &random) {
  static Target *const target = new Target;
  const Fd socket = make_socket(nullptr);
  const sockaddr_in to = loopback(target->endpoint->local_port());
  size_t sent = 0, got = 0;
  for (uint64_t count = 1 + random.below(4); count; count--) {
    fuzz::Bytes packet = random.one_in(2) ? target->first_flight : make_packet(random);
    if (random.one_in(2)) fuzz::mutate(packet, random);
    if (packet.empty()) continue;
    const ssize_t put = sendto(socket.get(), packet.data(), packet.size(), 0, reinterpret_cast<const sockaddr *>(&to), sizeof to);
    if (put > 0) sent += static_cast<size_t>(put);
  }
  target->settle();
  uint8_t reply[65536];
  for (ssize_t n; (n = recv(socket.get(), reply, sizeof reply, 0)) > 0;) got += static_cast<size_t>(n);
  CHECK(got <= 3 * sent);
}
