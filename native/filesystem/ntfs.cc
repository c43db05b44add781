#include "filesystem/ntfs.h"

#include <algorithm>
#include <cerrno>

#include "filesystem/little-endian.h"
#include "filesystem/ntfs-table.h"
#include "filesystem/reading.h"

namespace understudy::filesystem {
namespace {

constexpr uint32_t kLogRecord = 2, kVolumeRecord = 3, kRootRecord = 5, kFirstOfUsers = 24;
constexpr uint64_t kPieceBytes = 256u << 10;  // of the table, read at once
constexpr size_t kNameOffset = 66;            // in the value of a file name
constexpr uint8_t kDosName = 2;               // a second name of 8.3 letters, for what has a longer one
constexpr uint32_t kNoIndex = UINT32_MAX, kResolving = UINT32_MAX - 1, kUnreachable = UINT32_MAX - 2, kOfTheSystem = UINT32_MAX - 3;

enum class Kind : uint8_t { kFree, kFile, kDirectory, kSystem, kExtension };

struct Seen {
  uint32_t index = kNoIndex;  // of a file, or of a directory (or what is above)
  uint16_t sequence = 0, link_count = 0;  // as the record says
  uint16_t names = 0;  // found
  uint16_t held = 0;
  Kind kind = Kind::kFree;
};

struct FoundName {
  uint32_t record;
  uint64_t parent;
  Name name;
};

// A part of a file's data, with runs [first_run, first_run + run_count).
struct Part {
  uint32_t record, run_count;
  uint64_t first_cluster, first_run;
  uint64_t allocated_bytes, data_bytes, valid_bytes;  // in the first part
};

class Reader {
 public:
  Reader(const Space &space, Budget &budget, Listing &listing) : space_(space), budget_(budget), listing_(listing), claims_(budget, 1) {}
  Status read();

 private:
  Status read_records();
  bool read_record(uint32_t number, uint8_t *bytes);
  bool read_attribute(uint32_t owner, const NtfsAttribute &attribute);
  bool read_name(uint32_t owner, const NtfsAttribute &attribute);
  bool claim(const std::vector<NtfsRun> &runs);
  void check_extensions();
  void make_files();
  bool claim_parts(const Part *first, const Part *last);
  void resolve_directories();
  bool resolve(uint32_t number);
  bool link_files();
  uint32_t directory_of(uint64_t parent) const;
  void look_at_state();

