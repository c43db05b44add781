// sources: native/replay/*.cc native/link/codec.cc native/engine/device.cc native/engine/direct-file.cc native/wire/record.cc native/core/core.cc native/core/memory-guard.cc native/core/crc32c.cc native/core/mirrored-ring.cc  libs: -lzstd -llz4 -lgnutls
// Steps: staged, applied as one, interrupted, begun again; and what the standby answers meanwhile.
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include "replay-support.h"

using namespace replay_test;

namespace {
constexpr uint64_t kSize = 1u << 20;

void send_all(Standby &standby, Bytes &model, std::initializer_list<Record> records) {
  for (const Record &record : records) {
    if (Status status = standby.send(record); !status.ok()) printf("# %s\n", status.message.c_str());
    apply_to(model, record);
  }
}
bool is_phase(Standby &standby, ReplicaPhase phase) {
  return wait_until([&] { return standby.phase() == phase; });
}

// One question, and its answer within the time a master would wait; empty: none came.
std::vector<wire::HashEntry> ask_hashes(Standby &standby, uint64_t begin, uint64_t offset, uint32_t count) {
  const size_t before = standby.collector.hash_count();
  if (!standby.replica->hash({begin, offset, count, 0, 0}).ok()) return {};
  if (!wait_until([&] { return standby.collector.hash_count() > before; })) return {};
  std::lock_guard lock(standby.collector.mutex);
  return standby.collector.hashes.back().second;
}

void test_initial() {
  Scratch scratch;
  Master master(1);
  Bytes model(kSize);
  {
    Standby standby(options_for(scratch.path, kSize));
    bool good = EXPECT(standby.replica->view(0, false).status.error == ENODATA);
    send_all(standby, model, {master.begin(true), master.sync(0, 4096, 1), master.fill(100, 100, 2)});
    good = good && EXPECT(standby.applied(3)) && EXPECT(standby.phase() == ReplicaPhase::kInitial) &&
           EXPECT(standby.replica->watermarks().flags & wire::kUnusable) &&
           EXPECT(standby.replica->view(0, false).status.error == ENODATA);
    ok(good, "an initial synchronisation goes straight into the image, which no view may show");
  }
  Standby standby(options_for(scratch.path, kSize));
  bool good = EXPECT(standby.phase() == ReplicaPhase::kInitial) &&
              EXPECT((standby.replica->start_session() == wire::Position{1, 3}));
  const auto known = ask_hashes(standby, 1, 0, 2);  // a session that goes on within the master's log begins nothing anew
  good = good && EXPECT(known.size() == 2) && EXPECT(known[0].flags == 0) && EXPECT(known[1].flags == 0);
  send_all(standby, model, {master.begin(false), master.sync(8192, 4096, 3)});
  good = good && EXPECT(standby.applied(5)) && EXPECT(standby.phase() == ReplicaPhase::kInitial);
  send_all(standby, model, {master.step()});
  ok(good && EXPECT(is_phase(standby, ReplicaPhase::kCut)) && EXPECT(view_bytes(standby) == model),
     "it survives a restart and a second begin, and ends with its step");
}

void test_staging() {
  Scratch scratch;
  Master master(1);
  Bytes model(kSize), cut;
  {
    Standby standby(options_for(scratch.path, kSize));
    bool good = EXPECT(standby.make_cut(master));
    send_all(standby, model, {master.fill(0, 65536, 1)});
    cut = model;
    const uint64_t before = master.sequence;
    send_all(standby, model, {master.begin(), master.fill(0, 4096, 2), master.sync(65536, 65536, 3)});
    good = good && EXPECT(standby.durable(master.sequence)) && EXPECT(is_phase(standby, ReplicaPhase::kStaging)) &&
           EXPECT(standby.drain()) && EXPECT(standby.state().applied_sequence == before) &&
           EXPECT(standby.state().staged_bytes == 4096 + 65536) &&
           EXPECT(standby.replica->watermarks().flags == wire::kStaging) && EXPECT(view_bytes(standby) == cut);
    auto view = standby.replica->view(0, false);
    good = good && EXPECT((view.value.position == wire::Position{1, before}));
    ok(good, "what is staged shows in no view, and applied stays before the begin (G2)");
  }
  {
    Standby standby(options_for(scratch.path, kSize));
    bool good = EXPECT(is_phase(standby, ReplicaPhase::kStaging)) && EXPECT(view_bytes(standby) == cut) &&
                EXPECT((standby.replica->start_session() == wire::Position{1, master.sequence}));
    // The session was lost; the master begins again, and what is staged stays staged.
    send_all(standby, model, {master.begin(), master.sync(131072, 65536, 4), master.fill(65536, 512, 5)});
    good = good && EXPECT(standby.durable(master.sequence)) && EXPECT(standby.drain()) &&
           EXPECT(standby.phase() == ReplicaPhase::kStaging) && EXPECT(view_bytes(standby) == cut);
    auto frozen = standby.replica->view(0, false);
    master.commits = false;
    send_all(standby, model, {master.step()});
    good = good && EXPECT(standby.durable(master.sequence)) && EXPECT(standby.drain()) &&
           EXPECT(standby.phase() == ReplicaPhase::kStaging);
    master.commits = true;
    send_all(standby, model, {master.commit(master.sequence), master.fill(0, 10, 6)});
    good = good && EXPECT(standby.applied(master.sequence)) && EXPECT(standby.phase() == ReplicaPhase::kCut) &&
           EXPECT(view_bytes(standby) == model) && EXPECT(read_device(*frozen.value.device, 0, kSize) == cut);
    ok(good, "a second begin goes on with the same step; its committed end shows all at once");
  }
}

// A session that begins while the last records of the first synchronisation are being applied is welcomed as one to an
// image that is no cut, and the master begins an initial synchronisation. The image was a cut by then, and the begin
// made it unusable until its step (found by test/sim, one seed in 1500).
void test_initial_begin_on_a_cut() {
  Scratch scratch;
  Master master(1), next(2);
  Bytes model(kSize);
  Standby standby(options_for(scratch.path, kSize));
  bool good = EXPECT(standby.make_cut(master));
  send_all(standby, model, {master.fill(0, 4096, 1)});
  const Bytes cut = model;
  send_all(standby, model, {master.begin(true), master.fill(0, 4096, 2), next.begin(true), next.fill(4096, 4096, 3)});
  good = good && EXPECT(standby.durable(next.sequence)) && EXPECT(is_phase(standby, ReplicaPhase::kStaging)) &&
         EXPECT(view_bytes(standby) == cut);
  send_all(standby, model, {next.step()});
  ok(good && EXPECT(is_phase(standby, ReplicaPhase::kCut)) && EXPECT(view_bytes(standby) == model),
     "once a cut, always a cut: an initial begin that comes too late is staged like any other (G2)");
}

void test_uncommitted_step_of_dead_incarnation() {
  Scratch scratch;
  Master master(1), next(2);
  Bytes model(kSize);
  Standby standby(options_for(scratch.path, kSize));
  bool good = EXPECT(standby.make_cut(master));
  send_all(standby, model, {master.begin(), master.sync(0, 4096, 2)});
  master.commits = false;
  Bytes unused(kSize);
  send_all(standby, unused, {master.step(), master.fill(0, 4096, 9)});
  send_all(standby, model, {next.begin()});
  good = good && EXPECT(wait_until([&] { return standby.state().durable_sequence == 1 && standby.state().incarnation == 2; })) &&
         EXPECT(standby.drain()) && EXPECT(standby.phase() == ReplicaPhase::kStaging) &&
         EXPECT(view_bytes(standby) == Bytes(kSize));
  const auto entries = ask_hashes(standby, 1, 0, 2);
  good = good && EXPECT(entries.size() == 2) && EXPECT(entries[0].flags == wire::kHashUnknown) &&
         EXPECT(entries[1].flags == 0);
  send_all(standby, model, {next.sync(8192, 4096, 4), next.step()});
  ok(good && EXPECT(is_phase(standby, ReplicaPhase::kCut)) && EXPECT(view_bytes(standby) == model),
     "a step whose end was of unknown outcome stays open for the next incarnation");
}

// 1. a step is complete and durable  2. it is being applied  3. the process is killed  4. the next start finishes it
void test_killed_while_stepping() {
  std::mt19937_64 random(3);
  bool good = true;
  int in_the_middle = 0;
  for (int round = 0; good && round < 12; round++) {
    Scratch scratch;
    constexpr uint64_t kBig = 64u << 20;
    Master master(1);
    const pid_t child = fork();
    if (child == 0) {
      Standby &standby = *new Standby(options_for(scratch.path, kBig));
      bool sent = standby.make_cut(master) && standby.send(master.begin()).ok();
      for (uint64_t at = 0; at < kBig; at += 1u << 20) {
        while (standby.state().received_bytes - standby.state().durable_bytes > (16u << 20)) usleep(100);
        sent = sent && standby.send(master.write(at, Bytes(1u << 20, 7))).ok();
      }
      if (!sent || !standby.durable(master.sequence)) _exit(1);
      write_file(scratch.path + "/staged", {});
      if (!standby.send(master.step()).ok()) _exit(1);
      pause();
    }
    good = EXPECT(wait_until([&] { return access((scratch.path + "/staged").c_str(), F_OK) == 0; }));
    usleep(static_cast<useconds_t>(random() % 40000));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    const Bytes left = read_file(scratch.path + "/image");
    if (left.front() == 7 && left.back() == 0) in_the_middle++;
    Standby standby(options_for(scratch.path, kBig));
    const bool complete = standby.replica->start_session().sequence == 3 + 64 + 1;
    for (bool given = false; good && !given;) {
      auto view = standby.replica->view(0, false);
      given = view.ok();
      if (!given) {
        good = EXPECT(view.status.error == EAGAIN);
        continue;
      }
      const Bytes seen = read_device(*view.value.device, 0, kBig);
      good = EXPECT(seen == Bytes(kBig, complete ? 7 : 0));
    }
  }
  printf("# killed in the middle of a step: %d of 12\n", in_the_middle);
  ok(good, "a step that was interrupted by kill -9 is finished before anyone sees it (G2)");
}

std::string sha(const Bytes &bytes, size_t offset, size_t length) {
  std::string out(32, 0);
  gnutls_hash_fast(GNUTLS_DIG_SHA256, bytes.data() + offset, length, out.data());
  return out;
}

void test_hashes() {
  Scratch scratch;
  constexpr uint64_t kOdd = kSize + 5000;
  Master master(1);
  Bytes model(kOdd);
  Standby standby(options_for(scratch.path, kOdd));
  bool good = EXPECT(standby.send(master.begin(true)).ok());
  send_all(standby, model, {master.fill(100, 100, 1), master.fill(kSize + 10, 10, 2)});
  const auto ask = [&](uint64_t begin, uint64_t offset, uint32_t count) {
    return ask_hashes(standby, begin, offset, count);
  };
  const auto is_known = [&](const wire::HashEntry &entry, uint64_t region) {
    const size_t offset = region * 65536, length = std::min<size_t>(65536, model.size() - offset);
    return entry.flags == 0 && memcmp(entry.hash, sha(model, offset, length).data(), 32) == 0;
  };
  good = good && EXPECT(standby.durable(3)) && EXPECT(standby.drain());
  auto entries = ask(1, 0, 17);
  good = good && EXPECT(entries.size() == 17);
  for (uint64_t i = 0; good && i < 17; i++) good = EXPECT(is_known(entries[i], i));
  ok(good, "in an initial synchronisation every region of the image has its hash, holes and the odd end too");
  send_all(standby, model, {master.step(), master.fill(65536, 65536, 5)});
  const uint64_t begin = master.sequence + 1;
  Bytes staged = model;
  send_all(standby, staged, {master.begin(), master.fill(131072, 10, 6), master.make(RecordType::kTrim, 65536 * 4, 65536 * 2)});
  entries = ask(begin, 0, 17);
  good = EXPECT(entries.size() == 17);
  for (uint64_t i = 0; good && i < 17; i++) {
    const bool touched = i == 2 || i == 4 || i == 5;
    good = EXPECT(touched ? entries[i].flags == wire::kHashUnknown : is_known(entries[i], i));
  }
  ok(good, "a region under staged records is unknown, the others are as in the image");
  entries = ask(begin - 2, 0, 1);
  good = EXPECT(entries.size() == 1) && EXPECT(entries[0].flags == wire::kHashUnknown);
  good = good && EXPECT(standby.replica->hash({begin, 1, 1, 0, 0}).error == EINVAL) &&
         EXPECT(standby.replica->hash({begin, 0, 18, 0, 0}).error == EINVAL) &&
         EXPECT(standby.replica->hash({begin, 0, 1, 1, 0}).error == EINVAL);
  ok(good, "a question for an older begin is answered with unknown, an impossible one is refused");

  send_all(standby, model, {master.fill(131072, 10, 6), master.make(RecordType::kTrim, 65536 * 4, 65536 * 2), master.step()});
  wire::VerifyPayload right{1, {}}, wrong{2, {}};
  memcpy(right.hash, sha(model, 0, 200000).data(), 32);
  const auto verify = [&](const wire::VerifyPayload &payload) {
    const auto *bytes = reinterpret_cast<const uint8_t *>(&payload);
    return master.make(RecordType::kVerify, 0, 200000, Bytes(bytes, bytes + sizeof payload));
  };
  send_all(standby, model, {verify(right), verify(wrong)});
  good = EXPECT(standby.applied(master.sequence));
  std::lock_guard lock(standby.collector.mutex);
  good = good && EXPECT(standby.collector.results.size() == 2) &&
         EXPECT(standby.collector.results[0].equal == 1) && EXPECT(standby.collector.results[1].equal == 0) &&
         EXPECT(standby.collector.results[1].id == 2) && EXPECT(standby.state().verify_different == 1);
  ok(good, "verify is judged at its position in the stream");
}

// What the image holds there, as it is told piece by piece; the error of the last piece.
std::pair<Bytes, uint32_t> ask_data(Standby &standby, const wire::HashRequestBody &request, size_t bytes) {
  Bytes found;
  uint32_t error = 0;
  const size_t first = standby.collector.piece_count();
  if (!standby.replica->tell(request).ok()) return {found, EINVAL};
  wait_until([&] {
    std::lock_guard lock(standby.collector.mutex);
    found.clear();
    for (size_t i = first; i < standby.collector.pieces.size(); i++) {
      const auto &[reply, piece] = standby.collector.pieces[i];
      error = reply.error;
      if (!error && reply.offset != request.offset + found.size()) error = EBADMSG;
      found.insert(found.end(), piece.begin(), piece.end());
    }
    return error || found.size() >= bytes;
  });
  return {found, error};
}

void test_data() {
  Scratch scratch;
  constexpr uint64_t kOdd = kSize + 5000;
  Master master(7);
  Bytes model(kOdd);
  Standby standby(options_for(scratch.path, kOdd));
  send_all(standby, model, {master.begin(true), master.fill(100, 100, 1), master.fill(kSize + 10, 10, 2), master.step(),
                            master.fill(65536, 65536, 5)});
  bool good = EXPECT(standby.durable(5)) && EXPECT(standby.drain());
  Master next(8);  // its first kBegin has the number of the other one's
  const wire::HashRequestBody early{1, 0, 17, 0, 8};
  const size_t answers = standby.collector.hash_count();
  good = good && EXPECT(standby.replica->hash(early).ok()) && EXPECT(standby.replica->tell({1, 0, 17, 0, 8}).ok());
  usleep(20'000);
  good = good && EXPECT(standby.collector.hash_count() == answers) && EXPECT(standby.collector.piece_count() == 0);
  const Record begin = next.begin();
  good = good && EXPECT(standby.send(begin).ok()) && EXPECT(wait_until([&] { return standby.collector.hash_count() > answers; }));
  {
    std::lock_guard lock(standby.collector.mutex);
    for (const auto &entry : standby.collector.hashes.back().second) good = good && EXPECT(entry.flags == 0);
  }
  ok(good, "a question that comes before its kBegin waits for it, whatever numbers the master's life before had");
  good = EXPECT(wait_until([&] { return standby.collector.piece_count() >= 33; }));
  const Bytes cut = model;
  send_all(standby, model, {next.fill(0, 200'000, 9)});
  const auto [all, error] = ask_data(standby, {1, 0, 17, 0, 8}, kOdd);
  good = good && EXPECT(error == 0) && EXPECT(all == cut);
  const auto [odd, odd_error] = ask_data(standby, {1, 16 * 65536, 1, 0, 8}, 5000);
  good = good && EXPECT(odd_error == 0) && EXPECT(odd == Bytes(cut.begin() + 16 * 65536, cut.end()));
  ok(good, "asked for its bytes the standby tells the cut, in pieces, up to the odd end, whatever is staged above it (G2)");
  send_all(standby, model, {next.step()});
  good = EXPECT(is_phase(standby, ReplicaPhase::kCut)) && EXPECT(ask_data(standby, {1, 0, 1, 0, 8}, 65536).second == EAGAIN) &&
         EXPECT(standby.replica->tell({1, 0, 18, 0, 8}).error == EINVAL);
  ok(good, "and nothing once the step is closed, nor beyond the volume");
}

double cached_share(const std::string &path) {
  const int fd = open(path.c_str(), O_RDONLY);
  struct stat about;
  if (fd < 0 || fstat(fd, &about) != 0) abort();
  const size_t bytes = static_cast<size_t>(about.st_size), pages = (bytes + 4095) / 4096;
  void *mapped = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  std::vector<unsigned char> there(pages);
  if (mapped == MAP_FAILED || mincore(mapped, bytes, there.data()) != 0) abort();
  munmap(mapped, bytes);
  close(fd);
  return static_cast<double>(std::count_if(there.begin(), there.end(), [](unsigned char page) { return page & 1; })) /
         static_cast<double>(pages);
}

void test_page_cache() {
  const char *title = "a resynchronisation leaves nothing in the standby's page cache, a write does";
  Scratch scratch;
  struct statfs about;
  if (statfs(scratch.path.c_str(), &about) != 0) abort();
  if (about.f_type == TMPFS_MAGIC) return skip(title, "a tmpfs is nothing else");
  constexpr size_t kPiece = 1u << 20, kPieces = 16;
  Standby standby(options_for(scratch.path, kPiece * kPieces));
  Master master(1);
  bool good = EXPECT(standby.send(master.begin(true)).ok());
  for (size_t i = 0; i < kPieces; i++) good = good && EXPECT(standby.send(master.sync(i * kPiece, kPiece, 7)).ok());
  good = good && EXPECT(standby.send(master.step()).ok()) && EXPECT(standby.drain());
  const double after_sync = cached_share(scratch.path + "/image");
  for (size_t i = 0; i < kPieces; i++) good = good && EXPECT(standby.send(master.fill(i * kPiece, kPiece, 8)).ok());
  good = good && EXPECT(standby.durable(master.sequence)) && EXPECT(standby.drain());
  const double after_writes = cached_share(scratch.path + "/image");
  printf("# cached: %.2f after a resynchronisation, %.2f after writes\n", after_sync, after_writes);
  ok(good && EXPECT(after_sync < 0.1) && EXPECT(after_writes > 0.9), title);
}

}  // namespace

int main() {
  test_page_cache();
  test_initial();
  test_staging();
  test_initial_begin_on_a_cut();
  test_uncommitted_step_of_dead_incarnation();
  test_killed_while_stepping();
  test_hashes();
  test_data();
  return finish();
}
