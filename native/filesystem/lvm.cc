#include "filesystem/lvm.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>

#include "filesystem/lvm-text.h"

namespace understudy::filesystem {
namespace {

constexpr uint64_t kSector = 512;
constexpr uint64_t kMetadataBytesMax = 16u << 20;  // more than LVM writes by far: garbage

// lib/format_text/layout.h of LVM2; little-endian.
struct __attribute__((packed)) LabelHeader {
  char id[8];  // "LABELONE"
  uint64_t sector;
  uint32_t crc, offset;
  char type[8];  // "LVM2 001"
};
struct __attribute__((packed)) PhysicalVolumeHeader {
  char uuid[32];
  uint64_t device_bytes;
  // then pairs (offset, bytes): data areas, an empty pair, metadata areas, an empty pair
};
struct __attribute__((packed)) MetadataHeader {
  uint32_t checksum;
  char magic[16];
  uint32_t version;
  uint64_t start, bytes;
  struct __attribute__((packed)) {
    uint64_t offset, bytes;  // of the text in the area, which is a ring behind its header's sector
    uint32_t checksum, flags;
  } text;
};
static_assert(sizeof(LabelHeader) == 32 && sizeof(PhysicalVolumeHeader) == 40 && sizeof(MetadataHeader) == 64);
constexpr char kMagic[] = " LVM2 x[5A%r0N*>";

uint32_t lvm_checksum(const char *data, size_t bytes) {
  uint32_t crc = 0xf597a6cf;
  for (size_t i = 0; i < bytes; i++) {
    crc ^= static_cast<uint8_t>(data[i]);
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
  }
  return crc;
}

// 32 letters, as the text has them: 6-4-4-4-4-4-6.
std::string with_dashes(std::string_view letters) {
  std::string uuid;
  size_t at = 0;
  for (const size_t part : {6, 4, 4, 4, 4, 4, 6}) {
    if (!uuid.empty()) uuid += '-';
    uuid += letters.substr(at, part);
    at += part;
  }
  return uuid;
}

struct PhysicalVolume {
  std::string uuid;
  uint64_t offset = 0, size_bytes = 0;  // on the device
  std::string text;                     // of its group's metadata; empty: it holds none
  std::vector<Place> metadata;
};

// The current text of one metadata area; empty: none, or one whose checksum does not hold.
std::string read_text(const Space &space, uint64_t area_offset, uint64_t area_bytes) {
  std::array<char, kSector> sector;
  MetadataHeader header;
  if (!space.read(area_offset, sector.data(), sector.size()).ok()) return "";
  memcpy(&header, sector.data(), sizeof header);
  if (memcmp(header.magic, kMagic, sizeof header.magic) != 0 || header.version != 1) return "";
  if (header.checksum != lvm_checksum(sector.data() + 4, sector.size() - 4)) return "";
  const auto [offset, bytes, checksum, flags] = header.text;
  if (area_bytes <= kSector || bytes == 0 || bytes > kMetadataBytesMax || bytes > area_bytes - kSector || offset < kSector ||
      offset >= area_bytes || flags & 1)  // 1: ignored
    return "";
  std::string text(bytes, '\0');
  const uint64_t first = std::min<uint64_t>(bytes, area_bytes - offset);
  if (!space.read(area_offset + offset, text.data(), first).ok()) return "";
  if (first < bytes && !space.read(area_offset + kSector, text.data() + first, bytes - first).ok()) return "";
  return lvm_checksum(text.data(), text.size()) == checksum ? text : "";
}

bool read_physical(int fd, const Piece &place, PhysicalVolume &found) {
  const Space space(fd, place.offsets[0], place.size_bytes);
  for (uint64_t number = 0; number < 4; number++) {  // the label is in one of the first four sectors
    std::array<char, kSector> sector;
    if (!space.read(number * kSector, sector.data(), sector.size()).ok()) return false;
    LabelHeader label;
    memcpy(&label, sector.data(), sizeof label);
    if (memcmp(label.id, "LABELONE", 8) != 0 || memcmp(label.type, "LVM2 001", 8) != 0 || label.sector != number) continue;
    if (label.crc != lvm_checksum(sector.data() + 20, kSector - 20) || label.offset < sizeof label ||
        label.offset > kSector - sizeof(PhysicalVolumeHeader))
      continue;
    found.uuid = with_dashes({sector.data() + label.offset, 32});
    found.offset = place.offsets[0], found.size_bytes = place.size_bytes;
    found.metadata.push_back({found.offset, 4 * kSector});
    int lists = 0;  // that have ended
    for (size_t at = label.offset + sizeof(PhysicalVolumeHeader); at + 16 <= kSector && lists < 2; at += 16) {
      uint64_t area[2];
      memcpy(area, sector.data() + at, sizeof area);
      if (area[0] == 0) lists++;
      if (area[0] == 0 || lists != 1 || area[0] >= place.size_bytes || area[1] > place.size_bytes - area[0]) continue;
      found.metadata.push_back({found.offset + area[0], area[1]});
      if (found.text.empty()) found.text = read_text(space, area[0], area[1]);
    }
    return true;
  }
  return false;
}

struct Group {
  std::string name;
  uint64_t sequence = 0;
  LvmSection section;
};

// The newest description of each group, by its id.
std::map<std::string, Group> groups_of(const std::vector<PhysicalVolume> &volumes) {
  std::map<std::string, Group> groups;
  for (const PhysicalVolume &volume : volumes) {
    if (volume.text.empty()) continue;
    auto parsed = parse_lvm(volume.text);
    if (!parsed.ok()) continue;
    for (auto &[name, section] : parsed.value.sections) {
      Group group{name, 0, std::move(section)};
      const std::string id = group.section.text("id");
      if (id.empty() || !group.section.number("seqno", group.sequence)) continue;
      auto [at, is_new] = groups.try_emplace(id, group);
      if (!is_new && at->second.sequence < group.sequence) at->second = std::move(group);
    }
  }
  return groups;
}

// Where the extents of the group's physical volumes begin, and how many there are; of this device's only.
struct Extents {
  uint64_t offset, count;
};

class GroupReader {
 public:
  GroupReader(int fd, const Group &group, const std::vector<PhysicalVolume> &here) : fd_(fd), group_(group) {
    uint64_t sectors = 0;
    if (!group.section.number("extent_size", sectors) || sectors == 0 || sectors > UINT32_MAX) return;
    extent_bytes_ = sectors * kSector;
    const LvmSection *list = group.section.section("physical_volumes");
    for (const auto &[name, section] : list ? list->sections : std::map<std::string, LvmSection>{}) {
      uint64_t start = 0, count = 0;
      const std::string id = section.text("id");
      const auto same = [&](const PhysicalVolume &one) { return one.uuid == id; };
      if (std::count_if(here.begin(), here.end(), same) != 1) continue;  // on another disk, or a copy of it is here too
      const PhysicalVolume &volume = *std::find_if(here.begin(), here.end(), same);
      if (!section.number("pe_start", start) || !section.number("pe_count", count) || start == 0) continue;
      if (start > volume.size_bytes / kSector || count > (volume.size_bytes - start * kSector) / extent_bytes_) continue;
      physical_[name] = {volume.offset + start * kSector, count};
    }
  }

