// What load is asked to do.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace understudy::bench {

struct Options {
  std::string unix_path;  // or
  std::string tcp_host, tcp_port;
  std::vector<std::string> exports{""};  // the connections take them in turn

  unsigned connections = 1, depth = 1;  // depth: requests in flight on each connection
  uint32_t block_bytes = 4096;
  bool sequential = false;    // each connection goes through its own part of the span, again and again
  unsigned read_percent = 0;  // the others are writes
  unsigned flush_every = 0;   // writes of a connection; all are answered before it flushes, as before an fsync. 0: never
  bool verify = false;        // what is read must carry the stamp of its place, or be zero

  double seconds = 0;     // ends after so long, or
  uint64_t requests = 0;  // so many (flushes not counted)

  uint64_t span_bytes = 0;  // of the export, from its start; 0: all
  uint64_t regions = 0;     // only so many regions, evenly spaced over the span, are touched; 0: everything
  uint64_t region_bytes = 4u << 20;
  uint64_t seed = 1;
};

// Prints what is wrong, or the help that was asked for, and ends the process.
Options parse_options(int count, char **arguments);

}  // namespace understudy::bench
