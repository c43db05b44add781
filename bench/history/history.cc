// Time travel by distance: how long it takes inside a standby from asking for a moment until 4 KiB of it are read.
//
//   build/bench/history FOLDER     prints JSON, times in us (medians of nine): back1Us, back10Us, back100Us, back1000Us: so many
//                                  segments back, among 1010 of 256 KiB, eight to an epoch as they are at full size;
//                                  epochUs: at the end of an epoch of full size (125 Ki records of 4 KiB, 511 MiB)
#include "replay-support.h"

using namespace replay_test;

namespace {
constexpr uint64_t kVolumeBytes = 1u << 30, kBlockBytes = 4096;

struct Source {
  Standby &standby;
  Master master{7};
  std::mt19937_64 random{1};

  bool begin() {
    return standby.make_cut(master) && wait_until([&] { return standby.replica->history().has_value(); });
  }
  // 4 KiB writes anywhere in the first `bytes`.
  bool write(uint64_t count, uint64_t bytes) {
    for (uint64_t i = 0; i < count; i++) {
      Bytes block(kBlockBytes);
      for (size_t at = 0; at < block.size(); at += sizeof(uint64_t)) {
        const uint64_t word = random();
        memcpy(&block[at], &word, sizeof word);
      }
      if (!standby.send(master.write(random() % (bytes / kBlockBytes) * kBlockBytes, std::move(block))).ok()) return false;
      if (i % 512 == 511 && !standby.applied(master.sequence)) return false;  // it takes no more than its ring holds
    }
    return standby.drain();
  }
  wire::Position here() const { return {master.incarnation, master.sequence}; }
};

double median_us(Replica &replica, wire::Position position) {
  std::vector<double> times;
  for (int i = 0; i < 9; i++) {
    const uint64_t since = monotonic_ns();
    auto views = replica.views({0}, {.position = position}, false);
    if (!views.ok() || read_device(*views.value.devices[0], uint64_t{4096} * static_cast<uint64_t>(i), 4096).size() != 4096) {
      fprintf(stderr, "history: open: %s\n", views.status.message.c_str());
      exit(1);
    }
    times.push_back(static_cast<double>(monotonic_ns() - since) / 1e3);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

ReplicaOptions options_in(const Scratch &scratch) {
  ReplicaOptions options = options_for(scratch.path, kVolumeBytes);
  options.history.bytes_max = uint64_t{1} << 40;
  return options;
}

void by_distance() {
  Scratch scratch;
  ReplicaOptions options = options_in(scratch);
  options.segment_bytes = 256u << 10;
  options.history.epoch_bytes = 8 * options.segment_bytes;
  Standby standby(options);
  Source source{standby};
  bool good = source.begin();
  std::vector<wire::Position> ends;
  for (int i = 0; good && i < 1010; i++) {
    good = source.write(60, 64u << 20);
    ends.push_back(source.here());
  }
  if (!good) exit(1);
  for (const size_t back : {1u, 10u, 100u, 1000u})
    printf("\"back%zuUs\": %.1f, ", back, median_us(*standby.replica, ends[ends.size() - 1 - back]));
}

void of_full_size() {
  Scratch scratch;
  Standby standby(options_in(scratch));
  Source source{standby};
  // With the records' headers a little less than epoch_bytes: it is not to end at a sync before the moment.
  if (!source.begin() || !source.write(125u << 10, kVolumeBytes)) exit(1);
  printf("\"epochUs\": %.1f", median_us(*standby.replica, {source.master.incarnation, source.master.sequence - 1}));
}
}  // namespace

int main(int count, char **arguments) {
  if (count != 2) return fprintf(stderr, "history FOLDER\n"), 2;
  setenv("TMPDIR", arguments[1], 1);
  printf("{");
  by_distance();
  of_full_size();
  printf("}\n");
  return 0;
}
