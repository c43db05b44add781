// Clients: NBD clients of the master, each with several requests under way. What they see becomes the history.
#pragma once
#include "run.h"

namespace sim {

void client_main(Run &run, int number);  // in a fiber of the clients' host, until run.ending

}  // namespace sim
