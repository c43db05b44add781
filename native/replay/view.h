// Views: Devices that show a volume as it was at one moment. Frozen: read-only. Overlay: writes go to a scratch file on
// top of a frozen view and are thrown away with it. Neither ever touches the image.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/device.h"
#include "replay/volume-image.h"

namespace understudy::replay {

// Of each image a read-only Device, all as they are at one moment. `check` is asked at that moment, while the applier
// stands between two records; its Status is passed on when it is not good. At least one image.
Result<std::vector<std::unique_ptr<Device>>> freeze(const std::vector<std::shared_ptr<VolumeImage>> &images,
                                                    const std::string &scratch_directory,
                                                    const std::function<Status()> &check);
// A writable Device on top of one.
Result<std::unique_ptr<Device>> overlay(std::unique_ptr<Device> base, const std::string &scratch_directory);

}  // namespace understudy::replay
