#include "quic/address.h"

#include <arpa/inet.h>
#include <netdb.h>

#include <cerrno>
#include <cstring>

#include "core/fd.h"

namespace understudy::quic {

Address Address::from(const sockaddr *address, socklen_t length) {
  Address result;
  if (length > sizeof result.v6) length = sizeof result.v6;
  memcpy(&result.v6, address, length);
  result.length = length;
  return result;
}

Address Address::any(int family, uint16_t port) {
  Address result;
  result.base.sa_family = static_cast<sa_family_t>(family);
  result.length = family == AF_INET6 ? sizeof result.v6 : sizeof result.v4;
  result.set_port(port);
  return result;
}

bool Address::operator==(const Address &other) const {
  if (family() != other.family() || port() != other.port()) return false;
  if (family() == AF_INET6) return memcmp(&v6.sin6_addr, &other.v6.sin6_addr, sizeof v6.sin6_addr) == 0;
  return v4.sin_addr.s_addr == other.v4.sin_addr.s_addr;
}

void Address::set_port(uint16_t port) {
  if (family() == AF_INET6) v6.sin6_port = htons(port);
  else v4.sin_port = htons(port);
}

bool Address::is_any() const {
  return family() == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&v6.sin6_addr) : v4.sin_addr.s_addr == htonl(INADDR_ANY);
}

Address Address::mapped() const {
  if (family() != AF_INET) return *this;
  Address result = any(AF_INET6, port());
  result.v6.sin6_addr.s6_addr[10] = result.v6.sin6_addr.s6_addr[11] = 0xff;
  memcpy(&result.v6.sin6_addr.s6_addr[12], &v4.sin_addr, sizeof v4.sin_addr);
  return result;
}

Address Address::unmapped() const {
  if (family() != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) return *this;
  Address result = any(AF_INET, port());
  memcpy(&result.v4.sin_addr, &v6.sin6_addr.s6_addr[12], sizeof result.v4.sin_addr);
  return result;
}

std::string Address::text() const {
  const Address plain = unmapped();
  char host[INET6_ADDRSTRLEN] = "?";
  if (plain.family() == AF_INET) {
    inet_ntop(AF_INET, &plain.v4.sin_addr, host, sizeof host);
    return std::string(host) + ":" + std::to_string(plain.port());
  }
  inet_ntop(AF_INET6, &plain.v6.sin6_addr, host, sizeof host);
  return "[" + std::string(host) + "]:" + std::to_string(plain.port());
}

Result<std::vector<Address>> look_up(const std::string &host, uint16_t port, Lookup lookup) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_DGRAM;
  hints.ai_flags = AI_NUMERICSERV | (lookup == Lookup::kNumericOnly ? AI_NUMERICHOST : 0);
  addrinfo *list = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
  if (error != 0) {
    Status status = Status::failed(error == EAI_SYSTEM ? errno : EHOSTUNREACH, "look up: " + host);
    if (error != EAI_SYSTEM) status.message = "look up: " + host + ": " + gai_strerror(error);
    return status;
  }
  std::vector<Address> addresses;
  for (const addrinfo *entry = list; entry; entry = entry->ai_next)
    if (entry->ai_family == AF_INET || entry->ai_family == AF_INET6)
      addresses.push_back(Address::from(entry->ai_addr, entry->ai_addrlen));
  freeaddrinfo(list);
  if (addresses.empty()) return Status::failed(EHOSTUNREACH, "look up: " + host + ": no internet address");
  return addresses;
}

size_t route_payload_bytes(const Address &remote) {
  const Address plain = remote.unmapped();
  Fd probe(socket(plain.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!probe || connect(probe.get(), &plain.base, plain.length) != 0) return 0;
  const bool v6 = plain.family() == AF_INET6;
  int mtu = 0;
  socklen_t length = sizeof mtu;
  if (getsockopt(probe.get(), v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_MTU : IP_MTU, &mtu, &length) != 0) return 0;
  const int headers = (v6 ? 40 : 20) + 8;
  return mtu > headers ? static_cast<size_t>(mtu - headers) : 0;
}

}  // namespace understudy::quic
