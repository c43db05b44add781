// A read-only Device with some bytes behind its last one: a disk with the footer that a format wants at its end.
#pragma once
#include <memory>
#include <vector>

#include "engine/device.h"

namespace understudy {

std::unique_ptr<Device> with_tail(std::unique_ptr<Device> base, std::vector<uint8_t> tail);

}  // namespace understudy
