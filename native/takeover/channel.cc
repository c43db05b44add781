#include "takeover/channel.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/check.h"
#include "core/clock.h"

namespace understudy::takeover {
namespace {

constexpr uint32_t kMagic = 0x75737470;  // "ustp"

struct Header {
  uint32_t magic;
  uint32_t text_bytes;
  uint32_t descriptors;
};
static_assert(sizeof(Header) == 12);

class Deadline {
 public:
  explicit Deadline(int limit_ms) : end_ns_(monotonic_ns() + static_cast<uint64_t>(std::max(0, limit_ms)) * 1'000'000) {}
  int left_ms() const {
    const uint64_t now = monotonic_ns();
    return now >= end_ns_ ? 0 : static_cast<int>((end_ns_ - now + 999'999) / 1'000'000);
  }

 private:
  const uint64_t end_ns_;
};

// Until the socket can do it, or has ended.
Status wait_for(int fd, short events, const Deadline &deadline, const char *what) {
  for (;;) {
    pollfd polled{fd, events, 0};
    const int count = poll(&polled, 1, deadline.left_ms());
    if (count > 0) return Status::good();
    if (count == 0) return Status::failed(ETIMEDOUT, what);
    if (errno != EINTR) return Status::failed(errno, what);
  }
}

bool passing(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

Status send_all(int fd, const void *data, size_t bytes, const Deadline &deadline) {
  const auto *from = static_cast<const uint8_t *>(data);
  while (bytes) {
    const ssize_t sent = send(fd, from, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
      from += sent;
      bytes -= static_cast<size_t>(sent);
    } else if (!passing(errno)) {
      return Status::failed(errno, "hand-over: send");
    } else if (Status ready = wait_for(fd, POLLOUT, deadline, "hand-over: send"); !ready.ok()) {
      return ready;
    }
  }
  return Status::good();
}

Status send_batch(int fd, const int *descriptors, size_t count, const Deadline &deadline) {
  uint8_t byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(kBatch * sizeof(int))];
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(count * sizeof(int));
  cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(count * sizeof(int));
  memcpy(CMSG_DATA(header), descriptors, count * sizeof(int));
  for (;;) {
    if (sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == 1) return Status::good();
    // ETOOMANYREFS: more are on the way than this user may have open; the other side takes them out.
    if (!passing(errno) && errno != ETOOMANYREFS) return Status::failed(errno, "hand-over: send descriptors");
    if (errno == ETOOMANYREFS) usleep(1000);
    if (deadline.left_ms() == 0) return Status::failed(ETIMEDOUT, "hand-over: send descriptors");
    if (Status ready = wait_for(fd, POLLOUT, deadline, "hand-over: send descriptors"); !ready.ok()) return ready;
  }
}

// Takes up whatever descriptors came with the bytes, so that none is left open unseen.
Result<size_t> receive_some(int fd, void *into, size_t bytes, std::vector<Fd> &descriptors, const Deadline &deadline) {
  for (;;) {
    iovec data{into, bytes};
    alignas(cmsghdr) char control[CMSG_SPACE(kBatch * sizeof(int))];
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0 && passing(errno)) {
      if (Status ready = wait_for(fd, POLLIN, deadline, "hand-over: receive"); !ready.ok()) return ready;
      continue;
    }
    if (got < 0) return Status::failed(errno, "hand-over: receive");
    if (got == 0) return Status::failed(ECONNRESET, "hand-over: receive: the other process has ended");
    for (cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
      for (size_t at = 0; at < (header->cmsg_len - CMSG_LEN(0)) / sizeof(int); at++) {
        int one;
        memcpy(&one, CMSG_DATA(header) + at * sizeof one, sizeof one);
        descriptors.emplace_back(one);
      }
    }
    if (message.msg_flags & MSG_CTRUNC)
      return Status::failed(EMFILE, "hand-over: receive: this process may not have so many descriptors open");
    return static_cast<size_t>(got);
  }
}

Status receive_all(int fd, void *into, size_t bytes, const Deadline &deadline) {
  std::vector<Fd> uninvited;
  auto *to = static_cast<uint8_t *>(into);
  while (bytes) {
    auto got = receive_some(fd, to, bytes, uninvited, deadline);
    if (!got.ok()) return std::move(got.status);
    if (!uninvited.empty()) return Status::failed(EPROTO, "hand-over: receive: descriptors where none belong");
    to += got.value;
    bytes -= got.value;
  }
  return Status::good();
}

Result<sockaddr_un> address_of(const std::string &path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return Status::failed(ENAMETOOLONG, "hand-over: " + path);
  memcpy(address.sun_path, path.data(), path.size());
  return std::move(address);
}

}  // namespace

Result<Fd> Channel::connect(const std::string &path) {
  auto address = address_of(path);
  if (!address.ok()) return std::move(address.status);
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const auto *raw = reinterpret_cast<const sockaddr *>(&address.value);
  if (!fd || ::connect(fd.get(), raw, sizeof address.value) != 0) return Status::failed(errno, "hand-over: connect to " + path);
  return fd;
}

Result<Fd> Channel::accept(int listening, int limit_ms) {
  const Deadline deadline(limit_ms);
  for (;;) {
    if (Status ready = wait_for(listening, POLLIN, deadline, "hand-over: accept"); !ready.ok()) return ready;
    Fd fd(accept4(listening, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (fd) return fd;
    if (!passing(errno) && errno != ECONNABORTED) return Status::failed(errno, "hand-over: accept");
  }
}

Status Channel::send(const std::string &text, const std::vector<int> &descriptors, int limit_ms) {
  if (text.size() > kTextMax || descriptors.size() > kDescriptorsMax)
    return Status::failed(EMSGSIZE, "hand-over: " + std::to_string(text.size()) + " bytes with " +
                                        std::to_string(descriptors.size()) + " descriptors");
  const Deadline deadline(limit_ms);
  const Header header{kMagic, static_cast<uint32_t>(text.size()), static_cast<uint32_t>(descriptors.size())};
  if (Status sent = send_all(socket_.get(), &header, sizeof header, deadline); !sent.ok()) return sent;
  if (Status sent = send_all(socket_.get(), text.data(), text.size(), deadline); !sent.ok()) return sent;
  for (size_t at = 0; at < descriptors.size(); at += kBatch) {
    const size_t count = std::min(kBatch, descriptors.size() - at);
    if (Status sent = send_batch(socket_.get(), &descriptors[at], count, deadline); !sent.ok()) return sent;
  }
  return Status::good();
}

Result<Message> Channel::receive(int limit_ms) {
  const Deadline deadline(limit_ms);
  Header header;
  if (Status got = receive_all(socket_.get(), &header, sizeof header, deadline); !got.ok()) return got;
  if (header.magic != kMagic || header.text_bytes > kTextMax || header.descriptors > kDescriptorsMax)
    return Status::failed(EPROTO, "hand-over: receive: not a message of a daemon");
  Message message;
  message.text.resize(header.text_bytes);
  if (Status got = receive_all(socket_.get(), message.text.data(), message.text.size(), deadline); !got.ok()) return got;
  while (message.descriptors.size() < header.descriptors) {
    const size_t before = message.descriptors.size();
    const size_t due = std::min(kBatch, header.descriptors - before);
    uint8_t byte;
    auto got = receive_some(socket_.get(), &byte, 1, message.descriptors, deadline);
    if (!got.ok()) return std::move(got.status);
    if (message.descriptors.size() != before + due)
      return Status::failed(EPROTO, "hand-over: receive: " + std::to_string(message.descriptors.size() - before) +
                                        " descriptors where " + std::to_string(due) + " belong");
  }
  return message;
}

pid_t Channel::peer() const {
  ucred who{};
  socklen_t bytes = sizeof who;
  return getsockopt(socket_.get(), SOL_SOCKET, SO_PEERCRED, &who, &bytes) == 0 ? who.pid : 0;
}

void Channel::shut() { (void)shutdown(socket_.get(), SHUT_RDWR); }

}  // namespace understudy::takeover
