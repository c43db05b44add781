// Network: QUIC as what is above it sees it: sessions between two hosts, with a control stream both ways and a record
// stream from the one that connected. Each stream is in order and nothing else is: delays differ, so that the streams
// overtake each other; sessions end at any byte. Implements quic::Endpoint; native/link runs on it unchanged.
//
// What QUIC repairs cannot be seen above it. What it hands up may still be wrong by a fault of memory, say: a piece of
// the record stream with a flipped bit, lost, doubled or swapped with its neighbour (`damage_next`), which the receiver
// has to find (G8).
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fibers.h"

namespace sim {

class Session;
class Endpoint;

struct Network {
  bool down = false;
  uint64_t changed_ns = 0;       // when it went down or up
  uint64_t delay_ns_max = 300'000;
  uint64_t damage_next = 0;      // so many pieces of the record stream from now one is damaged; 0: none
  uint64_t damaged = 0;          // pieces
  std::vector<Endpoint *> endpoints;
  uint64_t last_session = 0;

  void set_down(bool is_down);
  void host_died(int host);
};

extern Network *network;  // of this process: one run

}  // namespace sim
