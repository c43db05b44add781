// sources: native/quic/*.cc native/core/core.cc native/core/memory-guard.cc  libs: -lngtcp2_crypto_gnutls -lngtcp2 -lgnutls
// The promises of native/quic/endpoint.h, between two endpoints of this process on loopback.
#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <thread>

#include "quic-fixture.h"
#include "quic-relay.h"

using namespace understudy;
using namespace understudy::quic;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static constexpr bool kSanitized = true;
#else
static constexpr bool kSanitized = false;
#endif
static constexpr uint64_t kBulkBytes = (kSanitized ? 32ull : 256ull) << 20;

static double cpu_seconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static size_t resident_bytes() {
  size_t total = 0, resident = 0;
  if (FILE *file = fopen("/proc/self/statm", "r")) {
    if (fscanf(file, "%zu %zu", &total, &resident) != 2) resident = 0;
    fclose(file);
  }
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

static bool contains(const std::string &text, const std::string &part) { return text.find(part) != std::string::npos; }

static auto established_one = [](Logs &logs) { return any(logs, [](auto &log) { return log.established; }); };
static auto closed_one = [](Logs &logs) { return any(logs, [](auto &log) { return log.closed; }); };

static void identity_tests() {
  const Identity identity = must_identity();
  const std::string fingerprint = must_fingerprint(identity);
  ok(fingerprint.size() == 64 && fingerprint == must_fingerprint(identity), "a key has one id of 64 hex digits");
  ok(fingerprint != must_fingerprint(must_identity()), "two keys have two ids");
  ok(!identity_fingerprint({"nonsense"}).ok(), "what is no key is refused");
  Recorder seen;
  EndpointOptions options;
  options.identity = {"nonsense"};
  ok(!Endpoint::open(options, seen).ok(), "an endpoint does not open without a key");
}

// Sends `total` bytes and tells how fast.
static bool transfer(Pair &pair, uint64_t total, double limit_s, uint16_t port = 0) {
  PatternSource source(total);
  pair.master.seen.on_established = [&](Session &session) { session.attach_records(&source); };
  const uint64_t begin = monotonic_ns();
  const SessionId id = pair.connect(port);
  const bool all = pair.standby.seen.wait(
      limit_s, [&](Logs &logs) { return any(logs, [&](auto &log) { return log.records >= total; }); });
  const double seconds = static_cast<double>(monotonic_ns() - begin) / 1e9;
  if (all) printf("# %.0f MB/s, %.2f s\n", static_cast<double>(total) / seconds / 1e6, seconds);
  pair.master.endpoint->close(id, "done");
  pair.master.seen.wait(5, [&](Logs &logs) { return logs[id].closed; });
  source.closed = true;  // from here on a peek or acked is a broken promise
  pair.standby.seen.wait(5, closed_one);
  return all && !pair.standby.seen.first().damaged;
}

static void bulk_test(size_t packet_bytes_max, const char *title) {
  Pair pair;
  pair.master.options.packet_bytes_max = packet_bytes_max;
  pair.open();
  const bool good = transfer(pair, kBulkBytes, 60);
  ok(good, std::string("every byte arrives once and in order, ") + title);
  const SessionLog log = pair.master.seen.first();
  ok(log.packet_bytes == packet_bytes_max, std::string("stats tell the packet size, ") + title);
}

static void close_test() {
  Pair pair;
  pair.open();
  const SessionId id = pair.connect();
  pair.master.seen.wait(5, established_one);
  pair.standby.seen.wait(5, established_one);
  ok(pair.master.seen.first().fingerprint == pair.standby.fingerprint &&
         pair.standby.seen.first().fingerprint == pair.master.fingerprint,
     "both sides are told the other's fingerprint");
  const std::string reason = "segment 7: no space left: make room and reconnect";
  pair.master.endpoint->close(id, reason);
  pair.standby.seen.wait(5, closed_one);
  pair.master.seen.wait(5, closed_one);
  const SessionLog there = pair.standby.seen.first(), here = pair.master.seen.first();
  ok(there.closed && there.reason == CloseReason::kPeer && there.text == reason, "the text of close() arrives");
  ok(here.closed && here.reason == CloseReason::kLocal && here.text == reason, "close() ends our own side as kLocal");
}

static void destructor_test() {
  Pair pair;
  pair.open();
  pair.connect();
  pair.standby.seen.wait(5, established_one);
  pair.master.endpoint.reset();
  ok(pair.master.seen.first().closed, "an endpoint that goes says closed() for its sessions");
  pair.standby.seen.wait(1, closed_one);
  ok(pair.standby.seen.first().reason == CloseReason::kPeer, "and tells the peers");
}

static void wrong_pin_test() {
  Pair pair;
  pair.open();
  const std::string expected(64, 'a');
  pair.master.endpoint->connect("127.0.0.1", pair.standby.port(), expected);
  pair.master.seen.wait(5, closed_one);
  pair.standby.seen.wait(5, closed_one);
  const SessionLog here = pair.master.seen.first(), there = pair.standby.seen.first();
  printf("# master:  %s\n# standby: %s\n", here.text.c_str(), there.text.c_str());
  ok(here.reason == CloseReason::kPeerNotAllowed && contains(here.text, pair.standby.fingerprint) &&
         contains(here.text, expected) && !here.established,
     "a wrong key of the server is refused, naming the one found and the one expected (G6)");
  ok(there.closed && there.reason == CloseReason::kRefusedByPeer && contains(there.text, "refuses our key"),
     "and the server is told so");
}

static void not_allowed_test() {
  Pair pair;
  pair.open();
  pair.standby.endpoint->allow({std::string(64, 'b')});
  pair.connect();
  pair.master.seen.wait(5, closed_one);
  pair.standby.seen.wait(5, closed_one);
  const SessionLog here = pair.master.seen.first(), there = pair.standby.seen.first();
  printf("# master:  %s\n# standby: %s\n", here.text.c_str(), there.text.c_str());
  ok(there.reason == CloseReason::kPeerNotAllowed && contains(there.text, pair.master.fingerprint) &&
         !there.established,
     "a client that is not allowed is refused, naming its fingerprint (G6)");
  ok(here.closed && here.reason == CloseReason::kRefusedByPeer && contains(here.text, pair.master.fingerprint),
     "and the client is told so");
}

static void no_longer_allowed_test() {
  Pair pair;
  pair.open();
  pair.connect();
  pair.standby.seen.wait(5, established_one);
  pair.standby.endpoint->allow({});
  pair.master.seen.wait(5, closed_one);
  pair.standby.seen.wait(5, closed_one);
  ok(pair.standby.seen.first().reason == CloseReason::kPeerNotAllowed &&
         pair.master.seen.first().reason == CloseReason::kRefusedByPeer,
     "allow() ends the sessions of those it leaves out");
}

static void rotation_test() {
  Pair pair;
  pair.open();
  const Identity next = must_identity();
  pair.master.endpoint->set_identity(next);
  pair.standby.endpoint->allow({must_fingerprint(next)});
  pair.connect();
  pair.standby.seen.wait(5, established_one);
  ok(pair.standby.seen.first().fingerprint == must_fingerprint(next), "set_identity() holds for new sessions");
}

// Everybody can have the certificate of a host's former key: whoever answers there shows it.
static Identity forged_successor(const Identity &victim) {
  constexpr char kHead[] = "-----BEGIN CERTIFICATE";
  Identity forged = create_successor(must_identity()).value;
  const std::string real = create_successor(victim).value.key_pem;
  forged.key_pem.resize(forged.key_pem.rfind(kHead));
  forged.key_pem += real.substr(real.rfind(kHead));
  return forged;
}

static void endorsement_test() {
  Pair pair;
  pair.open();
  const Identity successor = create_successor(pair.master.options.identity).value;
  pair.master.endpoint->set_identity(successor);
  pair.connect();
  pair.standby.seen.wait(5, established_one);
  ok(pair.standby.seen.first().fingerprint == pair.master.fingerprint, "a rotated key is let in by the former id");

  Pair again;
  again.open();
  again.master.endpoint->set_identity(create_successor(again.master.options.identity).value);
  again.standby.endpoint->allow({std::string(64, 'b')});
  again.connect();
  again.standby.seen.wait(5, closed_one);
  ok(again.standby.seen.first().reason == CloseReason::kPeerNotAllowed, "and not when neither id is allowed (G6)");

  Pair forged;
  forged.open();
  forged.master.endpoint->set_identity(forged_successor(forged.master.options.identity));
  forged.connect();
  forged.standby.seen.wait(5, [](Logs &logs) { return closed_one(logs) || established_one(logs); });
  ok(forged.standby.seen.first().reason == CloseReason::kPeerNotAllowed && !forged.standby.seen.first().established,
     "an endorsement that the former key did not sign is none (G6)");
}

static void names_test() {
  Pair pair;
  pair.standby.open("localhost");
  pair.standby.endpoint->allow({pair.master.fingerprint});
  pair.master.open();
  pair.master.endpoint->connect("localhost", pair.standby.port(), pair.standby.fingerprint);
  ok(pair.master.seen.wait(5, established_one), "a name is resolved, on either side");
  Host v6;
  v6.open("::");
  v6.endpoint->allow({pair.master.fingerprint});
  const SessionId four = pair.master.endpoint->connect("127.0.0.1", v6.port(), v6.fingerprint);
  const SessionId six = pair.master.endpoint->connect("::1", v6.port(), v6.fingerprint);
  ok(pair.master.seen.wait(5, [&](Logs &logs) { return logs[four].established && logs[six].established; }),
     "an endpoint on :: is reached over IPv4 and IPv6");
  const SessionId nowhere = pair.master.endpoint->connect("no-such-host.invalid", 1, v6.fingerprint);
  pair.master.seen.wait(10, [&](Logs &logs) { return logs[nowhere].closed; });
  printf("# %s\n", pair.master.seen.of(nowhere).text.c_str());
  ok(contains(pair.master.seen.of(nowhere).text, "no-such-host.invalid"),
     "a name that does not resolve ends with its name");
}

static void dead_port_test() {
  Host master;
  master.options.idle_timeout_ns = 20'000'000'000;
  master.open();
  const uint64_t begin = monotonic_ns();
  const SessionId refused = master.endpoint->connect("127.0.0.1", 9, std::string(64, 'a'));
  master.seen.wait(3, closed_one);
  const SessionLog log = master.seen.of(refused);
  printf("# %s\n", log.text.c_str());
  ok(log.closed && log.reason == CloseReason::kTimeout && log.closed_at - begin < 10'000'000'000,
     "a port where nobody listens ends with kTimeout, at once where ICMP tells");
}

// A machine that stands still for the idle timeout ends what keep-alives hold: then once more, with a longer one.
static bool holds_idle(uint64_t seconds) {
  Pair pair;
  pair.master.options.idle_timeout_ns = pair.standby.options.idle_timeout_ns = seconds * 1'000'000'000;
  pair.open();
  pair.connect();
  pair.master.seen.wait(5, established_one);
  usleep(static_cast<useconds_t>(seconds * 1'000'000 + 1'500'000));
  return !pair.master.seen.first().closed && !pair.standby.seen.first().closed;
}

static void timeout_test() {
  ok(holds_idle(1) || holds_idle(3) || holds_idle(9), "keep-alives hold an idle session");
  Pair pair;
  pair.master.options.idle_timeout_ns = pair.standby.options.idle_timeout_ns = 1'000'000'000;
  pair.open();
  Relay relay(pair.standby.port());
  pair.connect(relay.port());
  pair.master.seen.wait(5, established_one);
  const uint64_t silence = monotonic_ns();
  relay.silent = true;
  pair.master.seen.wait(5, closed_one);
  pair.standby.seen.wait(5, closed_one);
  const SessionLog here = pair.master.seen.first(), there = pair.standby.seen.first();
  printf("# %s\n", here.text.c_str());
  ok(here.reason == CloseReason::kTimeout && there.reason == CloseReason::kTimeout,
     "silence ends both sides with kTimeout");
  ok(here.closed_at - silence < 8'000'000'000, "when the idle timeout is over");
  const SessionId second = pair.connect(relay.port());
  pair.master.seen.wait(5, [&](Logs &logs) { return logs[second].closed; });
  ok(pair.master.seen.of(second).reason == CloseReason::kTimeout, "a peer that never answers ends with kTimeout");
}

// The peer's link thread hangs in its handler, as in a debugger; its socket fills.
static void stalled_peer_test() {
  Pair pair;
  pair.master.options.idle_timeout_ns = 1'000'000'000;
  pair.open();
  std::atomic<bool> hang{true};
  pair.standby.seen.on_established = [&](Session &) {
    while (hang) usleep(1000);
  };
  PatternSource source(64u << 20);
  pair.master.seen.on_established = [&](Session &session) { session.attach_records(&source); };
  pair.connect();
  pair.master.seen.wait(5, closed_one);
  source.closed = true;
  ok(pair.master.seen.first().reason == CloseReason::kTimeout, "a peer whose thread hangs ends with kTimeout");
  hang = false;
}

static void parallel_test() {
  constexpr size_t kSessions = 20;
  const uint64_t each = kBulkBytes / 64;
  Pair pair;
  pair.open();
  std::vector<std::unique_ptr<PatternSource>> sources;
  pair.master.seen.on_established = [&](Session &session) {
    sources.push_back(std::make_unique<PatternSource>(each, 1u << 20));
    session.attach_records(sources.back().get());
  };
  for (size_t i = 0; i < kSessions; i++) pair.connect();
  const bool all = pair.standby.seen.wait(60, [&](Logs &logs) {
    size_t complete = 0;
    for (auto &[id, log] : logs) complete += log.records == each && !log.damaged;
    return complete == kSessions;
  });
  ok(all, "20 sessions between two endpoints each deliver their own bytes");
  pair.master.endpoint.reset();
}

static void garbage_test() {
  Pair pair;
  pair.open();
  PatternSource source(1ull << 40, 1u << 20);
  pair.master.seen.on_established = [&](Session &session) { session.attach_records(&source); };
  pair.connect();
  pair.standby.seen.wait(5, [](Logs &logs) { return any(logs, [](auto &log) { return log.records > 16u << 20; }); });
  Fd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in target{};
  target.sin_family = AF_INET;
  target.sin_port = htons(pair.standby.port());
  target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const uint64_t before = pair.standby.seen.first().records;
  const size_t memory = resident_bytes();
  uint64_t x = 1234567;
  uint8_t packet[1400];
  const int count = kSanitized ? 20'000 : 100'000;
  for (int i = 0; i < count; i++) {
    for (size_t at = 0; at + 8 <= sizeof packet; at += 8) {
      x ^= x << 13, x ^= x >> 7, x ^= x << 17;
      memcpy(packet + at, &x, 8);
    }
    // A third random, a third like an Initial of version 1 (with random ids), a third like a packet of a session.
    if (i % 3 == 1) {
      const uint8_t head[] = {0xc0, 0, 0, 0, 1, 8};
      memcpy(packet, head, sizeof head);
      packet[14] = 8, packet[23] = 0, packet[24] = 0x44, packet[25] = 0xd0;
    } else if (i % 3 == 2) {
      packet[0] = 0x40 | (packet[0] & 0x3f);
    }
    (void)sendto(fd.get(), packet, i % 3 == 1 ? 1250 : 20 + x % 1300, MSG_DONTWAIT,
                 reinterpret_cast<sockaddr *>(&target), sizeof target);
  }
  const uint64_t grown = resident_bytes() - std::min(memory, resident_bytes());
  const bool goes_on = pair.standby.seen.wait(
      5, [&](Logs &logs) { return any(logs, [&](auto &log) { return log.records > before + (16u << 20); }); });
  printf("# memory grew by %llu KiB, handshakes begun by garbage: %zu\n", static_cast<unsigned long long>(grown >> 10),
         pair.standby.seen.count() - 1);
  ok(goes_on && !pair.standby.seen.first().closed && !pair.standby.seen.first().damaged,
     "100,000 garbage datagrams do not disturb a running session");
  ok(kSanitized || grown < (16u << 20), "and take no memory");
  pair.master.endpoint.reset();
}

static void back_pressure_test() {
  Pair pair;
  pair.standby.options.record_window_bytes = 1u << 20;
  pair.open();
  pair.standby.seen.consume = false;
  PatternSource source(8u << 20);
  pair.master.seen.on_established = [&](Session &session) { session.attach_records(&source); };
  const SessionId id = pair.connect();
  pair.standby.seen.wait(5, [](Logs &logs) { return any(logs, [](auto &log) { return log.records >= 1u << 20; }); });
  usleep(300'000);
  ok(pair.standby.seen.first().records == 1u << 20, "a receiver that consumes nothing is sent one window and no more");
  const double cpu = cpu_seconds();
  usleep(500'000);
  ok(cpu_seconds() - cpu < 0.1, "and nobody spins meanwhile");
  pair.standby.seen.consume = true;
  pair.standby.endpoint->wake();
  const bool all = pair.standby.seen.wait(
      10, [](Logs &logs) { return any(logs, [](auto &log) { return log.records == 8u << 20; }); });
  ok(all && !pair.standby.seen.first().damaged, "when it consumes again the rest follows");
  pair.master.endpoint->close(id, "done");
  pair.master.seen.wait(5, closed_one);
  ok(pair.master.seen.first().lost == 0, "without a lost packet");
}

static void control_test() {
  Pair pair;
  pair.open();
  const std::string frame(60'000, 'c');
  std::atomic<int> refused{0};
  pair.standby.seen.on_established = [&](Session &session) {
    const std::string hello = "hello from the standby";
    (void)session.send_control({reinterpret_cast<const uint8_t *>(hello.data()), hello.size()});
  };
  size_t queued = 0;
  pair.master.seen.on_established = [&](Session &session) {
    for (int i = 0; i < 40; i++) {
      if (session.send_control({reinterpret_cast<const uint8_t *>(frame.data()), frame.size()})) queued += frame.size();
      else refused++;
    }
  };
  pair.connect();
  ok(pair.master.seen.wait(
         5, [](Logs &logs) { return any(logs, [](auto &log) { return log.control == "hello from the standby"; }); }),
     "the accepting side may speak first on control");
  const bool all = pair.standby.seen.wait(
      5, [&](Logs &logs) { return any(logs, [&](auto &log) { return log.control.size() >= queued; }); });
  ok(all && refused > 0 && queued <= 1u << 20, "control takes 1 MiB and refuses more, nothing of it is lost (G7)");
}

static void wake_test() {
  Pair pair;
  pair.open();
  pair.connect();
  pair.standby.seen.wait(5, established_one);
  usleep(200'000);
  const double cpu = cpu_seconds();
  const uint64_t turns = pair.master.seen.turns;
  usleep(1'000'000);
  printf("# idle second: %.3f s CPU, %llu turns\n", cpu_seconds() - cpu,
         static_cast<unsigned long long>(pair.master.seen.turns - turns));
  ok(cpu_seconds() - cpu < 0.02, "an idle session costs no CPU");
  const uint64_t before = pair.master.seen.turns;
  pair.master.endpoint->wake();
  for (int turn = 0; turn < 2000 && pair.master.seen.turns == before; turn++) usleep(10'000);
  ok(pair.master.seen.turns > before, "wake() leads to a turn");
}

// Records that somebody waits for, one at a time: each is answered by a control frame before the next is asked for.
static void guest_test() {
  Pair pair;
  pair.standby.options.packet_bytes_max = pair.master.options.packet_bytes_max = 1350;
  PatternSource source(0);
  const auto us = std::this_thread::get_id();
  std::atomic<uint64_t> as_guest{0}, answered{0};
  pair.master.seen.on_established = [&](Session &session) { session.attach_records(&source); };
  pair.master.seen.on_turn = [&](Session &) { as_guest += std::this_thread::get_id() == us; };
  pair.standby.seen.on_turn = [&](Session &session) {  // nine bytes a turn that has seen records
    const uint64_t records = pair.standby.seen.of(session.id).records;
    if (answered.exchange(records) == records) return;
    CHECK(session.send_control({reinterpret_cast<const uint8_t *>("answered."), 9}));
  };
  pair.open();
  const SessionId id = pair.connect();
  bool good = pair.standby.seen.wait(60, established_one) && pair.master.seen.wait(60, established_one);
  pair.master.endpoint->turn_now(id + 1000);
  uint64_t total = 0, fewest = ~0ull;
  const auto ask = [&](uint64_t bytes) {
    source.grow(bytes);
    total += bytes;
    pair.master.endpoint->turn_now(id);
  };
  for (int batch = 0; good && batch < 40; batch++) {
    const uint64_t before = pair.master.seen.packets_sent;
    for (int i = 0; good && i < 50; i++) {
      const size_t heard = pair.master.seen.of(id).control.size();
      ask(1024);
      good = pair.master.seen.wait(60, [&](Logs &logs) { return logs[id].control.size() > heard; });
    }
    fewest = std::min(fewest, pair.master.seen.packets_sent - before);
  }
  printf("# %llu turns as a guest; at best %llu packets for 50 records\n", static_cast<unsigned long long>(as_guest.load()),
         static_cast<unsigned long long>(fewest));
  ok(good && as_guest > 0, "turn_now() sends from the thread that calls it, while the link thread sleeps");
  ok(fewest <= 55, "an answer to each record is not acknowledged in a packet of its own");
  for (int i = 0; good && i < 3000; i++) ask(i % 100 ? 8 * (i % 700) : 1u << 19);  // whoever comes first sends
  good = good && pair.standby.seen.wait(60, [&](Logs &logs) { return any(logs, [&](auto &log) { return log.records == total; }); });
  ok(good && !pair.standby.seen.first().damaged, "guests and the link thread send every byte once and in order");
  pair.master.endpoint->close(id, "done");
  good = pair.master.seen.wait(60, closed_one);
  for (int i = 0; i < 100; i++) pair.master.endpoint->turn_now(id);
  ok(good, "a session that has ended has no guests");
}

static void loss_test() {
  Pair pair;
  pair.master.options.packet_bytes_max = 1350;
  pair.open();
  Relay relay(pair.standby.port());
  relay.loss_per_mille = 20;
  ok(transfer(pair, kBulkBytes / 8, 60, relay.port()), "with 2 % of the packets lost every byte still arrives once");
  printf("# the relay lost %llu\n", static_cast<unsigned long long>(relay.vanished));
}

static void black_hole_test() {
  Pair pair;
  pair.open();
  Relay relay(pair.standby.port());
  relay.bytes_max = 1400;
  ok(transfer(pair, 8u << 20, 20, relay.port()), "a path that swallows large packets is found out");
  ok(pair.master.seen.first().packet_bytes == 1350, "the session falls back to 1350 bytes");
}

static bool survives_rebinding(uint64_t seconds, bool &idle) {
  Pair pair;
  pair.master.options.idle_timeout_ns = pair.standby.options.idle_timeout_ns = seconds * 1'000'000'000;
  pair.open();
  Relay relay(pair.standby.port());
  PatternSource source(96u << 20, 1u << 20);
  pair.master.seen.on_established = [&](Session &session) { session.attach_records(&source); };
  const SessionId id = pair.connect(relay.port());
  const auto received = [&](uint64_t bytes) {
    return pair.standby.seen.wait(5, [&](Logs &logs) { return any(logs, [&](auto &log) { return log.records >= bytes; }); });
  };
  bool goes_on = true;
  for (uint64_t round = 0; round < 8; round++) {  // more often than there are spare connection ids
    goes_on = goes_on && received((round * 4 + 1) << 20);
    relay.rebind = true;
  }
  goes_on = goes_on && received(96u << 20);
  const bool survives = goes_on && pair.standby.seen.count() == 1 && !pair.standby.seen.first().damaged;
  const size_t moves = pair.standby.seen.first().moves;
  relay.rebind = true;
  const bool found = pair.standby.seen.wait(2, [&](Logs &logs) { return logs.begin()->second.moves > moves; });
  usleep(static_cast<useconds_t>(seconds * 1'000'000 + 500'000));
  idle = moves > 0 && found && !pair.standby.seen.first().closed && !pair.master.seen.of(id).closed;
  pair.master.endpoint.reset();
  return survives;
}

static void rebinding_test() {
  bool survives = false, idle = false;
  for (uint64_t seconds = 1; seconds < 10 && !(survives && idle); seconds *= 3) survives = survives_rebinding(seconds, idle);
  ok(survives, "a session survives that its client's address changes again and again (NAT)");
  ok(idle, "an idle one too: the keep-alives tell of the new address");
}

// Packets for sessions of a process that was killed: the restarted one, same key and port, disowns them.
static void restart_test() {
  Pair pair;
  pair.open();
  const uint16_t port = pair.standby.port();
  // The first endpoint must not say goodbye: a relay in between falls silent before it goes.
  Relay relay(port);
  const SessionId id = pair.connect(relay.port());
  pair.master.seen.wait(5, [&](Logs &logs) { return logs[id].established; });
  relay.silent = true;
  usleep(50'000);
  pair.standby.endpoint.reset();
  pair.standby.options.listen_port = port;
  pair.standby.open("127.0.0.1");
  usleep(100'000);  // what the first one said is swallowed by now
  relay.silent = false;
  const uint64_t begin = monotonic_ns();
  pair.master.seen.wait(5, [&](Logs &logs) { return logs[id].closed; });
  const SessionLog log = pair.master.seen.of(id);
  printf("# %s after %.2f s\n", log.text.c_str(), static_cast<double>(log.closed_at - begin) / 1e9);
  ok(log.reason == CloseReason::kPeer && contains(log.text, "restarted"),
     "a restarted peer disowns old sessions before the idle timeout");
}

static void half_open_test() {
  Pair pair;
  pair.open();
  Host flood;
  flood.open();
  Relay one_way(pair.standby.port());
  one_way.one_way = true;
  for (int i = 0; i < 200; i++) flood.endpoint->connect("127.0.0.1", one_way.port(), pair.standby.fingerprint);
  usleep(200'000);
  const SessionId id = pair.connect();
  ok(pair.master.seen.wait(5, [&](Logs &logs) { return logs[id].established; }),
     "200 handshakes that are never completed do not keep an honest client out");
}

int main() {
  identity_tests();
  bulk_test(1350, "1350-byte packets");
  bulk_test(60000, "packets as large as loopback takes");
  close_test();
  destructor_test();
  wrong_pin_test();
  not_allowed_test();
  no_longer_allowed_test();
  rotation_test();
  endorsement_test();
  names_test();
  dead_port_test();
  control_test();
  back_pressure_test();
  wake_test();
  guest_test();
  timeout_test();
  stalled_peer_test();
  parallel_test();
  garbage_test();
  loss_test();
  black_hole_test();
  rebinding_test();
  restart_test();
  half_open_test();
  return done_testing();
}
