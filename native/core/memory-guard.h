// Memory guard: what a process needs that serves a block device to the kernel it runs on.
//
// When memory is full of pages that can only be freed by writing them to that device, whoever serves it must not wait for
// memory in the usual way: it would wait for itself. These keep it from that, each once enable() was called:
//   - PR_SET_IO_FLUSHER (prctl(2)): allocations of a thread start no I/O, and it is throttled as a writer by its own
//     disk alone. It holds for one thread: those of start_thread() enter at their next turn, see enter().
//   - code and data of the program and its libraries, stacks of those threads, and what was told to hold() are locked,
//     page by page as they are used (MLOCK_ONFAULT). Not: small pieces of the heap, and JavaScript's memory, which V8
//     gives back in ways that fail on locked pages.
//   - the kernel does not choose this process when it kills one for memory (oom_score_adj): killing it frees nothing that
//     waits to be written.
//   - what is refused (capabilities CAP_SYS_RESOURCE, CAP_IPC_LOCK) is said once, and the rest is done.
#pragma once
#include <atomic>
#include <cstddef>
#include <string>
#include <vector>

namespace understudy::memory_guard {

extern std::atomic<bool> enabled;

// For good; also of the calling thread. Returns what was refused, now or by threads that have entered before.
std::vector<std::string> enable();

void enter_slowly();
// Each turn of a thread on the data path: nothing but a look while the guard is off, or once it has entered.
inline void enter() {
  thread_local bool entered = false;
  if (entered || !enabled.load(std::memory_order_relaxed)) return;
  entered = true;
  enter_slowly();
}

// A mapping that lives long; locked now, or by enable().
void hold(void *start, size_t bytes);
void release(void *start);  // before it is unmapped
// Heap that carries data: locked if the guard is on; unmapping unlocks it.
void hold_heap(void *start, size_t bytes);

}  // namespace understudy::memory_guard
