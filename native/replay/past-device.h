// A Device that shows a volume as it was at a moment of the history: records over saved blocks over a clone, or the frozen image
// (history.h says why that is the volume then). Read-only.
#pragma once
#include <memory>
#include <vector>

#include "engine/device.h"
#include "replay/history.h"
#include "replay/past-records.h"

namespace understudy::replay {

// `bottom`: the first clone from the moment's epoch on; if there is none, the image as it was when `layers` were taken.
// layers: what was saved in the epochs before that, the moment's first.
std::unique_ptr<Device> show_past(std::unique_ptr<Device> bottom, size_t volume,
                                  std::shared_ptr<const std::vector<SavedLayer>> layers,
                                  std::shared_ptr<const PastRecords> records);

}  // namespace understudy::replay
