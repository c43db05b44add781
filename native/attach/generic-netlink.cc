#include "attach/generic-netlink.h"

#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace understudy::attach {
namespace {

constexpr size_t kAnswerBytesMax = 16u << 10;
constexpr uint8_t kVersion = 1;  // of the messages, in either family

size_t aligned(size_t bytes) { return (bytes + NLA_ALIGNTO - 1) & ~size_t{NLA_ALIGNTO - 1}; }

// The u16 attribute `wanted`; 0: it is not there.
uint16_t find_u16(const uint8_t *at, size_t bytes, uint16_t wanted) {
  while (bytes >= NLA_HDRLEN) {
    nlattr head;
    memcpy(&head, at, sizeof head);
    if (head.nla_len < NLA_HDRLEN || head.nla_len > bytes) return 0;
    if ((head.nla_type & NLA_TYPE_MASK) == wanted && head.nla_len >= NLA_HDRLEN + sizeof(uint16_t)) {
      uint16_t value;
      memcpy(&value, at + NLA_HDRLEN, sizeof value);
      return value;
    }
    const size_t step = aligned(head.nla_len);
    if (step >= bytes) return 0;
    at += step;
    bytes -= step;
  }
  return 0;
}

}  // namespace

void Attributes::put(uint16_t type, const void *data, size_t bytes) {
  nlattr head{};
  head.nla_len = static_cast<uint16_t>(NLA_HDRLEN + bytes);
  head.nla_type = type;
  const size_t at = bytes_.size();
  bytes_.resize(at + NLA_HDRLEN + aligned(bytes));
  memcpy(&bytes_[at], &head, sizeof head);
  if (bytes) memcpy(&bytes_[at + NLA_HDRLEN], data, bytes);
}

void Attributes::put_nested(uint16_t type, const Attributes &inner) {
  put(type | NLA_F_NESTED, inner.bytes_.data(), inner.bytes_.size());
}

Result<GenericNetlink> GenericNetlink::open(const std::string &family) {
  const std::string what = "netlink: family " + family;
  GenericNetlink netlink;
  netlink.socket_ = Fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC));
  if (!netlink.socket_) return Status::failed(errno, what);
  const timeval limit{kAnswerSeconds, 0};
  setsockopt(netlink.socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(netlink.socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  Attributes name;
  name.put_text(CTRL_ATTR_FAMILY_NAME, family);
  Status status = netlink.exchange(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, name, what, [&](const uint8_t *at, size_t bytes) {
    netlink.family_ = find_u16(at, bytes, CTRL_ATTR_FAMILY_ID);
  });
  if (!status.ok()) return status;
  if (netlink.family_ == 0) return Status::failed(EPROTO, what);
  return netlink;
}

Status GenericNetlink::ask(uint8_t command, const Attributes &attributes, const std::string &what) {
  return exchange(family_, command, attributes, what, [](const uint8_t *, size_t) {});
}

Status GenericNetlink::exchange(uint16_t type, uint8_t command, const Attributes &attributes, const std::string &what,
                                const Reply &reply) {
  nlmsghdr head{};
  genlmsghdr generic{};
  head.nlmsg_len = static_cast<uint32_t>(NLMSG_HDRLEN + GENL_HDRLEN + attributes.bytes().size());
  head.nlmsg_type = type;
  head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  head.nlmsg_seq = ++sequence_;
  generic.cmd = command;
  generic.version = kVersion;
  std::vector<uint8_t> message(head.nlmsg_len);
  memcpy(&message[0], &head, sizeof head);
  memcpy(&message[NLMSG_HDRLEN], &generic, sizeof generic);
  if (!attributes.bytes().empty())
    memcpy(&message[NLMSG_HDRLEN + GENL_HDRLEN], attributes.bytes().data(), attributes.bytes().size());
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  const ssize_t sent = sendto(socket_.get(), message.data(), message.size(), 0,
                              reinterpret_cast<const sockaddr *>(&kernel), sizeof kernel);
  if (sent < 0) return Status::failed(errno, what);
  return answer(head.nlmsg_seq, what, reply);
}

// Whatever the kernel has to say, up to its acknowledgement.
Status GenericNetlink::answer(uint32_t sequence, const std::string &what, const Reply &reply) {
  std::vector<uint8_t> buffer(kAnswerBytesMax);
  for (;;) {
    ssize_t got;
    do got = recv(socket_.get(), buffer.data(), buffer.size(), 0);
    while (got < 0 && errno == EINTR);
    if (got < 0) return Status::failed(errno == EAGAIN || errno == EWOULDBLOCK ? ETIMEDOUT : errno, what);
    size_t left = static_cast<size_t>(got);
    const uint8_t *at = buffer.data();
    while (left >= NLMSG_HDRLEN) {
      nlmsghdr head;
      memcpy(&head, at, sizeof head);
      if (head.nlmsg_len < NLMSG_HDRLEN || head.nlmsg_len > left) return Status::failed(EPROTO, what);
      const uint8_t *body = at + NLMSG_HDRLEN;
      const size_t bytes = head.nlmsg_len - NLMSG_HDRLEN;
      if (head.nlmsg_seq == sequence && head.nlmsg_type == NLMSG_ERROR) {
        int32_t error = -EPROTO;
        if (bytes >= sizeof error) memcpy(&error, body, sizeof error);
        return error == 0 ? Status::good() : Status::failed(-error, what);
      }
      if (head.nlmsg_seq == sequence && bytes >= GENL_HDRLEN) reply(body + GENL_HDRLEN, bytes - GENL_HDRLEN);
      const size_t step = std::min<size_t>(NLMSG_ALIGN(head.nlmsg_len), left);
      at += step;
      left -= step;
    }
  }
}

}  // namespace understudy::attach
