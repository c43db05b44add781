// Views: Devices that show a volume as it was at one moment. Frozen: read-only. Overlay: writes go to a scratch file on
// top of a frozen view and are thrown away with it. Neither ever touches the image.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "engine/device.h"
#include "replay/volume-image.h"

namespace understudy::replay {

// With `check` asked while the applier stands between two records; its Status is passed on when it is not good.
Result<std::unique_ptr<Device>> open_view(std::shared_ptr<VolumeImage> image, const std::string &scratch_directory,
                                          bool writable, const std::function<Status()> &check);

}  // namespace understudy::replay
