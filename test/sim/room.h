// Room: the hosts of a run with their disks, and the descriptors that their processes hold. calls.cc makes system calls
// of them.
#pragma once
#include <sys/epoll.h>

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "disk.h"
#include "fibers.h"

namespace sim {

enum HostNumber : int { kOutside = 0, kMaster = 1, kStandby = 2, kClients = 3 };
enum class Death : uint8_t { kKill, kPower };

// What fails on the disk of a host for a while, and how often at most.
enum class Place : uint8_t { kNone, kDevice, kMap, kSpill, kSegments, kImage, kWatermark, kHistory };
enum class Strike : uint8_t { kWrite, kSync, kRead };
struct DiskFault {
  Place place = Place::kNone;
  Strike strike = Strike::kWrite;
  int error = 0;
  uint64_t left = 0;
};

struct Host {
  Disk disk;
  bool alive = false;
  uint64_t dies_in = 0;  // system calls from now; 0: it does not
  Death death = Death::kKill;
  uint64_t calls = 0, deaths = 0, boots = 0;  // boots: a power cut ends one
  DiskFault fault;
  uint64_t strikes = 0;  // of faults of the disk, so far
  uint64_t slow = 1;     // how many times longer a sync of the master's device takes
  std::function<void()> died;
  std::function<void(const std::vector<Change> &)> device_lost;  // acknowledged, maybe, and not on the medium
};

// What is behind a descriptor.
struct Handle {
  enum class Kind : uint8_t { kFile, kDirectory, kEvent, kEpoll, kSocket } kind;
  int host;
  WaitQueue watchers;  // of poll() and of epolls that watch it

  std::shared_ptr<File> file;
  Place place = Place::kNone;
  bool holds_lock = false, is_slow = false, is_direct = false;
  Directory *directory = nullptr;
  uint64_t count = 0;  // of an event

  // Of a socket: what has arrived; the other end.
  std::deque<uint8_t> arrived;
  std::weak_ptr<Handle> peer;
  bool peer_closed = false;

  struct Watched {
    std::weak_ptr<Handle> handle;
    uint32_t events;
    uint32_t pending = 0;  // edges not reported yet
    epoll_data_t data;
  };
  std::map<int, Watched> watched;  // of an epoll
  std::vector<std::weak_ptr<Handle>> epolls;

  uint32_t ready() const;
  void changed(uint32_t events);  // tells watchers
};

constexpr int kDescriptorFirst = 100'000;
constexpr size_t kSocketBytes = 256u << 10;

struct Room {
  std::array<Host, 4> hosts;
  std::map<int, std::shared_ptr<Handle>> handles;
  int next_descriptor = kDescriptorFirst;

  int open(std::shared_ptr<Handle> handle);
  std::shared_ptr<Handle> find(int descriptor);
  void close(int descriptor);
  void make_sockets(int host_a, int host_b, int descriptors[2]);
  // A system call of the current host: may be its last one. Then time passes.
  void call(uint64_t what, uint64_t argument, uint64_t ns_max);
  void kill(int host, Death death);
  int strikes(int host, Place place, Strike strike);  // the error of a call; 0: it does not fail
  void lost(int host, Place place, const std::vector<Change> &changes);
};

extern Room *room;  // of this process: one run

}  // namespace sim
