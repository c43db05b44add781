// link: how fast bytes get from one process to another on this machine by native/quic, by TLS 1.3 over TCP (GnuTLS, the
// same cipher), or by TCP in clear text. Prints one line of JSON. The record stream of a session alone: no log, no
// checksums of records, no disk.
//
//   link quic|tls|tcp SECONDS [PACKET_BYTES [LOSS_PERCENT]]       loss: of the packets that the receiver gets
//
// The receiver is a child process. Both run for SECONDS from the first byte on; the rate is what the receiver has seen.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "core/clock.h"
#include "quic/endpoint.h"

using namespace understudy;

namespace {

constexpr size_t kSourceBytes = 4 << 20;    // shown again and again; a power of two: it is divided by for each packet
constexpr size_t kChunkBytes = 256 << 10;   // of a TCP send or receive
double g_loss = 0;                          // of the receiver's packets, 0 to 1

[[noreturn]] void die(const std::string &what) {
  std::fprintf(stderr, "link: %s\n", what.c_str());
  _exit(1);
}
void check(bool good, const char *what) {
  if (!good) die(what);
}

double cpu_seconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval &time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// What one side has to say in the end; crosses the pipe as it is.
struct Told {
  uint64_t bytes = 0, nanoseconds = 0, packet_bytes = 0, lost = 0;
  double cpu = 0;
};

// What has come, since the first byte.
class Meter {
 public:
  void begin_if_first() {
    if (began_ != 0) return;
    began_ = monotonic_ns();
    cpu_before_ = cpu_seconds();
  }
  void count(size_t bytes) { told_.bytes += bytes; }
  bool over(double seconds) const { return began_ != 0 && static_cast<double>(monotonic_ns() - began_) >= seconds * 1e9; }
  Told told() const {
    Told told = told_;
    told.nanoseconds = monotonic_ns() - began_;
    told.cpu = cpu_seconds() - cpu_before_;
    return told;
  }

 private:
  uint64_t began_ = 0;
  double cpu_before_ = 0;
  Told told_;
};

std::vector<uint8_t> random_bytes(size_t count) {
  std::vector<uint8_t> bytes(count);
  uint64_t x = 1;
  for (auto &byte : bytes) byte = static_cast<uint8_t>((x = x * 6364136223846793005 + 1442695040888963407) >> 56);
  return bytes;
}

// ---- QUIC ------------------------------------------------------------------------------------------------------------

class Source : public quic::RecordSource {
 public:
  size_t peek(uint64_t offset, const uint8_t **data) override {
    *data = bytes_.data() + offset % kSourceBytes;
    return kSourceBytes - offset % kSourceBytes;
  }
  void acked(uint64_t) override {}

 private:
  const std::vector<uint8_t> bytes_ = random_bytes(kSourceBytes);
};

class Sender : public quic::SessionHandler {
 public:
  void established(quic::Session &session) override { session.attach_records(&source_); }
  void control_received(quic::Session &, std::span<const uint8_t>) override {}
  void records_received(quic::Session &, std::span<const uint8_t>) override {}
  void turn(quic::Session &session) override {
    packet_bytes = session.stats.packet_bytes.load();
    lost = session.stats.packets_lost.load();
  }
  void closed(quic::Session &, quic::CloseReason reason, const std::string &text) override {
    if (reason != quic::CloseReason::kPeer) die("the session ended: " + text);
    over = true;
  }
  std::atomic<uint64_t> packet_bytes{0}, lost{0};
  std::atomic<bool> over{false};

 private:
  Source source_;
};

class Receiver : public quic::SessionHandler {
 public:
  explicit Receiver(double seconds) : seconds_(seconds) {}
  void established(quic::Session &) override {}
  void control_received(quic::Session &, std::span<const uint8_t>) override {}
  void records_received(quic::Session &session, std::span<const uint8_t> bytes) override {
    meter_.begin_if_first();
    meter_.count(bytes.size());
    session.records_consumed(bytes.size());
  }
  void turn(quic::Session &session) override {
    if (over || !meter_.over(seconds_)) return;
    told = meter_.told();
    session.close("enough");
    over = true;
  }
  void closed(quic::Session &, quic::CloseReason, const std::string &text) override {
    if (!over) die("the session ended: " + text);
  }
  Told told;  // when it is over
  std::atomic<bool> over{false};

