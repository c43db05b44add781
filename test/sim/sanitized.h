// A sanitizer has its own versions of the calls that the simulator stands in for, and knows nothing of its threads: in
// such a build there is no simulator.
#pragma once
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SIM_SANITIZED
#endif
