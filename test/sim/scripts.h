// Scripts: what a seed has found, told step by step, so that it stays found when the seed means something else.
#pragma once
#include <span>

#include "run.h"

namespace sim {

std::span<const Script> scripts();

}  // namespace sim
