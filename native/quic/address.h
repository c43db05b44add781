// An internet address with port, IPv4 or IPv6, and what can be asked about the way to it.
#pragma once
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"

namespace understudy::quic {

struct Address {
  union {
    sockaddr base;
    sockaddr_in v4;
    sockaddr_in6 v6;
  };
  socklen_t length = 0;

  Address() : v6{} {}
  static Address from(const sockaddr *address, socklen_t length);
  static Address any(int family, uint16_t port);
  bool operator==(const Address &other) const;
  int family() const { return base.sa_family; }
  uint16_t port() const { return ntohs(family() == AF_INET6 ? v6.sin6_port : v4.sin_port); }
  void set_port(uint16_t port);
  bool is_any() const;
  Address mapped() const;    // an IPv4 address as ::ffff:a.b.c.d, for sockets that speak both
  Address unmapped() const;  // and back
  std::string text() const;  // a.b.c.d:port or [v6]:port; mapped ones as IPv4
};

enum class Lookup { kNumericOnly, kNames };

// All addresses of host, in the system's order of preference. kNames may block for as long as the system's resolver
// does; kNumericOnly never does.
Result<std::vector<Address>> look_up(const std::string &host, uint16_t port, Lookup lookup);

// UDP payload that fits into the MTU the kernel knows for the route to `remote` (IP_MTU, ip(7)); 0: no route.
size_t route_payload_bytes(const Address &remote);

}  // namespace understudy::quic