 private:
  const double seconds_;
  Meter meter_;
};

std::unique_ptr<quic::Endpoint> open(const quic::EndpointOptions &options, quic::SessionHandler &handler) {
  auto opened = quic::Endpoint::open(options, handler);
  if (!opened.ok()) die(opened.status.message);
  return std::move(opened.value);
}

void wait_for(const std::atomic<bool> &over, double seconds) {
  for (int tries = 0; !over; ++tries) {
    check(tries * 0.005 < seconds + 60, "nothing arrives");
    usleep(5000);
  }
}

struct Keys {
  quic::Identity sender, receiver;
  std::string sender_id, receiver_id;
};
Keys make_keys() {
  auto sender = quic::create_identity(), receiver = quic::create_identity();
  check(sender.ok() && receiver.ok(), "no keys");
  return {sender.value, receiver.value, quic::identity_fingerprint(sender.value).value,
          quic::identity_fingerprint(receiver.value).value};
}

Told receive_quic(const Keys &keys, double seconds, int port_to) {
  Receiver receiver(seconds);
  quic::EndpointOptions options;
  options.identity = keys.receiver;
  options.listen_host = "127.0.0.1";
  const auto endpoint = open(options, receiver);
  endpoint->allow({keys.sender_id});
  const uint16_t port = endpoint->local_port();
  check(write(port_to, &port, sizeof port) == sizeof port, "pipe");
  wait_for(receiver.over, seconds);
  usleep(50'000);  // the word that it is over has left
  return receiver.told;
}

Told send_quic(const Keys &keys, double seconds, uint16_t port, size_t packet_bytes) {
  Sender sender;
  quic::EndpointOptions options;
  options.identity = keys.sender;
  options.packet_bytes_max = packet_bytes;
  const auto endpoint = open(options, sender);
  endpoint->connect("127.0.0.1", port, keys.receiver_id);
  const double before = cpu_seconds();
  wait_for(sender.over, seconds);
  return {.packet_bytes = sender.packet_bytes, .lost = sender.lost, .cpu = cpu_seconds() - before};
}

// ---- TCP, and TLS on top of it ---------------------------------------------------------------------------------------

// A connection that is read and written in chunks; blocking.
class Stream {
 public:
  Stream(int fd, const quic::Identity *identity, bool server) : fd_(fd) {
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (identity == nullptr) return;
    const auto certificate = quic::identity_certificate(*identity, 3600);
    check(certificate.ok(), "no certificate");
    const auto datum = [](const std::string &text) {
      return gnutls_datum_t{reinterpret_cast<unsigned char *>(const_cast<char *>(text.data())), static_cast<unsigned>(text.size())};
    };
    const gnutls_datum_t pem = datum(certificate.value), key = datum(identity->key_pem);
    gnutls_certificate_allocate_credentials(&credentials_);
    check(gnutls_certificate_set_x509_key_mem(credentials_, &pem, &key, GNUTLS_X509_FMT_PEM) == 0, "TLS key");
    gnutls_init(&tls_, server ? GNUTLS_SERVER : GNUTLS_CLIENT);
    check(gnutls_priority_set_direct(tls_, "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM", nullptr) == 0, "TLS");
    gnutls_credentials_set(tls_, GNUTLS_CRD_CERTIFICATE, credentials_);
    gnutls_transport_set_int(tls_, fd);
    check(gnutls_handshake(tls_) == 0, "TLS handshake");
  }
  ssize_t write_some(const uint8_t *data, size_t bytes) {
    return tls_ != nullptr ? gnutls_record_send(tls_, data, bytes) : ::send(fd_, data, bytes, MSG_NOSIGNAL);
  }
  ssize_t read_some(uint8_t *data, size_t bytes) {
    return tls_ != nullptr ? gnutls_record_recv(tls_, data, bytes) : ::recv(fd_, data, bytes, 0);
  }

 private:
  int fd_;
  gnutls_session_t tls_ = nullptr;
  gnutls_certificate_credentials_t credentials_ = nullptr;
};

sockaddr_in loopback(uint16_t port) {
  return {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_zero = {}};
}

Told receive_tcp(const quic::Identity *identity, double seconds, int port_to) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = loopback(0);
  socklen_t length = sizeof address;
  check(bind(listener, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0 && listen(listener, 1) == 0, "listen");
  getsockname(listener, reinterpret_cast<sockaddr *>(&address), &length);
  const uint16_t port = ntohs(address.sin_port);
  check(write(port_to, &port, sizeof port) == sizeof port, "pipe");
  Stream stream(accept(listener, nullptr, nullptr), identity, true);
  Meter meter;
  std::vector<uint8_t> buffer(kChunkBytes);
  while (!meter.over(seconds)) {
    const ssize_t got = stream.read_some(buffer.data(), buffer.size());
    check(got > 0, "nothing arrives");
    meter.begin_if_first();
    meter.count(static_cast<size_t>(got));
  }
  return meter.told();  // the process ends, and with it the connection
}

Told send_tcp(const quic::Identity *identity, uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  const sockaddr_in address = loopback(port);
  check(connect(fd, reinterpret_cast<const sockaddr *>(&address), sizeof address) == 0, "connect");
  Stream stream(fd, identity, false);
  const std::vector<uint8_t> bytes = random_bytes(kSourceBytes);
  const double before = cpu_seconds();
  for (uint64_t at = 0;;) {
    const size_t from = at % bytes.size();
    const ssize_t sent = stream.write_some(bytes.data() + from, std::min(kChunkBytes, bytes.size() - from));
    if (sent <= 0) return {.cpu = cpu_seconds() - before};
    at += static_cast<uint64_t>(sent);
  }
}

// ---- both sides ------------------------------------------------------------------------------------------------------

void print(const Told &sent, const Told &received) {
  const double gib = static_cast<double>(received.bytes) / (1 << 30);
  std::printf("{\"rate\":%.0f,\"bytes\":%llu,\"seconds\":%.6f,\"sendCpuPerGiB\":%.4f,\"receiveCpuPerGiB\":%.4f,"
              "\"packetBytes\":%llu,\"lost\":%llu}\n",
              static_cast<double>(received.bytes) * 1e9 / static_cast<double>(received.nanoseconds),
              static_cast<unsigned long long>(received.bytes), static_cast<double>(received.nanoseconds) / 1e9,
              sent.cpu / gib, received.cpu / gib, static_cast<unsigned long long>(sent.packet_bytes),
              static_cast<unsigned long long>(sent.lost));
}

}  // namespace

// --wrap=recvmmsg: a network that loses packets. What the kernel has coalesced (UDP_GRO) is a row of equal segments, the
// last one shorter; a lost one is taken out of the row.
extern "C" int __real_recvmmsg(int, mmsghdr *, unsigned, int, timespec *);
extern "C" int __wrap_recvmmsg(int fd, mmsghdr *messages, unsigned count, int flags, timespec *timeout) {
  const int got = __real_recvmmsg(fd, messages, count, flags, timeout);
  static uint64_t state = 1;
  for (int i = 0; g_loss > 0 && i < got; ++i) {
    msghdr &header = messages[i].msg_hdr;
    size_t segment = messages[i].msg_len, kept = 0;
    for (cmsghdr *c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
      int bytes = 0;
      if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) std::memcpy(&bytes, CMSG_DATA(c), sizeof bytes);
      if (bytes > 0) segment = static_cast<size_t>(bytes);
    }
    auto *data = static_cast<uint8_t *>(header.msg_iov[0].iov_base);
    for (size_t at = 0; at < messages[i].msg_len; at += segment) {
      state = state * 6364136223846793005 + 1442695040888963407;
      if (static_cast<double>(state >> 40) < g_loss * (1 << 24)) continue;
      const size_t bytes = std::min<size_t>(segment, messages[i].msg_len - at);
      std::memmove(data + kept, data + at, bytes);
      kept += bytes;
    }
    messages[i].msg_len = static_cast<unsigned>(kept);
  }
  return got;
}