  void read(VolumeGroups &found) {
    const LvmSection *list = group_.section.section("logical_volumes");
    if (!list || extent_bytes_ == 0) return;
    std::vector<LogicalVolume> volumes;
    for (const auto &[name, section] : list->sections) {
      Space space(fd_);
      std::string why = append_segments(section, space);
      if (why.empty() && is_in_snapshot(*list, name)) why = "it has a snapshot";
      if (!section.lists("status", "VISIBLE")) continue;  // a part of another one
      if (why.empty()) volumes.push_back({group_.name + "/" + name, std::move(space)});
      else found.unknown.push_back(group_.name + "/" + name + ": " + why);
    }
    if (overlap()) {
      found.unknown.push_back(group_.name + ": its volumes overlap");
      return;
    }
    for (auto &volume : volumes) found.volumes.push_back(std::move(volume));
  }

 private:
  // Empty: all of the volume is in `space`.
  std::string append_segments(const LvmSection &volume, Space &space) {
    uint64_t count = 0, expected = 0;
    if (!volume.number("segment_count", count) || count == 0 || count > volume.sections.size()) return "its segments are not all there";
    std::string why;
    for (uint64_t i = 1; i <= count; i++) {
      const LvmSection *segment = volume.section("segment" + std::to_string(i));
      uint64_t start = 0, extents = 0, stripes = 0;
      if (!segment || !segment->number("start_extent", start) || !segment->number("extent_count", extents) || start != expected || extents == 0)
        return "its segments are not all there";
      expected = start + extents;
      if (segment->text("type") != "striped" || !segment->number("stripe_count", stripes)) {
        why = "a " + segment->text("type") + " volume";
        continue;  // its other segments count as taken all the same
      }
      Piece piece;
      if (std::string problem = piece_of(*segment, extents, stripes, piece); !problem.empty()) why = problem;
      else space.append(std::move(piece));
    }
    return why;
  }

