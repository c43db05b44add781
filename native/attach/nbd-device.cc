#include "attach/nbd-device.h"

#include <fcntl.h>
#include <linux/nbd-netlink.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

#include "attach/generic-netlink.h"

namespace understudy::attach {
namespace {

constexpr uint16_t kBackendIdentifier = 10;  // NBD_ATTR_BACKEND_IDENTIFIER, which older headers lack
constexpr int kSocketBytes = 4 << 20;

std::string named(const char *action, uint32_t index) { return std::string(action) + " /dev/nbd" + std::to_string(index); }

struct Ends {
  Fd engine, kernel;
};

Result<Ends> make_ends() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) return Status::failed(errno, "socketpair");
  Ends ends{Fd(fds[0]), Fd(fds[1])};
  // The kernel's own end blocks: its threads wait for room.
  if (fcntl(fds[0], F_SETFL, O_NONBLOCK) != 0) return Status::failed(errno, "socketpair");
  for (const int fd : fds) setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSocketBytes, sizeof kSocketBytes);
  return ends;
}

void put_socket(Attributes &attributes, const Fd &socket) {
  Attributes number, item;
  number.put_u32(NBD_SOCK_FD, static_cast<uint32_t>(socket.get()));
  item.put_nested(NBD_SOCK_ITEM, number);
  attributes.put_nested(NBD_ATTR_SOCKETS, item);
}

// The kernel says that all is well, too, when it had no use for the socket because its own is alive: it has let go of it then.
bool is_closed(const Fd &engine_end) {
  pollfd polled{engine_end.get(), POLLRDHUP, 0};
  return poll(&polled, 1, 0) == 1 && (polled.revents & (POLLRDHUP | POLLHUP)) != 0;
}

Result<Fd> hand_over(uint8_t command, Attributes attributes, const std::string &what) {
  Result<GenericNetlink> netlink = GenericNetlink::open(NBD_GENL_FAMILY_NAME);
  if (!netlink.ok()) return netlink.status;
  Result<Ends> ends = make_ends();
  if (!ends.ok()) return ends.status;
  put_socket(attributes, ends.value.kernel);
  if (Status status = netlink.value.ask(command, attributes, what); !status.ok()) return status;
  ends.value.kernel.reset();
  if (is_closed(ends.value.engine)) return Status::failed(ENOSPC, what);
  return std::move(ends.value.engine);
}

Attributes common(const NbdDevice &device) {
  Attributes attributes;
  attributes.put_u32(NBD_ATTR_INDEX, device.index);
  attributes.put_u64(NBD_ATTR_DEAD_CONN_TIMEOUT, device.dead_seconds);
  attributes.put_text(kBackendIdentifier, device.identifier);
  return attributes;
}

}  // namespace

Result<Fd> connect_device(const NbdDevice &device) {
  Attributes attributes = common(device);
  attributes.put_u64(NBD_ATTR_SIZE_BYTES, device.size_bytes);
  attributes.put_u64(NBD_ATTR_BLOCK_SIZE_BYTES, device.block_bytes);
  attributes.put_u64(NBD_ATTR_SERVER_FLAGS, device.server_flags);
  // 0: a request that takes long is waited for. With a limit the kernel would cut the connection of a server that is
  // only slow (a full log, --on-standby-loss block), and send everything once more.
  attributes.put_u64(NBD_ATTR_TIMEOUT, 0);
  return hand_over(NBD_CMD_CONNECT, std::move(attributes), named("attach", device.index));
}

Result<Fd> reconnect_device(const NbdDevice &device) {
  return hand_over(NBD_CMD_RECONFIGURE, common(device), named("reconnect", device.index));
}

Status disconnect_device(uint32_t index) {
  Result<GenericNetlink> netlink = GenericNetlink::open(NBD_GENL_FAMILY_NAME);
  if (!netlink.ok()) return netlink.status;
  Attributes attributes;
  attributes.put_u32(NBD_ATTR_INDEX, index);
  return netlink.value.ask(NBD_CMD_DISCONNECT, attributes, named("detach", index));
}

}  // namespace understudy::attach
