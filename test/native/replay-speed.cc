// sources: native/replay/*.cc native/link/codec.cc native/engine/device.cc native/engine/direct-file.cc native/wire/record.cc native/core/core.cc native/core/memory-guard.cc native/core/crc32c.cc native/core/mirrored-ring.cc  libs: -lzstd -llz4 -lgnutls
// How fast a replica takes and applies records. TMPDIR says on what; a tmpfs shows the cost of the code alone.
#include "replay-support.h"

using namespace replay_test;

namespace {
// CPU time of this process's threads by name: what holds on a machine that others use too.
std::map<std::string, double> thread_seconds() {
  std::map<std::string, double> seconds;
  for (const auto &task : list_files("/proc/self/task")) {
    const Bytes name = read_file(task + "/comm"), stat = read_file(task + "/schedstat");
    seconds[std::string(name.begin(), name.end() - 1)] += strtod(std::string(stat.begin(), stat.end()).c_str(), nullptr) / 1e9;
  }
  return seconds;
}

bool measure(const char *what, size_t record_bytes, uint64_t total) {
  Scratch scratch;
  constexpr uint64_t kSize = 256u << 20;
  ReplicaOptions options = options_for(scratch.path, kSize);
  options.ring_bytes = 64u << 20;
  Standby standby(options);
  Master master(1);
  if (!standby.make_cut(master)) return false;
  std::mt19937_64 random(1);
  // The stream is made beforehand: the master's half is not what is measured.
  Bytes stream;
  while (stream.size() < total) {
    const Bytes bytes = master.write(random() % (kSize / record_bytes) * record_bytes, Bytes(record_bytes, 1)).wire();
    stream.insert(stream.end(), bytes.begin(), bytes.end());
  }
  const auto before = thread_seconds();
  const uint64_t start = monotonic_ns();
  uint64_t in_flight = 0;
  for (size_t at = 0; at < stream.size();) {
    in_flight -= standby.replica->take_consumed();
    const size_t piece = std::min<size_t>(60000, stream.size() - at);
    if (in_flight + piece > (32u << 20)) {
      usleep(100);
      continue;
    }
    if (!standby.replica->receive({stream.data() + at, piece}).ok()) return false;
    at += piece;
    in_flight += piece;
  }
  const double received = static_cast<double>(monotonic_ns() - start) / 1e9;
  if (!wait_until([&] { return standby.state().applied_sequence >= master.sequence; }, 60)) return false;
  const double applied = static_cast<double>(monotonic_ns() - start) / 1e9;
  const double bytes = static_cast<double>(master.written), count = static_cast<double>(master.sequence);
  printf("# %s: taken in %.2f s; applied in %.2f s: %.0f thousand records/s, %.0f MB/s, %lu syncs\n", what, received,
         applied, count / applied / 1e3, bytes / applied / 1e6, standby.state().segment_syncs.load());
  for (const auto &[name, seconds] : thread_seconds()) {
    const auto had = before.find(name);
    const double own = seconds - (had == before.end() ? 0 : had->second);
    if (own < 0.01) continue;
    printf("#   %-14s %.2f s CPU: %.0f thousand records/s, %.0f MB/s\n", name.c_str(), own, count / own / 1e3,
           bytes / own / 1e6);
  }
  return true;
}
}  // namespace

int main() {
  ok(measure("4 KiB", 4096, 512u << 20), "4 KiB records are applied");
  ok(measure("1 MiB", 1u << 20, 512u << 20), "1 MiB records are applied");
  return finish();
}
