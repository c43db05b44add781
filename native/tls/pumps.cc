#include "tls/pumps.h"

#include <sys/eventfd.h>
#include <sys/socket.h>

#include <cerrno>
#include <system_error>

#include "core/thread.h"

namespace understudy::tls {

Pumps::Pumps() : stop_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}

Pumps::~Pumps() {
  const uint64_t one = 1;
  while (write(stop_.get(), &one, sizeof one) < 0 && errno == EINTR) {
  }
  std::unique_lock lock(mutex_);
  none_left_.wait(lock, [this] { return threads_.empty(); });
  if (ended_.joinable()) ended_.join();
}

Status Pumps::start(uint32_t connection, Fd client, std::vector<uint8_t> early,
                    std::shared_ptr<Credentials> credentials, int handshake_ms, Ready ready) {
  std::lock_guard lock(mutex_);
  if (threads_.size() >= kPumpsMax) return Status::failed(EAGAIN, "TLS: start a thread");
  const int socket = client.get();
  auto pump = std::make_shared<Pump>(std::move(client), stop_.get(), std::move(credentials), std::move(early));
  try {
    in_handshake_[connection] = socket;
    threads_[connection] = start_thread("us-tls", [this, connection, pump, handshake_ms, ready = std::move(ready)]() mutable {
      run(connection, *pump, handshake_ms, ready);
      pump.reset();  // closes the socket before anybody can think that it is over
      end(connection);
    });
  } catch (const std::system_error &) {
    in_handshake_.erase(connection);
    threads_.erase(connection);
    return Status::failed(EAGAIN, "TLS: start a thread");
  }
  return Status::good();
}

void Pumps::cancel(uint32_t connection) {
  std::lock_guard lock(mutex_);
  const auto found = in_handshake_.find(connection);
  if (found != in_handshake_.end()) shutdown(found->second, SHUT_RDWR);
}

void Pumps::run(uint32_t connection, Pump &pump, int handshake_ms, const Ready &ready) {
  Status status = pump.handshake(handshake_ms);
  int pair[2] = {-1, -1};
  if (status.ok() && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
    status = Status::failed(errno, "TLS: socketpair");
  {
    std::lock_guard lock(mutex_);
    in_handshake_.erase(connection);
  }
  if (!status.ok()) {
    const bool refused = status.error == EPROTO;
    ready(std::move(status));
    if (refused) pump.linger();
    return;
  }
  Fd ours(pair[0]);
  const int bytes = 1 << 20;  // as far as the kernel allows
  for (int fd : pair) setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  ready(Secured{Fd(pair[1]), pump.describe()});
  pump.transfer(std::move(ours));
}

void Pumps::end(uint32_t connection) {
  std::thread before;
  {
    std::lock_guard lock(mutex_);
    before = std::move(ended_);
    ended_ = std::move(threads_[connection]);
  }
  if (before.joinable()) before.join();
  std::lock_guard lock(mutex_);
  threads_.erase(connection);
  if (threads_.empty()) none_left_.notify_all();
}

}  // namespace understudy::tls
