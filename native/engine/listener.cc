#include "engine/listener.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "core/thread.h"

namespace understudy::engine {
namespace {

void tune(int fd, bool tcp) {
  const int one = 1, bytes = 1 << 20;
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  if (!tcp) return;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  // A client whose host is gone must not hold a connection for ever: 60 s, then 6 probes 10 s apart.
  const int idle = 60, interval = 10, probes = 6;
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

// A socket file that nobody listens on is left over from a daemon that was killed.
bool is_stale(const sockaddr_un &address) {
  struct stat info{};
  if (lstat(address.sun_path, &info) != 0 || !S_ISSOCK(info.st_mode)) return false;
  Fd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return connect(probe.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0 &&
         errno == ECONNREFUSED;
}

Result<Fd> listen_unix(const ListenAddress &wanted) {
  const std::string what = "listen: unix:" + wanted.unix_path;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (wanted.unix_path.size() >= sizeof address.sun_path) return Status::failed(ENAMETOOLONG, what);
  memcpy(address.sun_path, wanted.unix_path.data(), wanted.unix_path.size());
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return Status::failed(errno, what);
  const auto *raw = reinterpret_cast<const sockaddr *>(&address);
  int bound = bind(fd.get(), raw, sizeof address);
  if (bound != 0 && errno == EADDRINUSE && is_stale(address)) {
    unlink(address.sun_path);
    bound = bind(fd.get(), raw, sizeof address);
  }
  if (bound != 0) return Status::failed(errno, what);
  // Nobody can connect before listen(): mode and group are right from the first moment.
  const bool ready = chmod(address.sun_path, wanted.mode) == 0 &&
                     (wanted.group_id < 0 || chown(address.sun_path, -1, static_cast<gid_t>(wanted.group_id)) == 0) &&
                     ::listen(fd.get(), SOMAXCONN) == 0;
  if (ready) return fd;
  Status status = Status::failed(errno, what);
  unlink(address.sun_path);
  return status;
}

Result<Fd> listen_tcp(const ListenAddress &wanted) {
  const std::string what = "listen: " + wanted.host + ":" + std::to_string(wanted.port);
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  const int failed = getaddrinfo(wanted.host.c_str(), std::to_string(wanted.port).c_str(), &hints, &found);
  if (failed) return Status{EADDRNOTAVAIL, what + ": " + gai_strerror(failed)};
  Fd fd(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int one = 1;
  if (fd) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  const bool ready = fd && bind(fd.get(), found->ai_addr, found->ai_addrlen) == 0 && ::listen(fd.get(), SOMAXCONN) == 0;
  const int error = errno;
  freeaddrinfo(found);
  if (!ready) return Status::failed(error, what);
  return fd;
}

}  // namespace

Result<Fd> listening_socket(const ListenAddress &address) {
  return address.unix_path.empty() ? listen_tcp(address) : listen_unix(address);
}

namespace {
uint16_t port_of(int fd) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof address;
  if (getsockname(fd, reinterpret_cast<sockaddr *>(&address), &bytes) != 0) return 0;
  if (address.ss_family == AF_INET) return ntohs(reinterpret_cast<sockaddr_in *>(&address)->sin_port);
  if (address.ss_family == AF_INET6) return ntohs(reinterpret_cast<sockaddr_in6 *>(&address)->sin6_port);
  return 0;
}

std::string describe(const sockaddr_storage &address, socklen_t bytes) {
  if (address.ss_family == AF_UNIX) return "unix";
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (getnameinfo(reinterpret_cast<const sockaddr *>(&address), bytes, host, sizeof host, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return "unknown";
  return std::string(host) + ":" + port;
}

}  // namespace

Acceptor::Acceptor(Accepted accepted)
    : accepted_(std::move(accepted)), thread_(start_thread("us-accept", [this] { run(); })) {}

Acceptor::~Acceptor() {
  stopping_.store(true);
  waker_.wake();
  thread_.join();
  for (auto &[id, listener] : listeners_)
    if (!listener.unix_path.empty()) unlink(listener.unix_path.c_str());
}

Result<Acceptor::Listening> Acceptor::listen(const ListenAddress &address) {
  auto fd = address.inherited >= 0 ? Result<Fd>(Fd(address.inherited)) : listening_socket(address);
  if (!fd.ok()) return std::move(fd.status);
  const uint16_t port = port_of(fd.value.get());
  std::lock_guard lock(mutex_);
  listeners_[++last_id_] = {std::move(fd.value), address.unix_path};
  waker_.wake();
  return Listening{last_id_, port};
}

void Acceptor::close(uint32_t listener) {
  std::lock_guard lock(mutex_);
  const auto found = listeners_.find(listener);
  if (found == listeners_.end()) return;
  if (!found->second.unix_path.empty()) unlink(found->second.unix_path.c_str());
  listeners_.erase(found);
  waker_.wake();
}

Fd Acceptor::take_listener(uint32_t listener) {
  std::lock_guard lock(mutex_);
  const auto found = listeners_.find(listener);
  if (found == listeners_.end()) return Fd();
  Fd fd = std::move(found->second.fd);
  listeners_.erase(found);
  waker_.wake();
  return fd;
}

void Acceptor::pause(bool paused) {
  std::lock_guard lock(mutex_);
  paused_ = paused;
  waker_.wake();
}

size_t Acceptor::waiting() {
  std::lock_guard lock(mutex_);
  return waiting_.size();
}

uint32_t Acceptor::number_for_adopted() {
  std::lock_guard lock(mutex_);
  return ++last_id_;
}

bool Acceptor::put(uint32_t connection, Fd stream) {
  std::lock_guard lock(mutex_);
  if (waiting_.size() >= kWaitingMax) return false;
  waiting_.insert_or_assign(connection, std::move(stream));
  return true;
}

uint32_t Acceptor::add(Fd stream) {
  std::lock_guard lock(mutex_);
  if (waiting_.size() >= kWaitingMax) return 0;
  waiting_.emplace(++last_id_, std::move(stream));
  return last_id_;
}

Fd Acceptor::take(uint32_t connection) {
  std::lock_guard lock(mutex_);
  const auto found = waiting_.find(connection);
  if (found == waiting_.end()) return Fd();
  Fd fd = std::move(found->second);
  waiting_.erase(found);
  return fd;
}

void Acceptor::run() {
  while (!stopping_.load()) {
    std::vector<pollfd> polled{{waker_.fd(), POLLIN, 0}};
    std::vector<uint32_t> ids{0};
    waker_.prepare();
    {
      std::lock_guard lock(mutex_);
      for (auto &[id, listener] : listeners_) {
        if (paused_) break;
        polled.push_back({listener.fd.get(), POLLIN, 0});
        ids.push_back(id);
      }
    }
    if (!stopping_.load()) poll(polled.data(), polled.size(), -1);
    waker_.woken();
    for (size_t i = 1; i < polled.size(); i++)
      if (polled[i].revents) accept_from(ids[i], polled[i].fd);
  }
}

void Acceptor::accept_from(uint32_t id, int fd) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof address;
  uint32_t connection;
  int duplicate;
  {
    std::lock_guard lock(mutex_);
    if (paused_ || !listeners_.contains(id)) return;  // closed meanwhile: the number may be another file by now
    Fd client(accept4(fd, reinterpret_cast<sockaddr *>(&address), &bytes, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!client) {
      const bool passing = errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
      if (!passing) usleep(10'000);  // out of descriptors: the queue stays, do not spin on it
      return;
    }
    if (waiting_.size() >= kWaitingMax) return;
    tune(client.get(), address.ss_family != AF_UNIX);
    duplicate = fcntl(client.get(), F_DUPFD_CLOEXEC, 3);
    if (duplicate < 0) return;
    connection = ++last_id_;
    waiting_.emplace(connection, std::move(client));
  }
  accepted_(id, connection, duplicate, describe(address, bytes));
}

}  // namespace understudy::engine
