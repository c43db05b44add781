// LVM2: where the logical volumes of the volume groups on a device lie, from the groups' own metadata.
//
// A volume is told when all of it is linear or striped and on physical volumes of this device. All others (mirrors, RAID,
// thin and cached ones, snapshots and what they are of, volumes that reach to another disk, hidden parts of others) are
// left out: what lies there is not known, and replicated.
// Guarantees: the metadata's checksums hold; pieces lie inside their physical volume, behind its metadata; no two
// volumes of a group have a byte in common. A group that contradicts itself has no volumes.
#pragma once
#include <string>
#include <vector>

#include "filesystem/listing.h"
#include "filesystem/space.h"

namespace understudy::filesystem {

struct LogicalVolume {
  std::string name;  // "group/volume"
  Space space;
};
struct VolumeGroups {
  std::vector<LogicalVolume> volumes;
  std::vector<std::string> unknown;  // visible volumes that are left out: "group/volume: why"
  std::vector<Place> metadata;       // labels and metadata areas: what all of this was read from
};

// physical: the places on the device that libblkid calls LVM2 members. One that cannot be read is passed over.
VolumeGroups read_volume_groups(int fd, const std::vector<Piece> &physical);

}  // namespace understudy::filesystem
