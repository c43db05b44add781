#include "quic/udp-socket.h"

#include <linux/errqueue.h>
#include <netinet/udp.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

namespace understudy::quic {
namespace {

// 8 MiB windows through the default 208 KiB buffer lost packets on loopback. Force works for root only.
constexpr int kSocketBufferBytes = 8 << 20;

void set_buffer(int fd, int forced, int plain) {
  const int bytes = kSocketBufferBytes;
  if (setsockopt(fd, SOL_SOCKET, forced, &bytes, sizeof bytes) != 0)
    (void)setsockopt(fd, SOL_SOCKET, plain, &bytes, sizeof bytes);  // capped at net.core.[rw]mem_max
}

void set_flag(int fd, int level, int name, int value) {
  (void)setsockopt(fd, level, name, &value, sizeof value);  // each is a matter of speed or comfort, none of correctness
}

void *add_control(msghdr &message, size_t capacity, int level, int type, size_t bytes) {
  // Appends one control message behind those that are there.
  auto *header = reinterpret_cast<cmsghdr *>(static_cast<uint8_t *>(message.msg_control) + message.msg_controllen);
  if (message.msg_controllen + CMSG_SPACE(bytes) > capacity) return nullptr;
  header->cmsg_level = level;
  header->cmsg_type = type;
  header->cmsg_len = CMSG_LEN(bytes);
  message.msg_controllen += CMSG_SPACE(bytes);
  return CMSG_DATA(header);
}

void add_source_address(msghdr &message, size_t capacity, const Address &local) {
  if (local.family() == AF_INET6) {
    in6_pktinfo info{};
    info.ipi6_addr = local.v6.sin6_addr;
    if (void *at = add_control(message, capacity, IPPROTO_IPV6, IPV6_PKTINFO, sizeof info))
      memcpy(at, &info, sizeof info);
  } else {
    in_pktinfo info{};
    info.ipi_spec_dst = local.v4.sin_addr;
    if (void *at = add_control(message, capacity, IPPROTO_IP, IP_PKTINFO, sizeof info)) memcpy(at, &info, sizeof info);
  }
}

}  // namespace

UdpSocket::Buffers::Buffers() : slots_(new Slot[kMessages]) {}

Result<std::unique_ptr<UdpSocket>> UdpSocket::open(const Address &bind_to, Options options) {
  std::unique_ptr<UdpSocket> self(new UdpSocket);
  Address address = bind_to;
  if (options.dual_stack) address = Address::any(AF_INET6, bind_to.port());
  const int type = SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
  self->fd_ = Fd(socket(address.family(), type, 0));
  if (!self->fd_) return Status::failed(errno, "open a UDP socket: " + address.text());
  if (address.family() == AF_INET6) set_flag(self->fd(), IPPROTO_IPV6, IPV6_V6ONLY, options.dual_stack ? 0 : 1);
  self->set_options(options);
  if (bind(self->fd(), &address.base, address.length) != 0)
    return Status::failed(errno, "listen: UDP " + address.text());
  sockaddr_in6 bound{};
  socklen_t length = sizeof bound;
  if (getsockname(self->fd(), reinterpret_cast<sockaddr *>(&bound), &length) != 0)
    return Status::failed(errno, "listen: UDP " + address.text());
  self->local_ = Address::from(reinterpret_cast<sockaddr *>(&bound), length);
  self->local_per_packet_ = self->local_.is_any() && !options.report_errors;
  return self;
}

void UdpSocket::set_options(const Options &options) {
  set_buffer(fd(), SO_RCVBUFFORCE, SO_RCVBUF);
  set_buffer(fd(), SO_SNDBUFFORCE, SO_SNDBUF);
  set_flag(fd(), SOL_UDP, UDP_GRO, 1);
  set_flag(fd(), IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO);
  set_flag(fd(), IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO);
  if (options.report_errors) {  // a socket for outgoing sessions
    set_flag(fd(), IPPROTO_IP, IP_RECVERR, 1);
    set_flag(fd(), IPPROTO_IPV6, IPV6_RECVERR, 1);
  } else {
    set_flag(fd(), IPPROTO_IP, IP_PKTINFO, 1);
    set_flag(fd(), IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
  }
}

bool UdpSocket::reaches(const Address &remote) const {
  if (local_.family() == AF_INET) return remote.unmapped().family() == AF_INET;
  return remote.family() == AF_INET6 || local_.is_any();
}

Address UdpSocket::native(const Address &remote) const {
  return local_.family() == AF_INET ? remote.unmapped() : remote.mapped();
}

ssize_t UdpSocket::send_once(const uint8_t *data, size_t length, size_t segment, const OutgoingBatch &batch) {
  iovec vector{const_cast<uint8_t *>(data), length};
  alignas(cmsghdr) uint8_t control[CMSG_SPACE(sizeof(uint16_t)) + CMSG_SPACE(sizeof(in6_pktinfo))] = {};
  Address remote = batch.remote;
  msghdr message{};
  message.msg_name = &remote.base;
  message.msg_namelen = remote.length;
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  if (length > segment) {
    const auto bytes = static_cast<uint16_t>(segment);
    memcpy(add_control(message, sizeof control, SOL_UDP, UDP_SEGMENT, sizeof bytes), &bytes, sizeof bytes);
  }
  if (local_per_packet_ && !batch.local.is_any()) add_source_address(message, sizeof control, batch.local);
  if (message.msg_controllen == 0) message.msg_control = nullptr;
  // A refusal that the network reported earlier surfaces on the next call, once; take_errors() tells who refused.
  for (int attempt = 0;; attempt++) {
    const ssize_t sent = sendmsg(fd(), &message, 0);
    if (sent >= 0 || attempt >= 4 || (errno != EINTR && errno != ECONNREFUSED && errno != EHOSTUNREACH)) return sent;
  }
}

SendResult UdpSocket::send(const OutgoingBatch &batch) {
  size_t done = 0;
  bool one_by_one = !segmentation_;
  while (done < batch.length) {
    const size_t rest = batch.length - done;
    const size_t length = one_by_one ? std::min(rest, batch.segment) : rest;
    if (send_once(batch.data + done, length, batch.segment, batch) >= 0) {
      // A refused segmented send went well packet by packet: there is no offload here.
      if (one_by_one && length < rest) segmentation_ = false;
      done += length;
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return {SendOutcome::kBlocked, done};
    if (errno == EMSGSIZE) return {SendOutcome::kTooLarge, done};
    if (one_by_one || length <= batch.segment || (errno != EINVAL && errno != EIO && errno != EOPNOTSUPP))
      return {SendOutcome::kUnreachable, done};
    one_by_one = true;  // EINVAL is also what Linux 6.1 says to segments above the MTU: a single packet will tell
  }
  return {SendOutcome::kSent, done};
}

void UdpSocket::read_control(const void *opaque, IncomingBatch &batch) const {
  auto *message = static_cast<msghdr *>(const_cast<void *>(opaque));
  for (cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
    if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
      int bytes = 0;
      memcpy(&bytes, CMSG_DATA(c), sizeof bytes);
      if (bytes > 0) batch.segment = static_cast<size_t>(bytes);
    } else if (!local_per_packet_) {
      continue;
    } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
      in6_pktinfo info;
      memcpy(&info, CMSG_DATA(c), sizeof info);
      if (local_.family() == AF_INET6) batch.local.v6.sin6_addr = info.ipi6_addr;
    } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO && local_.family() == AF_INET) {
      in_pktinfo info;
      memcpy(&info, CMSG_DATA(c), sizeof info);
      batch.local.v4.sin_addr = info.ipi_addr;
    }
  }
}