  std::string piece_of(const LvmSection &segment, uint64_t extents, uint64_t stripes, Piece &piece) {
    const auto list = segment.values.find("stripes");
    uint64_t sectors = 0;
    if (list == segment.values.end() || stripes == 0 || list->second.size() != 2 * stripes || extents % stripes != 0)
      return "its stripes cannot be read";
    if (stripes > 1 && (!segment.number("stripe_size", sectors) || sectors == 0 || (extent_bytes_ / kSector) % sectors != 0))
      return "its stripes cannot be read";
    const uint64_t each = extents / stripes;
    piece.size_bytes = extents * extent_bytes_;
    piece.stripe_bytes = stripes > 1 ? sectors * kSector : 0;
    std::string why;
    for (size_t i = 0; i < list->second.size(); i += 2) {
      const auto physical = physical_.find(list->second[i]);
      uint64_t first = 0;
      const std::string &text = list->second[i + 1];
      LvmSection number;
      number.values["n"] = {text};
      if (physical == physical_.end()) {
        why = "it lies on " + list->second[i] + ", which is not on this device";
        continue;
      }
      if (!number.number("n", first) || first > physical->second.count || each > physical->second.count - first) {
        why = "it reaches behind the end of " + list->second[i];
        continue;
      }
      const uint64_t offset = physical->second.offset + first * extent_bytes_;
      piece.offsets.push_back(offset);
      taken_.push_back({offset, offset + each * extent_bytes_});
    }
    return why;
  }

  static bool is_in_snapshot(const LvmSection &volumes, const std::string &name) {
    for (const auto &[other, volume] : volumes.sections)
      for (const auto &[key, segment] : volume.sections)
        if (segment.text("origin") == name || segment.text("cow_store") == name) return true;
    return false;
  }

  bool overlap() {
    std::sort(taken_.begin(), taken_.end());
    for (size_t i = 1; i < taken_.size(); i++)
      if (taken_[i].first < taken_[i - 1].second) return true;
    return false;
  }

  int fd_;
  const Group &group_;
  uint64_t extent_bytes_ = 0;
  std::map<std::string, Extents> physical_;
  std::vector<std::pair<uint64_t, uint64_t>> taken_;  // of all volumes, also hidden ones
};

}  // namespace

VolumeGroups read_volume_groups(int fd, const std::vector<Piece> &physical) {
  std::vector<PhysicalVolume> here;
  for (const Piece &place : physical) {
    PhysicalVolume volume;
    if (read_physical(fd, place, volume)) here.push_back(std::move(volume));
  }
  VolumeGroups found;
  for (const PhysicalVolume &volume : here) found.metadata.insert(found.metadata.end(), volume.metadata.begin(), volume.metadata.end());
  for (const auto &[id, group] : groups_of(here)) GroupReader(fd, group, here).read(found);
  return found;
}

}  // namespace understudy::filesystem
