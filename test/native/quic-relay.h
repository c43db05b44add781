// A network with faults between two endpoints on loopback: clients send to port(), the relay passes it on to the
// server from a port of its own, and back.
#pragma once
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "core/check.h"
#include "core/fd.h"

namespace understudy::quic {

class Relay {
 public:
  explicit Relay(uint16_t server_port) : server_(loopback(server_port)) {
    front_ = open_socket();
    back_ = open_socket();
    thread_ = std::thread([this] { run(); });
  }
  ~Relay() {
    stop_ = true;
    thread_.join();
  }
  uint16_t port() const { return port_of(front_.get()); }

  std::atomic<bool> silent{false};          // nothing passes
  std::atomic<size_t> bytes_max{65536};     // longer packets vanish
  std::atomic<unsigned> loss_per_mille{0};  //
  std::atomic<bool> one_way{false};         // nothing passes back to the client
  std::atomic<bool> rebind{false};          // from now on the client has another address
  std::atomic<uint64_t> passed{0}, vanished{0};

 private:
  static sockaddr_in loopback(uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }
  static uint16_t port_of(int fd) {
    sockaddr_in address{};
    socklen_t length = sizeof address;
    getsockname(fd, reinterpret_cast<sockaddr *>(&address), &length);
    return ntohs(address.sin_port);
  }
  static Fd open_socket() {
    Fd fd(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const int buffer = 4 << 20;
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
    const sockaddr_in address = loopback(0);
    CHECK(bind(fd.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address) == 0);
    return fd;
  }
  bool lets_pass(size_t bytes) {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    const bool lost = silent || bytes > bytes_max || random_ % 1000 < loss_per_mille;
    (lost ? vanished : passed)++;
    return !lost;
  }
  void pass(int from, int to, sockaddr_in *learn, const sockaddr_in &target) {
    for (int i = 0; i < 64; i++) {
      sockaddr_in source{};
      socklen_t length = sizeof source;
      const ssize_t bytes =
          recvfrom(from, buffer_.data(), buffer_.size(), 0, reinterpret_cast<sockaddr *>(&source), &length);
      if (bytes < 0) return;
      if (learn) *learn = source;
      if (lets_pass(static_cast<size_t>(bytes)))
        (void)sendto(to, buffer_.data(), static_cast<size_t>(bytes), 0, reinterpret_cast<const sockaddr *>(&target),
                     sizeof target);
    }
  }
  void run() {
    while (!stop_) {
      if (rebind.exchange(false)) back_ = open_socket();
      pollfd polled[] = {{front_.get(), POLLIN, 0}, {back_.get(), POLLIN, 0}};
      poll(polled, 2, 5);
      pass(front_.get(), back_.get(), &client_, server_);
      if (!one_way) pass(back_.get(), front_.get(), nullptr, client_);
    }
  }

  Fd front_, back_;
  sockaddr_in server_, client_{};
  std::vector<uint8_t> buffer_ = std::vector<uint8_t>(65536);
  uint64_t random_ = 88172645463325252ull;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace understudy::quic
