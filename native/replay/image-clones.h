// ImageClones: the images of all volumes as they were when an epoch began, by reflink: EPOCH.VOLUME.image (VOLUME: its
// place in the group, 4 hexadecimal digits). Nothing is copied then or later: where an image changes, the file system
// puts the new bytes elsewhere.
//
// Guarantees: made while the images are synced and nobody changes them, a clone is that content for as long as it is
// there, after a power cut too: make() returns when it is on stable storage. All volumes or none.
// Does not: make names durable (who says that the clones are there syncs the directory first).
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "engine/device.h"
#include "replay/replica.h"

namespace understudy::replay::image_clones {

// A clone costs about 16 us for each piece an image lies in, and replay waits for it. Images of more are not cloned.
inline constexpr uint64_t kExtentsMax = 64u << 10;

std::string path_of(const std::string &directory, uint64_t number, size_t volume);
// Why not: EOPNOTSUPP, EXDEV, EINVAL: not in this place, or not of these images; E2BIG: of too many pieces. Then nothing is
// left. *bytes: what they hold.
Status make(const std::string &directory, uint64_t number, const std::vector<ReplicaVolume> &volumes, uint64_t *bytes);
// ENOENT, EBADMSG: they are not all there.
Status look(const std::string &directory, uint64_t number, const std::vector<uint64_t> &volume_bytes, uint64_t *bytes);
// Those of `volumes`; they stay readable when their names have gone.
Result<std::vector<std::unique_ptr<Device>>> open(const std::string &directory, uint64_t number,
                                                  const std::vector<size_t> &volumes);
void remove(const std::string &directory, uint64_t number, size_t volume_count);

}  // namespace understudy::replay::image_clones
