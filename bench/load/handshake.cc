#include "handshake.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "wire/nbd.h"

namespace understudy::bench {
namespace {

constexpr uint64_t kServerMagic = 0x4e42444d41474943, kOptionMagic = 0x49484156454f5054,
                   kOptionReplyMagic = 0x0003e889045565a9;
constexpr uint16_t kFixedNewstyle = 1, kNoZeroes = 2;
constexpr uint32_t kOptionGo = 7, kReplyAck = 1, kReplyInfo = 3;
constexpr uint16_t kInfoExport = 0;
constexpr size_t kOptionReplyBytesMax = 64 << 10;
constexpr int kPatienceSeconds = 60;  // of one recv or send

struct [[gnu::packed]] Greeting {
  uint64_t magic, option_magic;
  uint16_t flags;
};
struct [[gnu::packed]] OptionHead {
  uint64_t magic;
  uint32_t option, length;
};
struct [[gnu::packed]] OptionReply {
  uint64_t magic;
  uint32_t option, type, length;
};
struct [[gnu::packed]] ExportInfo {
  uint16_t type;
  uint64_t bytes;
  uint16_t flags;
};

bool receive_all(int fd, void *data, size_t bytes) {
  return bytes == 0 || recv(fd, data, bytes, MSG_WAITALL) == static_cast<ssize_t>(bytes);
}
bool send_all(int fd, const void *data, size_t bytes) {
  return send(fd, data, bytes, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes);
}

int connect_unix(const std::string &path) {
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  if (path.size() >= sizeof address.sun_path) return errno = ENAMETOOLONG, -1;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0 && connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) return close(fd), -1;
  return fd;
}

int connect_tcp(const std::string &host, const std::string &port) {
  const addrinfo wanted{.ai_flags = AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
  addrinfo *found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &wanted, &found) != 0) return errno = EADDRNOTAVAIL, -1;
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int failed = fd < 0 ? -1 : connect(fd, found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  if (failed != 0) return close(fd), -1;
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

bool ask_for(int fd, const std::string &name) {
  std::vector<uint8_t> message(sizeof(OptionHead) + 4 + name.size() + 2);
  const OptionHead head{htobe64(kOptionMagic), htobe32(kOptionGo),
                        htobe32(static_cast<uint32_t>(message.size() - sizeof(OptionHead)))};
  const uint32_t name_length = htobe32(static_cast<uint32_t>(name.size()));
  std::memcpy(message.data(), &head, sizeof head);
  std::memcpy(message.data() + sizeof head, &name_length, 4);
  std::memcpy(message.data() + sizeof head + 4, name.data(), name.size());
  return send_all(fd, message.data(), message.size());
}

std::string negotiate(int fd, const std::string &name, uint64_t &bytes) {
  Greeting greeting;
  if (!receive_all(fd, &greeting, sizeof greeting)) return "no greeting";
  if (be64toh(greeting.magic) != kServerMagic || be64toh(greeting.option_magic) != kOptionMagic)
    return "not a newstyle NBD server";
  const uint32_t flags = htobe32(be16toh(greeting.flags) & (kFixedNewstyle | kNoZeroes));
  if (!send_all(fd, &flags, sizeof flags) || !ask_for(fd, name)) return "the server hung up";
  for (;;) {
    OptionReply reply;
    if (!receive_all(fd, &reply, sizeof reply)) return "the server hung up";
    const uint32_t type = be32toh(reply.type), length = be32toh(reply.length);
    if (be64toh(reply.magic) != kOptionReplyMagic || length > kOptionReplyBytesMax) return "a malformed option reply";
    std::vector<uint8_t> data(length);
    if (!receive_all(fd, data.data(), length)) return "the server hung up";
    if (type == kReplyAck) return bytes > 0 ? "" : "the server named no size";
    if (type != kReplyInfo) return "the export is refused: " + std::string(data.begin(), data.end());
    ExportInfo info;
    if (length < sizeof info) continue;
    std::memcpy(&info, data.data(), sizeof info);
    if (be16toh(info.type) == kInfoExport) bytes = be64toh(info.bytes);
  }
}

}  // namespace

Export open_export(const Options &options, const std::string &name) {
  Export opened;
  opened.fd = options.unix_path.empty() ? connect_tcp(options.tcp_host, options.tcp_port)
                                        : connect_unix(options.unix_path);
  if (opened.fd < 0) {
    opened.error = std::string("connect: ") + std::strerror(errno);
    return opened;
  }
  const timeval patience{.tv_sec = kPatienceSeconds};
  setsockopt(opened.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(opened.fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  opened.error = negotiate(opened.fd, name, opened.bytes);
  return opened;
}

}  // namespace understudy::bench
