// sources: native/core/core.cc native/takeover/channel.cc  libs:
// Messages with descriptors between two processes: whole, within their time, or not at all (native/takeover/channel.h).
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <thread>

#include "core/clock.h"
#include "takeover/channel.h"

using namespace understudy;
using takeover::Channel;

namespace {

constexpr int kLongMs = 20'000;
int failures = 0, tests = 0;
void check(bool good, const std::string &title) {
  printf("%sok %d - %s\n", good ? "" : "not ", ++tests, title.c_str());
  failures += !good;
}

struct Pair {
  Pair() {
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0) _exit(1);
    near.emplace_back(Fd(fds[0]));
    far.emplace_back(Fd(fds[1]));
    raw = fds[1];
  }
  Channel &a() { return near[0]; }
  Channel &b() { return far[0]; }
  std::vector<Channel> near, far;
  int raw;  // the descriptor of b
};

size_t open_descriptors() {
  size_t count = 0;
  DIR *folder = opendir("/proc/self/fd");
  while (readdir(folder)) count++;
  closedir(folder);
  return count;
}

ino_t inode(int fd) {
  struct stat info{};
  return fstat(fd, &info) == 0 ? info.st_ino : 0;
}

void whole_messages() {
  Pair pair;
  std::string text(3u << 20, 'x');
  text[1000] = 'y';
  std::vector<Fd> files;
  std::vector<int> numbers;
  for (int i = 0; i < 700; i++) {
    char name[] = "/tmp/takeover-channel-XXXXXX";
    files.emplace_back(mkostemp(name, O_CLOEXEC));
    unlink(name);
    numbers.push_back(files.back().get());
  }
  std::thread sender([&] {
    check(pair.a().send(text, numbers, kLongMs).ok(), "3 MiB with 700 descriptors are sent");
    check(pair.a().send("next", {}, kLongMs).ok(), "and a small message after it");
  });
  auto got = pair.b().receive(kLongMs);
  auto next = pair.b().receive(kLongMs);
  sender.join();
  bool same = got.ok() && got.value.descriptors.size() == 700 && got.value.text == text;
  bool closing = same;
  for (size_t i = 0; same && i < 700; i++) {
    same = inode(got.value.descriptors[i].get()) == inode(numbers[i]);
    closing = closing && (fcntl(got.value.descriptors[i].get(), F_GETFD) & FD_CLOEXEC);
  }
  check(same, "they arrive whole, and every descriptor is the file that was sent, in order");
  check(closing, "no program that is started later gets one of them");
  check(next.ok() && next.value.text == "next" && next.value.descriptors.empty(), "messages keep their borders");
}

void time_limits() {
  Pair pair;
  const uint64_t began = monotonic_ns();
  check(pair.b().receive(50).status.error == ETIMEDOUT, "a side that says nothing: the wait ends");
  check(send(pair.raw, "ust", 3, 0) == 3 && pair.a().receive(50).status.error == ETIMEDOUT,
        "so it does in the middle of a message");
  Pair full;
  const std::string large(takeover::kTextMax, 'x');
  check(full.a().send(large, {}, 50).error == ETIMEDOUT, "a side that takes nothing: the sending ends");
  check(monotonic_ns() - began >= 150'000'000, "none of them before its time");
}

void ends() {
  Pair pair;
  pair.near.clear();
  check(pair.b().receive(kLongMs).status.error == ECONNRESET, "the other side has ended: the wait ends at once");
  check(pair.b().send("x", {}, kLongMs).error == EPIPE, "and nothing can be sent");
  Pair other;
  std::thread waiting([&] { check(!other.b().receive(kLongMs).ok(), "a wait ends when the channel is shut"); });
  other.b().shut();
  waiting.join();
}

void refusals() {
  const size_t before = open_descriptors();
  {
    Pair pair;
    check(pair.a().send(std::string(takeover::kTextMax + 1, 'x'), {}, kLongMs).error == EMSGSIZE, "a text has a maximum");
    check(pair.a().send("", std::vector<int>(takeover::kDescriptorsMax + 1, 0), kLongMs).error == EMSGSIZE,
          "so have the descriptors");
    check(send(pair.raw, "GET / HTTP/1.1\r\n", 16, 0) == 16 && pair.a().receive(kLongMs).status.error == EPROTO,
          "what is no message of a daemon is refused");
  }
  {
    Pair pair;
    const uint32_t huge[3] = {0x75737470, UINT32_MAX, 0};
    check(send(pair.raw, huge, sizeof huge, 0) == sizeof huge && pair.a().receive(kLongMs).status.error == EPROTO,
          "a length beyond the maximum is refused before anything is taken for it");
  }
  {
    Pair pair;  // a header that promises one descriptor, with another one in its place: they come with the header already
    const uint32_t header[3] = {0x75737470, 0, 0};
    iovec data{const_cast<uint32_t *>(header), sizeof header};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr *part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    const int one = pair.raw;
    memcpy(CMSG_DATA(part), &one, sizeof one);
    check(sendmsg(pair.raw, &message, 0) == sizeof header && pair.a().receive(kLongMs).status.error == EPROTO,
          "descriptors where none belong are refused");
  }
  check(open_descriptors() == before, "and closed");
}

void too_many() {
  Pair pair;
  const size_t before = open_descriptors();
  std::vector<int> numbers(200, pair.raw);
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const rlimit little{before + 20, limit.rlim_max};
  check(pair.a().send("", numbers, kLongMs).ok(), "200 descriptors are on their way");
  setrlimit(RLIMIT_NOFILE, &little);
  const int error = pair.b().receive(kLongMs).status.error;
  setrlimit(RLIMIT_NOFILE, &limit);
  check(error == EMFILE, "a process that may not have so many says so");
  check(open_descriptors() == before, "and keeps none of them");
}

void processes() {
  char folder[] = "/tmp/takeover-channel-XXXXXX";
  if (!mkdtemp(folder)) _exit(1);
  const std::string path = std::string(folder) + "/s";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path.data(), path.size());
  Fd listening(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (bind(listening.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) || listen(listening.get(), 1)) _exit(1);
  check(Channel::accept(listening.get(), 50).status.error == ETIMEDOUT, "nobody connects: the wait ends");
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    auto fd = Channel::connect(path);
    if (!fd.ok()) _exit(1);
    Channel channel(std::move(fd.value));
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) _exit(1);
    const bool sent = channel.send("a pipe", {ends[0]}, kLongMs).ok() && write(ends[1], "hello", 5) == 5;
    _exit(sent && channel.peer() == getppid() ? 0 : 1);
  }
  auto accepted = Channel::accept(listening.get(), kLongMs);
  Channel channel(std::move(accepted.value));
  auto got = channel.receive(kLongMs);
  char data[8]{};
  const bool read_all = got.ok() && got.value.descriptors.size() == 1 && read(got.value.descriptors[0].get(), data, 5) == 5;
  check(read_all && strcmp(data, "hello") == 0, "a descriptor works on when the process that sent it has ended");
  check(channel.peer() == child, "each side knows the other's process");
  int status = -1;
  waitpid(child, &status, 0);
  check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "and so did the other");
  check(Channel::connect(path + "-nobody").status.error == ENOENT, "where nobody listens nobody is reached");
  unlink(path.c_str());
  rmdir(folder);
}

}  // namespace

int main() {
  whole_messages();
  time_limits();
  ends();
  refusals();
  too_many();
  processes();
  printf("1..%d\n", tests);
  return failures != 0;
}
