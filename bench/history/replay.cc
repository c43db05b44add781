// What a history costs a standby's replay: the same records, with and without one, in the same minute.
//
//   build/bench/history-replay FOLDER random|sequential first|second
//
// A standby without a link, in FOLDER, that is: on its file system. The volume is 512 MiB, and full before. 640 MiB of records:
// 4 KiB each, anywhere; or 64 KiB each, one behind the other. With `first` the one with a history is the first. Epochs are of
// 256 MiB, as `--history 2GiB` makes them. Prints JSON: rate, plainRate (bytes/s until all is applied and synced), ratio (of the
// two), applierUs, plainApplierUs (CPU of the applier's thread, a record), longestMs (the longest time in which nothing was
// applied), plainLongestMs; clonedEpochs, savedMiB: what the history was made of.
#include "replay-support.h"

using namespace replay_test;

namespace {
constexpr uint64_t kVolumeBytes = 512u << 20, kStreamBytes = 640u << 20, kWindowBytes = 32u << 20;

struct Stream {
  Bytes start, bytes;  // initial synchronisation of nothing; the records
  uint64_t count = 0, start_sequence = 0, last_sequence = 0;
};

Stream make_stream(bool is_random) {
  Stream stream;
  Master master(1);
  const auto add = [](Bytes &to, const Record &record) {
    const auto *header = reinterpret_cast<const uint8_t *>(&record.header);
    to.insert(to.end(), header, header + sizeof record.header);
    to.insert(to.end(), record.payload.begin(), record.payload.end());
  };
  add(stream.start, master.begin(true));
  add(stream.start, master.step());
  stream.start_sequence = master.sequence;
  std::mt19937_64 random(1);
  const uint64_t record_bytes = is_random ? 4096 : 65536;
  stream.bytes.reserve(kStreamBytes + kStreamBytes / record_bytes * 128);
  Bytes block(record_bytes);
  for (; stream.count < kStreamBytes / record_bytes; stream.count++) {
    for (size_t at = 0; at < block.size(); at += 4096 / 2) memcpy(&block[at], &stream.count, sizeof stream.count);
    const uint64_t place = is_random ? random() : stream.count;
    add(stream.bytes, master.write(place % (kVolumeBytes / record_bytes) * record_bytes, block));
  }
  stream.last_sequence = master.sequence;
  return stream;
}

void fill(const std::string &path) {
  FILE *file = fopen(path.c_str(), "wb");
  Bytes piece(1u << 20);
  std::mt19937_64 random(2);
  for (size_t at = 0; at < piece.size(); at++) piece[at] = static_cast<uint8_t>(random());
  for (uint64_t at = 0; file && at < kVolumeBytes; at += piece.size())
    if (fwrite(piece.data(), 1, piece.size(), file) != piece.size()) abort();
  if (!file || fflush(file) != 0 || fsync(fileno(file)) != 0 || fclose(file) != 0) abort();
}

double applier_seconds() {
  double seconds = 0;
  for (const auto &task : list_files("/proc/self/task")) {
    const Bytes name = read_file(task + "/comm"), stat = read_file(task + "/schedstat");
    if (std::string(name.begin(), name.end()) == "us-applier\n")
      seconds += strtod(std::string(stat.begin(), stat.end()).c_str(), nullptr) / 1e9;
  }
  return seconds;
}

struct Found {
  double rate = 0, applier_us = 0, longest_ms = 0;
  size_t cloned_epochs = 0;
  double saved_mib = 0;
};

[[noreturn]] void die(const char *what) {
  fprintf(stderr, "history-replay: %s\n", what);
  exit(1);
}

Found measure(const Stream &stream, bool has_history) {
  Scratch scratch;
  ReplicaOptions options = options_for(scratch.path, kVolumeBytes);
  options.volumes[0].create = false;
  if (has_history) options.history.bytes_max = uint64_t{2} << 30;
  fill(options.volumes[0].image_path);
  Standby standby(options);
  if (!standby.replica) die("open");
  Replica &replica = *standby.replica;
  const auto receive = [&](const uint8_t *bytes, size_t count) {
    if (!replica.receive({bytes, count}).ok()) die("receive");
  };
  receive(stream.start.data(), stream.start.size());
  if (!standby.applied(stream.start_sequence)) die("the beginning is not applied");
  if (has_history && !wait_until([&] { return replica.history().has_value(); })) die("the history does not begin");

  (void)replica.take_consumed();

  const double cpu_before = applier_seconds();
  const uint64_t start = monotonic_ns();
  uint64_t in_flight = 0, last_change = start, applied = 0, longest = 0;
  const auto look = [&] {  // every 100 us and more often
    const uint64_t now = monotonic_ns(), sequence = standby.state().applied_sequence.load();
    if (sequence == applied) return longest = std::max(longest, now - last_change), void();
    applied = sequence;
    last_change = now;
  };
  for (size_t at = 0; at < stream.bytes.size();) {
    in_flight -= replica.take_consumed();
    const size_t piece = std::min<size_t>(60000, stream.bytes.size() - at);
    look();
    if (in_flight + piece > kWindowBytes) {
      usleep(100);
      continue;
    }
    receive(stream.bytes.data() + at, piece);
    at += piece;
    in_flight += piece;
  }
  while (standby.state().applied_sequence.load() < stream.last_sequence) {
    look();
    usleep(100);
  }
  if (!replica.drain(120'000'000'000).ok()) die("drain");
  const double seconds = static_cast<double>(monotonic_ns() - start) / 1e9;
  Found found{static_cast<double>(kStreamBytes) / seconds,
              (applier_seconds() - cpu_before) * 1e6 / static_cast<double>(stream.count), static_cast<double>(longest) / 1e6};
  for (const std::string &path : list_files(scratch.path + "/history")) {
    struct stat info {};
    if (stat(path.c_str(), &info) != 0) continue;
    if (path.ends_with(".image")) found.cloned_epochs++;
    if (path.ends_with(".saved")) found.saved_mib += static_cast<double>(info.st_size) / (1u << 20);
  }
  return found;
}
}  // namespace

int main(int count, char **arguments) {
  const std::string pattern = count == 4 ? arguments[2] : "", turn = count == 4 ? arguments[3] : "";
  if ((pattern != "random" && pattern != "sequential") || (turn != "first" && turn != "second"))
    return fprintf(stderr, "history-replay FOLDER random|sequential first|second\n"), 2;
  setenv("TMPDIR", arguments[1], 1);
  const Stream stream = make_stream(pattern == "random");
  Found plain, with;
  for (const bool has_history : {turn == "first", turn != "first"}) (has_history ? with : plain) = measure(stream, has_history);
  printf("{\"rate\": %.0f, \"plainRate\": %.0f, \"ratio\": %.4f, \"applierUs\": %.2f, \"plainApplierUs\": %.2f, \"longestMs\": %.1f, "
         "\"plainLongestMs\": %.1f, \"clonedEpochs\": %zu, \"savedMiB\": %.1f}\n",
         with.rate, plain.rate, with.rate / plain.rate, with.applier_us, plain.applier_us, with.longest_ms, plain.longest_ms,
         with.cloned_epochs, with.saved_mib);
  return 0;
}