size_t UdpSocket::receive(Buffers &buffers, std::span<IncomingBatch> batches) {
  mmsghdr messages[Buffers::kMessages];
  iovec vectors[Buffers::kMessages];
  const size_t wanted = std::min(batches.size(), Buffers::kMessages);
  for (size_t i = 0; i < wanted; i++) {
    Buffers::Slot &slot = buffers.slots_[i];
    vectors[i] = {slot.data, sizeof slot.data};
    messages[i] = {};
    messages[i].msg_hdr.msg_name = &slot.from;
    messages[i].msg_hdr.msg_namelen = sizeof slot.from;
    messages[i].msg_hdr.msg_iov = &vectors[i];
    messages[i].msg_hdr.msg_iovlen = 1;
    messages[i].msg_hdr.msg_control = slot.control;
    messages[i].msg_hdr.msg_controllen = sizeof slot.control;
  }
  int count;
  int attempts = 0;
  do count = recvmmsg(fd(), messages, static_cast<unsigned>(wanted), MSG_DONTWAIT, nullptr);
  while (count < 0 && errno != EAGAIN && ++attempts < 8);  // EINTR, or an ICMP refusal that surfaces once
  for (int i = 0; i < count; i++) {
    const msghdr &header = messages[i].msg_hdr;
    IncomingBatch &batch = batches[static_cast<size_t>(i)];
    batch.data = buffers.slots_[static_cast<size_t>(i)].data;
    batch.length = messages[i].msg_len;
    batch.segment = std::max<size_t>(batch.length, 1);
    batch.local = local_;
    batch.remote = Address::from(static_cast<sockaddr *>(header.msg_name), header.msg_namelen);
    if (header.msg_flags & MSG_TRUNC) batch.length = 0;
    read_control(&header, batch);
  }
  return count > 0 ? static_cast<size_t>(count) : 0;
}

void UdpSocket::take_errors(const std::function<void(const Address &remote, int error)> &report) {
  for (int i = 0; i < 64; i++) {  // the rest next time
    uint8_t data[64];
    alignas(cmsghdr) uint8_t control[512];
    sockaddr_in6 destination{};
    iovec vector{data, sizeof data};
    msghdr message{};
    message.msg_name = &destination;
    message.msg_namelen = sizeof destination;
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    if (recvmsg(fd(), &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) return;
    for (cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
      const bool v4 = c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR;
      const bool v6 = c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR;
      if (!v4 && !v6) continue;
      sock_extended_err error;
      memcpy(&error, CMSG_DATA(c), sizeof error);
      const Address remote = Address::from(reinterpret_cast<sockaddr *>(&destination), message.msg_namelen);
      report(native(remote), static_cast<int>(error.ee_errno));
    }
  }
}

}  // namespace understudy::quic
