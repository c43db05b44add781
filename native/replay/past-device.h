// A Device that shows a volume as it was at a moment of the history: records over saved blocks over the frozen image
// (history.h says why that is the volume then). Read-only.
#pragma once
#include <memory>
#include <vector>

#include "engine/device.h"
#include "replay/history.h"
#include "replay/past-records.h"

namespace understudy::replay {

// `frozen`: the image as it was when `layers` were taken. layers: the moment's epoch first.
std::unique_ptr<Device> show_past(std::unique_ptr<Device> frozen, size_t volume,
                                  std::shared_ptr<const std::vector<SavedLayer>> layers,
                                  std::shared_ptr<const PastRecords> records);

}  // namespace understudy::replay
