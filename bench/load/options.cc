#include "options.h"

#include <getopt.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace understudy::bench {
namespace {

constexpr char kHelp[] =
    R"(usage: load (--unix PATH | --tcp HOST:PORT) [--export NAME ...] (--seconds S | --requests N) [options]

Puts load on an NBD server (simple replies, raw protocol) and prints what came of it as JSON on one line.

  --connections N      at once (default 1); of several exports they take one after the other
  --depth N            requests in flight on each connection, 1 to 1024 (default 1)
  --block BYTES        of a request, a multiple of 512 (default 4096)
  --sequential         in order, each connection in a part of its own (default: anywhere)
  --reads PERCENT      of the requests; the others write (default 0)
  --flush-every N      after N writes: when they are answered, a flush, and on when that is answered (default 0: none)
  --verify             what is read must be zero, or what load has written at that place
  --span BYTES         only the first so many bytes of the export
  --regions N          only N regions, evenly spaced over the export or span
  --region-bytes N     how large they are (default 4 MiB)
  --seed N             of the random numbers (default 1)
)";

[[noreturn]] void refuse(const char *what, const char *value) {
  std::fprintf(stderr, "load: %s: %s\n", what, value);
  std::exit(2);
}

uint64_t number(const char *name, const char *text, uint64_t least, uint64_t most) {
  char *end = nullptr;
  errno = 0;
  const uint64_t value = std::strtoull(text, &end, 10);
  if (errno != 0 || end == text || *end != 0 || *text == '-' || value < least || value > most) refuse(name, text);
  return value;
}

void check(const Options &options) {
  if (options.unix_path.empty() == options.tcp_host.empty()) refuse("one of --unix and --tcp is needed", "see --help");
  if ((options.seconds > 0) == (options.requests > 0)) refuse("one of --seconds and --requests is needed", "see --help");
  if (options.block_bytes % 512 != 0) refuse("--block", "not a multiple of 512");
  if (options.regions > 0 && options.sequential) refuse("--regions", "not with --sequential");
}

}  // namespace

Options parse_options(int count, char **arguments) {
  enum { kUnix = 1, kTcp, kExport, kConnections, kDepth, kBlock, kSequential, kReads, kFlushEvery, kVerify, kSeconds,
         kRequests, kSpan, kRegions, kRegionBytes, kSeed, kAskHelp };
  static const option known[] = {
      {"unix", 1, nullptr, kUnix}, {"tcp", 1, nullptr, kTcp}, {"export", 1, nullptr, kExport},
      {"connections", 1, nullptr, kConnections}, {"depth", 1, nullptr, kDepth}, {"block", 1, nullptr, kBlock},
      {"sequential", 0, nullptr, kSequential}, {"reads", 1, nullptr, kReads},
      {"flush-every", 1, nullptr, kFlushEvery}, {"verify", 0, nullptr, kVerify}, {"seconds", 1, nullptr, kSeconds},
      {"requests", 1, nullptr, kRequests}, {"span", 1, nullptr, kSpan}, {"regions", 1, nullptr, kRegions},
      {"region-bytes", 1, nullptr, kRegionBytes}, {"seed", 1, nullptr, kSeed}, {"help", 0, nullptr, kAskHelp}, {}};
  Options options;
  bool exports_named = false;
  for (int found; (found = getopt_long(count, arguments, "", known, nullptr)) != -1;) {
    switch (found) {
      case kUnix: options.unix_path = optarg; break;
      case kTcp: {
        const char *colon = std::strrchr(optarg, ':');
        if (colon == nullptr) refuse("--tcp", optarg);
        options.tcp_host = std::string(optarg, static_cast<size_t>(colon - optarg));
        options.tcp_port = colon + 1;
        break;
      }
      case kExport:
        if (std::exchange(exports_named, true)) options.exports.emplace_back(optarg);
        else options.exports[0] = optarg;
        break;
      case kConnections: options.connections = number("--connections", optarg, 1, 64); break;
      case kDepth: options.depth = number("--depth", optarg, 1, 1024); break;
      case kBlock: options.block_bytes = number("--block", optarg, 512, 32u << 20); break;
      case kSequential: options.sequential = true; break;
      case kReads: options.read_percent = number("--reads", optarg, 0, 100); break;
      case kFlushEvery: options.flush_every = number("--flush-every", optarg, 0, 1'000'000); break;
      case kVerify: options.verify = true; break;
      case kSeconds: options.seconds = std::atof(optarg); break;
      case kRequests: options.requests = number("--requests", optarg, 1, UINT64_MAX); break;
      case kSpan: options.span_bytes = number("--span", optarg, 512, UINT64_MAX); break;
      case kRegions: options.regions = number("--regions", optarg, 1, 1u << 20); break;
      case kRegionBytes: options.region_bytes = number("--region-bytes", optarg, 512, 1u << 30); break;
      case kSeed: options.seed = number("--seed", optarg, 0, UINT64_MAX); break;
      case kAskHelp: std::fputs(kHelp, stdout); std::exit(0);
      default: std::exit(2);
    }
  }
  if (optind < count) refuse("unexpected", arguments[optind]);
  check(options);
  return options;
}

}  // namespace understudy::bench
