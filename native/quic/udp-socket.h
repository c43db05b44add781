// One UDP socket with what makes it fast: segmentation offload on sending (UDP_SEGMENT), coalescing on receiving
// (UDP_GRO), many messages a call (recvmmsg), large buffers. Never fragments (IP_PMTUDISC_DO): a packet that is too
// large for the route is refused with kTooLarge.
//
// A socket bound to "any" remembers for each packet which of our addresses it came to, and answers from there.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/fd.h"
#include "core/status.h"
#include "quic/address.h"

namespace understudy::quic {

inline constexpr size_t kBatchPacketsMax = 64;      // UDP_MAX_SEGMENTS of the kernel
inline constexpr size_t kBatchBytesMax = 65000;     // of one send: 65507 less some slack for IPv6
inline constexpr size_t kDatagramBytesMax = 65536;  // what one receive can deliver

// Packets that leave in one call: all `segment` bytes long, only the last may be shorter.
struct OutgoingBatch {
  const uint8_t *data = nullptr;
  size_t length = 0;
  size_t segment = 0;
  Address local, remote;
};

// What one receive delivered: packets of `segment` bytes, the last may be shorter.
struct IncomingBatch {
  const uint8_t *data = nullptr;
  size_t length = 0;
  size_t segment = 0;
  Address local, remote;
};

enum class SendOutcome : uint8_t {
  kSent,
  kBlocked,      // wait for POLLOUT and send the rest
  kTooLarge,     // the route's MTU is smaller than a packet
  kUnreachable,  // dropped: no route, filtered, or the kernel is out of buffers; errno says which
};

struct SendResult {
  SendOutcome outcome;
  size_t sent;  // bytes
};

class UdpSocket {
 public:
  // dual_stack: an IPv6 socket for both families (where the system has IPv6). report_errors: ICMP refusals can be
  // asked for with take_errors().
  struct Options {
    bool dual_stack = false;
    bool report_errors = false;
  };
  static Result<std::unique_ptr<UdpSocket>> open(const Address &bind_to, Options options);

  int fd() const { return fd_.get(); }
  const Address &local() const { return local_; }
  bool reaches(const Address &remote) const;    // its family is spoken here
  Address native(const Address &remote) const;  // in this socket's family

  SendResult send(const OutgoingBatch &batch);  // any thread

  // Fills `batches` from one recvmmsg(2); their data lies in `buffers`. Returns how many; 0: nothing there.
  class Buffers;
  size_t receive(Buffers &buffers, std::span<IncomingBatch> batches);

  // Addresses that the kernel or the network reported as refusing our packets since the last call.
  void take_errors(const std::function<void(const Address &remote, int error)> &report);

 private:
  UdpSocket() = default;
  void set_options(const Options &options);
  ssize_t send_once(const uint8_t *data, size_t length, size_t segment, const OutgoingBatch &batch);
  void read_control(const void *message, IncomingBatch &batch) const;

  Fd fd_;
  Address local_;
  bool local_per_packet_ = false;  // bound to any
  std::atomic<bool> segmentation_{true};  // until the kernel or the device refuses
};

// Receive buffers, shared by the sockets of one thread.
class UdpSocket::Buffers {
 public:
  Buffers();
  static constexpr size_t kMessages = 8;

 private:
  friend class UdpSocket;
  struct Slot {
    alignas(16) uint8_t data[kDatagramBytesMax];
    alignas(16) uint8_t control[128];
    sockaddr_in6 from;
  };
  std::unique_ptr<Slot[]> slots_;
};

}  // namespace understudy::quic
