// Channel: messages with descriptors between two processes of one host, over a unix socket.
//
//   frame      magic, bytes of the text, number of descriptors; the text
//   batches    for each kBatch descriptors one byte that carries them (SCM_RIGHTS: the kernel takes 253 at once)
//
// Guarantees: a message arrives whole, with all of its descriptors, within the time, or not at all: whatever it brought is
// closed. What either side may make the other hold is bounded. Every descriptor received is close-on-exec.
// One message at a time in each direction; shut() may be called from any thread, and ends what waits.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/fd.h"
#include "core/status.h"

namespace understudy::takeover {

constexpr size_t kTextMax = 8u << 20;      // 4096 clients take a twentieth
constexpr size_t kDescriptorsMax = 16384;  // two a client, and the listeners
constexpr size_t kBatch = 250;

struct Message {
  std::string text;
  std::vector<Fd> descriptors;
};

class Channel {
 public:
  explicit Channel(Fd socket) : socket_(std::move(socket)) {}
  // The other side listens on `path` and accepts.
  static Result<Fd> connect(const std::string &path);
  static Result<Fd> accept(int listening, int limit_ms);

  // The descriptors stay the caller's. ETIMEDOUT: the other side does not take it; EPIPE: it is gone.
  Status send(const std::string &text, const std::vector<int> &descriptors, int limit_ms);
  // ETIMEDOUT: nothing, or not all of it, came. ECONNRESET: the other side has ended. EPROTO: not a message.
  Result<Message> receive(int limit_ms);
  // The process at the other end when the channel was made; 0: unknown.
  pid_t peer() const;
  void shut();

 private:
  Fd socket_;
};

}  // namespace understudy::takeover
