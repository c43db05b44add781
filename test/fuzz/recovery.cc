// sources: native/replay/recovery.cc native/replay/segment.cc native/replay/file-io.cc native/wire/record.cc native/core/core.cc native/core/crc32c.cc  libs:
// Recovery of the standby's log: of damaged segments it takes a prefix of the records that were written and nothing
// after it (G8); what is lost of what was acknowledged is called damage; a second look finds the same.
#include "replay/recovery.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "core/check.h"
#include "fuzz.h"

using namespace understudy;
using replay::Segment;
using wire::RecordHeader;
using wire::RecordType;

namespace {

struct Log {
  fuzz::Bytes bytes;                   // all records, by log offset
  std::vector<uint64_t> starts;        // of each record, and the end
  std::vector<wire::Position> before;  // the last sequenced record before each
};

Log make_log(fuzz::Random &random) {
  Log log;
  wire::Position last;
  for (uint64_t count = 1 + random.below(24); count; count--) {
    RecordHeader header{};
    header.magic = wire::kRecordMagic;
    header.type = last.sequence == 0 ? RecordType::kBegin : static_cast<RecordType>(1 + random.below(10));
    header.incarnation = 7;
    header.predecessor = last.sequence;
    header.sequence = last.sequence + wire::is_sequenced(header.type);
    header.committed = random.below(header.sequence + 1);
    fuzz::Bytes payload;
    if (wire::has_payload(header.type)) payload.resize(header.type == RecordType::kVerify ? 40 : random.below(3000) + 1, 0x5a);
    header.payload_bytes = static_cast<uint32_t>(payload.size());
    header.length = header.type == RecordType::kVerify ? 512 : payload.size();
    wire::seal(header, payload.data());
    log.starts.push_back(log.bytes.size());
    log.before.push_back(last);
    const auto *raw = reinterpret_cast<const uint8_t *>(&header);
    log.bytes.insert(log.bytes.end(), raw, raw + sizeof header);
    log.bytes.insert(log.bytes.end(), payload.begin(), payload.end());
    if (wire::is_sequenced(header.type)) last = {7, header.sequence};
  }
  log.starts.push_back(log.bytes.size());
  log.before.push_back(last);
  return log;
}

// A file that may be written over after record `first` (replay/segment-log.h says which): earlier records are in it, of
// which some may stand just where a new one will. Empty: there is none.
std::string set_aside(const Log &log, size_t first, const std::string &folder, uint64_t index, fuzz::Random &random) {
  const auto type_of = [&](size_t record) { return static_cast<RecordType>(log.bytes[log.starts[record] + 4]); };
  size_t end = first;
  while (end > 0 && log.before[end].sequence >= log.before[first].sequence) end--;
  size_t begin = end;
  for (const size_t least = random.below(end + 1); begin > least && type_of(begin - 1) != RecordType::kBegin;) begin--;
  if (begin == end) return "";
  auto made = Segment::create(folder, index, log.starts[begin], log.before[begin], 64u << 10);
  CHECK(made.ok());
  CHECK(made.value->append(log.bytes.data() + log.starts[begin], log.starts[end] - log.starts[begin]) == 0);
  std::string path = Segment::set_aside_path_of(folder, index);
  CHECK(rename(made.value->path().c_str(), path.c_str()) == 0);
  return path;
}

// Some records a segment. Returns how many segments there are, numbered from 1.
uint64_t write_segments(const Log &log, const std::string &folder, fuzz::Random &random) {
  uint64_t index = 0;
  const size_t records = log.starts.size() - 1;
  for (size_t first = 0; first < records;) {
    const size_t count = std::min<size_t>(records - first, 1 + random.below(8));
    const std::string spare = random.one_in(2) ? set_aside(log, first, folder, index + 1, random) : "";
    index++;
    auto made = spare.empty() ? Segment::create(folder, index, log.starts[first], log.before[first], 64u << 10)
                              : Segment::write_over(spare, folder, index, log.starts[first], log.before[first], 64u << 10);
    CHECK(made.ok());
    CHECK(made.value->append(log.bytes.data() + log.starts[first], log.starts[first + count] - log.starts[first]) == 0);
    if (random.one_in(2)) CHECK(made.value->trim() == 0);
    first += count;
  }
  return index;
}

void change(fuzz::Bytes &bytes, fuzz::Random &random) {
  constexpr size_t kSector = 512;
  const size_t sectors = bytes.size() / kSector;
  for (uint64_t count = 1 + random.below(4); count && sectors; count--) {
    const size_t at = random.below(bytes.size());
    uint8_t *sector = bytes.data() + random.below(sectors) * kSector;
    switch (const uint64_t kind = random.below(5)) {
      case 2: memset(sector, 0, kSector); break;
      case 3: memmove(sector, bytes.data() + random.below(sectors) * kSector, kSector); break;
      default: fuzz::spoil(bytes, at, kind, random);
    }
  }
}

// What a disk does: bytes change, sectors are lost or land in another's place, a file is shorter or gone. Nothing moves.
void damage(const std::string &path, fuzz::Random &random) {
  if (random.one_in(8)) {
    unlink(path.c_str());
    return;
  }
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return;  // gone already
  fuzz::Bytes bytes(128 << 10);
  const ssize_t n = pread(fd, bytes.data(), bytes.size(), 0);
  bytes.resize(n < 0 ? 0 : static_cast<size_t>(n));
  if (random.one_in(4) && !bytes.empty()) bytes.resize(random.below(bytes.size()));
  else change(bytes, random);
  CHECK(ftruncate(fd, 0) == 0 && pwrite(fd, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  close(fd);
}

}  // namespace

void fuzz::round(fuzz::Random &random) {
  static const std::string folder = "/dev/shm/understudy-fuzz-recovery-" + std::to_string(getpid());
  mkdir(folder.c_str(), 0700);
  const Log log = make_log(random);
  const uint64_t segments = write_segments(log, folder, random);
  replay::Watermark from;
  const size_t at = random.below(log.starts.size());
  from.log_offset = log.starts[at];
  from.applied = log.before[at];
  from.durable_offset = random.one_in(2) ? log.bytes.size() : from.log_offset;
  from.segment_index_next = random.below(segments + 2);
  const bool damaged = !random.one_in(5);
  for (uint64_t count = damaged ? 1 + random.below(2) : 0; count; count--)
    damage(Segment::path_of(folder, 1 + random.below(segments)), random);
  uint64_t end = from.log_offset;
  const auto look = [&] {
    end = from.log_offset;
    return replay::recover_segments(folder, from, [&](const uint8_t *record, size_t bytes, uint64_t offset) {
      CHECK(offset == end && offset + bytes <= log.bytes.size());
      CHECK(memcmp(record, log.bytes.data() + offset, bytes) == 0);  // as it was written
      end += bytes;
    });
  };
  auto found = look();
  if (found.ok()) {
    const uint64_t first_end = end;
    CHECK(found.value.end == end && found.value.index_next > 0);
    CHECK(damaged || (end == log.bytes.size() && found.value.damage.empty()));
    CHECK(end >= from.durable_offset || !found.value.damage.empty());
    found.value.segments.clear();
    const auto again = look();
    CHECK(again.ok() && end == first_end);
  }
  for (uint64_t index = 1; index <= segments; index++) unlink(Segment::path_of(folder, index).c_str());
  rmdir(folder.c_str());
}