int main(int count, char **arguments) {
  const std::string mode = count > 1 ? arguments[1] : "";
  const double seconds = count > 2 ? std::atof(arguments[2]) : 0;
  if ((mode != "quic" && mode != "tls" && mode != "tcp") || seconds <= 0 || count > 5) {
    std::fprintf(stderr, "usage: link quic|tls|tcp SECONDS [PACKET_BYTES [LOSS_PERCENT]]\n");
    return 2;
  }
  const size_t packet_bytes = count > 3 ? std::strtoul(arguments[3], nullptr, 10) : 60000;
  const Keys keys = make_keys();
  int ports[2], reports[2];
  check(pipe(ports) == 0 && pipe(reports) == 0, "pipe");
  const bool is_quic = mode == "quic", is_tls = mode == "tls";
  if (fork() == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    g_loss = count > 4 ? std::atof(arguments[4]) / 100 : 0;
    const Told told = is_quic ? receive_quic(keys, seconds, ports[1]) : receive_tcp(is_tls ? &keys.receiver : nullptr, seconds, ports[1]);
    check(write(reports[1], &told, sizeof told) == sizeof told, "pipe");
    _exit(0);
  }
  close(ports[1]);
  close(reports[1]);
  uint16_t port = 0;
  check(read(ports[0], &port, sizeof port) == sizeof port, "the receiver does not start");
  const Told sent = is_quic ? send_quic(keys, seconds, port, packet_bytes) : send_tcp(is_tls ? &keys.sender : nullptr, port);
  Told received;
  check(read(reports[0], &received, sizeof received) == sizeof received, "the receiver has failed");
  print(sent, received);
  wait(nullptr);
  return 0;
}