  const Space &space_;
  Budget &budget_;
  Listing &listing_;
  Claims claims_;
  Problems problems_;
  NtfsGeometry geometry_;
  NtfsTable table_;
  std::vector<Seen> seen_;  // by record
  std::vector<std::pair<uint32_t, uint64_t>> extensions_;
  std::vector<FoundName> names_;
  std::vector<Part> parts_;
  std::vector<NtfsRun> runs_, log_runs_;
  std::vector<Tail> tails_;
  bool dirty_ = false, has_version_ = false, other_version_ = false;
};

Status Reader::read() {
  if (auto status = read_ntfs_boot(space_, geometry_); !status.ok()) return status;
  if (!budget_.goes_on()) return Status::failed(budget_.error(), "read the file system");
  if (auto status = open_ntfs_table(space_, budget_, geometry_, table_); !status.ok()) return status;
  if (auto status = read_records(); !status.ok()) return status;
  if (other_version_) return {ENOTSUP, "read the file system: a version of NTFS that is not known"};
  if (!has_version_) problems_.add("the record of the volume");
  check_extensions();
  make_files();
  resolve_directories();
  if (budget_.error() || !link_files()) return Status::failed(budget_.error(), "read the file system");
  look_at_state();
  if (const int error = settle(claims_, space_, {geometry_.cluster_bytes}, tails_, budget_, listing_)) return Status::failed(error, "read the file system");
  listing_.problems = problems_.count, listing_.first_problem = problems_.first;
  return Status::good();
}

Status Reader::read_records() {
  if (!budget_.take(uint64_t{table_.count} * sizeof(Seen))) return Status::failed(budget_.error(), "read the file system");
  seen_.resize(table_.count);
  const uint32_t at_once = static_cast<uint32_t>(kPieceBytes / geometry_.record_bytes);
  std::vector<uint8_t> piece(size_t{at_once} * geometry_.record_bytes);
  for (uint32_t number = 0; number < table_.count;) {
    const uint32_t part = std::min(at_once, table_.count - number);
    if (!budget_.goes_on()) break;
    if (auto status = table_.records.read(uint64_t{number} * geometry_.record_bytes, piece.data(), size_t{part} * geometry_.record_bytes); !status.ok()) return status;
    for (uint32_t i = 0; i < part; i++, number++)
      if (!read_record(number, piece.data() + size_t{i} * geometry_.record_bytes)) break;
    if (budget_.error()) break;
  }
  return budget_.error() ? Status::failed(budget_.error(), "read the file system") : Status::good();
}

// A record that is in use for only one of itself and the bitmap is half written. (Those of the system differ by who made them.)
bool Reader::read_record(uint32_t number, uint8_t *bytes) {
  const auto problem = [&] { return problems_.add("record " + std::to_string(number) + " of the file table"), true; };
  const bool marked = table_.in_use(number), has_content = memcmp(bytes, "FILE", 4) == 0 || memcmp(bytes, "BAAD", 4) == 0;
  NtfsRecord record;
  if (!open_ntfs_record(bytes, geometry_, record)) return marked || has_content ? problem() : true;
  if (number >= kFirstOfUsers && record.in_use != marked) problem();
  if (!record.in_use) return true;
  Seen &seen = seen_[number];
  seen.sequence = record.sequence, seen.link_count = record.link_count;
  const uint64_t base = ntfs_number(record.base);
  const uint32_t owner = record.base == 0 ? number : static_cast<uint32_t>(base);
  if (record.base != 0) {
    if (base >= table_.count || base == number) return problem();
    if (!budget_.take(sizeof extensions_[0])) return false;
    extensions_.push_back({number, record.base}), seen.kind = Kind::kExtension;
  } else if (number == kRootRecord || (number >= kFirstOfUsers && record.directory)) {
    seen.kind = Kind::kDirectory;
  } else {
    seen.kind = number < kFirstOfUsers ? Kind::kSystem : Kind::kFile;
  }
  NtfsAttributes attributes(bytes, geometry_);
  for (NtfsAttribute attribute; attributes.next(attribute);)
    if (!read_attribute(owner, attribute)) return false;
  return attributes.damaged() ? problem() : true;
}

bool Reader::read_attribute(uint32_t owner, const NtfsAttribute &attribute) {
  Seen &seen = seen_[owner];
  if (attribute.type == kNtfsFileName && attribute.resident) return read_name(owner, attribute);
  if (attribute.type == kNtfsReparsePoint) seen.held |= kReparsePoint;
  if (owner == kVolumeRecord && attribute.type == kNtfsVolumeInformation && attribute.resident && attribute.value_bytes >= 12) {
    has_version_ = true, other_version_ = attribute.value[8] != 1 && attribute.value[8] != 3;
    dirty_ = (attribute.value[10] & 1) != 0;
  }
  const bool data = attribute.type == kNtfsData && !attribute.named;
  if (data && owner == kLogRecord && !attribute.resident && attribute.first_cluster == 0) log_runs_ = attribute.runs;
  if (!data || owner < kFirstOfUsers) return claim(attribute.runs);
  if (attribute.resident) seen.held |= kInline;
  if (attribute.flags & kNtfsCompressed) seen.held |= kCompressed;
  if (attribute.flags & kNtfsEncrypted) seen.held |= kEncrypted;
  if (!budget_.take(sizeof(Part) + attribute.runs.size() * sizeof(NtfsRun))) return false;
  Part part{owner, static_cast<uint32_t>(attribute.runs.size()), attribute.first_cluster, runs_.size(), attribute.allocated_bytes, attribute.data_bytes, attribute.valid_bytes};
  if (attribute.resident) part.allocated_bytes = 0, part.first_cluster = 0, part.data_bytes = part.valid_bytes = attribute.value_bytes;
  parts_.push_back(part);
  runs_.insert(runs_.end(), attribute.runs.begin(), attribute.runs.end());
  return true;
}

bool Reader::read_name(uint32_t owner, const NtfsAttribute &attribute) {
  const auto problem = [&] { return problems_.add("a name in record " + std::to_string(owner) + " of the file table"), true; };
  Seen &seen = seen_[owner];
  if (owner < kFirstOfUsers) return true;
  if (seen.names++ == UINT16_MAX || attribute.value_bytes < kNameOffset) return problem();
  const uint8_t units = attribute.value[64], space = attribute.value[65];
  if (attribute.value_bytes < kNameOffset + 2u * units) return problem();
  if (space == kDosName) return true;
  std::string text;
  append_utf16(text, attribute.value + kNameOffset, units);
  if (!is_name(text)) return problem();
  FoundName found{owner, le64(attribute.value), {}};
  if (!add_name(listing_, budget_, text, sizeof found, found.name)) return false;
  names_.push_back(found);
  return true;
}

bool Reader::claim(const std::vector<NtfsRun> &runs) {
  for (const NtfsRun &run : runs)
    if (run.cluster != kHole && !claims_.add(run.cluster, run.count, kNobodysFile)) return false;
  return true;
}

// What is told of a file in another record than its own belongs to it only while the file is the same.
void Reader::check_extensions() {
  for (const auto &[number, base] : extensions_) {
    const Seen &owner = seen_[ntfs_number(base)];
    if (owner.kind == Kind::kFree || owner.kind == Kind::kExtension || owner.sequence != ntfs_sequence(base))
      problems_.add("record " + std::to_string(number) + " of the file table, which belongs to none");
  }
}

void Reader::make_files() {
  for (Seen &seen : seen_) {
    if (seen.kind != Kind::kFile) continue;
    if (!budget_.take(sizeof(File) + sizeof(Tail))) return;
    seen.index = static_cast<uint32_t>(listing_.files.size());
    listing_.files.push_back({.held = seen.held});
    tails_.push_back({});
  }
  std::sort(parts_.begin(), parts_.end(), [](const Part &a, const Part &b) { return a.record != b.record ? a.record < b.record : a.first_cluster < b.first_cluster; });
  for (const Part *at = parts_.data(), *end = at + parts_.size(); at != end;) {
    const Part *last = at + 1;
    while (last != end && last->record == at->record) last++;
    if (!claim_parts(at, last)) return;
    at = last;
  }
}

// All parts of one file's data. They are whole when one begins where another ends, up to what is allocated.
bool Reader::claim_parts(const Part *first, const Part *last) {
  const Seen &seen = seen_[first->record];
  const uint64_t cluster_bytes = geometry_.cluster_bytes, size = first->data_bytes, valid = first->valid_bytes;
  const uint64_t needed = size == 0 ? 0 : (size - 1) / cluster_bytes + 1;
  const bool file = seen.kind == Kind::kFile;
  const uint32_t owner = file ? seen.index : kNobodysFile;
  uint64_t at = 0, on_device = 0, unwritten = 0;  // at: in clusters of the file
  bool whole = true;
  for (const Part *part = first; part != last; part++) {
    whole &= part->first_cluster == at;
    at = part->first_cluster;
    for (uint64_t i = part->first_run; i < part->first_run + part->run_count; at += runs_[i++].count) {
      const NtfsRun &run = runs_[i];
      if (i % 1024 == 0 && !budget_.goes_on()) return false;
      if (run.cluster == kHole) continue;
      const uint64_t data = at >= needed ? 0 : std::min(run.count, needed - at);
      if (!claims_.add(run.cluster, data, owner) || !claims_.add(run.cluster + data, run.count - data, kNobodysFile)) return false;
      if (data == 0) continue;
      const uint64_t start = at * cluster_bytes, end = std::min(size, (at + data) * cluster_bytes);
      on_device += end - start, unwritten += end - std::clamp(valid, start, end);
      if (file && at + data == needed) tails_[owner] = {run.cluster + data - 1, size - (needed - 1) * cluster_bytes};
    }
  }
  const bool is_inline = (seen.held & kInline) != 0;
  if (!is_inline) whole &= at * cluster_bytes == first->allocated_bytes && size <= first->allocated_bytes && valid <= size;
  if (!whole) problems_.add("the data of record " + std::to_string(first->record) + " of the file table");
  if (!file) return true;
  File &one = listing_.files[owner];
  one.size_bytes = size, one.data_bytes = is_inline ? size : on_device, one.unwritten_bytes = unwritten;
  if (!whole) one.held |= kDamaged;
  return true;
}

// Which directory a name is in: its index, or why it is none.
uint32_t Reader::directory_of(uint64_t parent) const {
  const uint64_t number = ntfs_number(parent);
  if (number >= seen_.size() || seen_[number].sequence != ntfs_sequence(parent)) return kUnreachable;
  if (seen_[number].kind == Kind::kSystem) return kOfTheSystem;
  return seen_[number].kind == Kind::kDirectory ? seen_[number].index : kUnreachable;
}

void Reader::resolve_directories() {
  std::sort(names_.begin(), names_.end(), [](const FoundName &a, const FoundName &b) { return a.record < b.record; });
  listing_.directories.push_back({0, 0, 0});
  if (seen_.size() <= kRootRecord || seen_[kRootRecord].kind != Kind::kDirectory) return problems_.add("the root directory");
  seen_[kRootRecord].index = 0;
  for (uint32_t number = 0; number < seen_.size(); number++)
    if (seen_[number].kind == Kind::kDirectory && seen_[number].index == kNoIndex && !resolve(number)) return;
}

// From a directory up to one whose place is known, and down again: each is visited once.
bool Reader::resolve(uint32_t number) {
  std::vector<const FoundName *> path;
  uint32_t above = kNoIndex;
  for (; above == kNoIndex;) {
    const auto name = std::lower_bound(names_.begin(), names_.end(), number, [](const FoundName &one, uint32_t record) { return one.record < record; });
    seen_[number].index = kResolving;
    if (name == names_.end() || name->record != number) {
      seen_[number].index = above = kUnreachable;
      break;
    }
    if (name + 1 != names_.end() && (name + 1)->record == number) problems_.add("directory " + std::to_string(number) + ", which has several names");
    path.push_back(&*name);
    above = directory_of(name->parent);
    number = static_cast<uint32_t>(ntfs_number(name->parent));
  }
  if (above == kResolving) above = kUnreachable;  // it is above itself
  if (above == kUnreachable) problems_.add("directory " + std::to_string(path.empty() ? number : path.back()->record) + ", which is in none");
  for (; !path.empty(); path.pop_back()) {
    const FoundName &one = *path.back();
    uint32_t index = above;
    if (above < kOfTheSystem) {
      if (!budget_.take(sizeof(Directory))) return false;
      index = static_cast<uint32_t>(listing_.directories.size());
      listing_.directories.push_back({above, one.name.start, one.name.end});
    }
    seen_[one.record].index = above = index;
  }
  return true;
}

bool Reader::link_files() {
  std::vector<bool> of_the_system(listing_.files.size());
  for (const FoundName &one : names_) {
    if (seen_[one.record].kind != Kind::kFile) continue;
    const uint32_t file = seen_[one.record].index, directory = directory_of(one.parent);
    if (directory >= kOfTheSystem) {
      listing_.files[file].held |= kNamesMissing;
      if (directory == kOfTheSystem) of_the_system[file] = true;
      continue;
    }
    if (!budget_.take(sizeof(Link))) return false;
    listing_.links.push_back({file, directory, one.name.start, one.name.end});
  }
  give_links_to_files(listing_);
  for (const Seen &seen : seen_) {
    if (seen.kind != Kind::kFile) continue;
    File &file = listing_.files[seen.index];
    if (file.link_count == 0 || seen.names != seen.link_count) file.held |= kNamesMissing;
    if (file.link_count == 0 && !of_the_system[seen.index]) listing_.nameless_files++;
  }
  return true;
}

// Whether what lies in place may be older than what the log says. (The log's restart area: linux/fs/ntfs3/fslog.c.)
void Reader::look_at_state() {
  uint8_t page[512] = {};
  Space log(space_.fd());
  const bool readable = append_ntfs_runs(space_, budget_, geometry_, log_runs_, log).ok() && log.read(0, page, sizeof page).ok();
  const bool empty = readable && le32(page) == UINT32_MAX;
  const size_t area = le16(page + 24);
  const bool closed = readable && memcmp(page, "RSTR", 4) == 0 && area + 16 <= sizeof page - 2 && (le16(page + area + 12) == UINT16_MAX || (le16(page + area + 14) & 2));
  listing_.journal_pending = dirty_ || !(empty || closed);
  if (listing_.journal_pending) listing_.journal_unread = "$LogFile is not replayed";
}

}  // namespace

Result<Listing> list_ntfs(const Space &space, const Limits &limits) {
  return read_repeatedly(limits, [&](Budget &budget, Listing &listing) { return Reader(space, budget, listing).read(); });
}

}  // namespace understudy::filesystem
