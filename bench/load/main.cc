// load: puts load on an NBD server and says in JSON what came of it. README.md beside this file.
#include <poll.h>
#include <sys/resource.h>
#include <time.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "connection.h"
#include "handshake.h"
#include "options.h"

namespace understudy::bench {
namespace {

using Connections = std::vector<std::unique_ptr<Connection>>;
constexpr int kPatienceMs = 60'000;

int give_up(const std::string &what) {
  std::fprintf(stderr, "load: %s\n", what.c_str());
  return 1;
}

double cpu_seconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval &time) { return static_cast<double>(time.tv_sec) + time.tv_usec / 1e6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double wall_clock_ms() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

// Until something can be done on one of them. With a single one that has nothing to send, recv() itself waits.
std::string wait(const Connections &connections, std::vector<pollfd> &ready) {
  ready.clear();
  for (const auto &one : connections) {
    const short events = static_cast<short>((one->in_flight() ? POLLIN : 0) | (one->unsent() ? POLLOUT : 0));
    ready.push_back({events != 0 ? one->fd() : -1, events, 0});
  }
  const int found = poll(ready.data(), ready.size(), kPatienceMs);
  if (found == 0) return "no reply for 60 s";
  return found < 0 && errno != EINTR ? "poll failed" : "";
}

// One turn: what has come is taken, and new requests go out in place of what is answered.
std::string turn(const Connections &connections, std::vector<pollfd> &ready, Budget &budget, uint64_t end_ns,
                 Totals &totals) {
  const bool alone = connections.size() == 1 && !connections[0]->unsent();
  if (!alone)
    if (std::string error = wait(connections, ready); !error.empty()) return error;
  for (size_t i = 0; i < connections.size(); ++i) {
    Connection &one = *connections[i];
    if (!alone && ready[i].revents == 0) continue;
    if (!alone && (ready[i].revents & POLLOUT) != 0 && !one.send_more()) return one.error();
    if (!alone && (ready[i].revents & ~POLLOUT) == 0) continue;
    if (!one.receive(alone, totals)) return one.error();
    const uint64_t now = now_ns();
    budget.over |= end_ns != 0 && now >= end_ns;
    if (!one.begin(now, budget)) return one.error();
  }
  return "";
}

void print_latency(const char *name, const Histogram &histogram) {
  const auto us = [&](double quantile) { return static_cast<double>(histogram.quantile(quantile)) / 1e3; };
  std::printf(",\"%s\":{\"count\":%" PRIu64 ",\"p50\":%.3f,\"p95\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f}", name,
              histogram.count(), us(0.5), us(0.95), us(0.99), us(0.999), static_cast<double>(histogram.max()) / 1e3);
}

void print(const Options &options, const Totals &totals, double began_ms, double seconds, double cpu) {
  const uint64_t answered = totals.reads + totals.writes;
  std::printf("{\"requests\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"reads\":%" PRIu64 ",\"writes\":%" PRIu64
              ",\"flushes\":%" PRIu64 ",\"errors\":%" PRIu64 ",\"wrong\":%" PRIu64
              ",\"beganMs\":%.3f,\"seconds\":%.6f,\"cpuSeconds\":%.6f",
              answered, answered * options.block_bytes, totals.reads, totals.writes, totals.flushes, totals.errors,
              totals.wrong, began_ms, seconds, cpu);
  Histogram all = totals.read_ns;
  all.merge(totals.write_ns);
  print_latency("latencyUs", all);
  print_latency("readUs", totals.read_ns);
  print_latency("writeUs", totals.write_ns);
  print_latency("flushUs", totals.flush_ns);
  std::printf("}\n");
}

int run(const Options &options) {
  Connections connections;
  for (unsigned i = 0; i < options.connections; ++i) {
    const Export opened = open_export(options, options.exports[i % options.exports.size()]);
    if (!opened.error.empty()) return give_up(opened.error);
    connections.push_back(std::make_unique<Connection>(options, opened.fd, opened.bytes, i));
    if (!connections.back()->possible()) return give_up("the export is too small for this block size or these regions");
  }
  Totals totals;
  Budget budget{options.requests > 0 ? options.requests : UINT64_MAX};
  std::vector<pollfd> ready;
  const double began_ms = wall_clock_ms(), cpu_before = cpu_seconds();
  const uint64_t began = now_ns();
  const uint64_t end = options.seconds > 0 ? began + static_cast<uint64_t>(options.seconds * 1e9) : 0;
  for (const auto &one : connections)
    if (!one->begin(now_ns(), budget)) return give_up(one->error());
  const auto busy = [&] {
    for (const auto &one : connections)
      if (one->in_flight()) return true;
    return false;
  };
  while (busy())
    if (std::string error = turn(connections, ready, budget, end, totals); !error.empty()) return give_up(error);
  print(options, totals, began_ms, static_cast<double>(now_ns() - began) / 1e9, cpu_seconds() - cpu_before);
  return totals.errors == 0 && totals.wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace understudy::bench

int main(int count, char **arguments) { return understudy::bench::run(understudy::bench::parse_options(count, arguments)); }
