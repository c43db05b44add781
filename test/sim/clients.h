// Clients: NBD clients of the master, each with several requests under way. What they see becomes the history.
#pragma once
#include "run.h"

namespace sim {

void client_main(Run &run, int number);  // in a fiber of the clients' host, until run.ending

// Of a script: a client that makes one write. It becomes true when that was answered.
std::shared_ptr<const bool> write_once(Run &run, uint64_t first, uint64_t count, uint64_t stamp);

}  // namespace sim
