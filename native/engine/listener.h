// Acceptor: listening sockets of the NBD server, on one thread. A new client is announced, and waits here, as an open
// descriptor, until TypeScript has negotiated with it over a duplicate and takes or releases it.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "core/fd.h"
#include "core/status.h"
#include "core/waker.h"

namespace understudy::engine {

struct ListenAddress {
  std::string unix_path;  // empty: TCP
  uint32_t mode = 0600;   // of the unix socket
  int64_t group_id = -1;  // -1: unchanged
  std::string host;
  uint16_t port = 0;
  int inherited = -1;  // this socket listens there already, and is taken over; -1: none
};

// A socket that listens there; `inherited` is not looked at.
Result<Fd> listening_socket(const ListenAddress &address);

class Acceptor {
 public:
  // duplicate: a descriptor for whoever negotiates; it belongs to the callee.
  using Accepted = std::function<void(uint32_t listener, uint32_t connection, int duplicate, std::string peer)>;
  explicit Acceptor(Accepted accepted);
  ~Acceptor();  // closes all, unlinks the unix sockets

  struct Listening {
    uint32_t listener;
    uint16_t port;
  };
  Result<Listening> listen(const ListenAddress &address);
  void close(uint32_t listener);
  // The listener's socket, which goes on listening with nobody who accepts; a unix socket keeps its file.
  Fd take_listener(uint32_t listener);
  // Nobody is accepted meanwhile: clients wait in the kernel's queue.
  void pause(bool paused);
  size_t waiting();      // accepted, and neither taken nor released
  uint32_t number_for_adopted();  // of a connection that was accepted elsewhere
  // A plaintext stream in place of the connection that was taken to be secured. False: too many wait.
  bool put(uint32_t connection, Fd stream);
  // A stream that nobody has connected for; 0: too many wait.
  uint32_t add(Fd stream);
  Fd take(uint32_t connection);  // not open: it was released, or never there

 private:
  static constexpr size_t kWaitingMax = 1024;  // accepted and neither taken nor released; more are closed at once
  struct Listener {
    Fd fd;
    std::string unix_path;
  };
  void run();
  void accept_from(uint32_t id, int fd);

  Accepted accepted_;
  std::mutex mutex_;  // of the maps
  std::map<uint32_t, Listener> listeners_;
  std::map<uint32_t, Fd> waiting_;
  uint32_t last_id_ = 0;
  bool paused_ = false;
  Waker waker_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace understudy::engine
