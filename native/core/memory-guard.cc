#include "core/memory-guard.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <map>
#include <mutex>

#include "core/status.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

namespace understudy::memory_guard {
namespace {

struct State {
  std::mutex mutex;
  std::map<void *, size_t> held;
  std::map<std::string, std::string> refused;  // one of each kind
};

State &state() {
  static State &the_state = *new State;  // never deleted: threads may end after static destructors
  return the_state;
}

// Under the mutex.
void refuse(State &shared, const std::string &kind, const std::string &hint, int error) {
  shared.refused.try_emplace(kind, Status::failed(error, kind).message + hint);
}

void lock_range(State &shared, const void *start, size_t bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(start);
  const uintptr_t first = address / page * page;
  const uintptr_t last = (address + bytes + page - 1) / page * page;
  if (last == first || mlock2(reinterpret_cast<void *>(first), last - first, MLOCK_ONFAULT) == 0) return;
  // What is already gone, or no memory at all (vvar), needs no lock.
  if (errno == EPERM || errno == ENOMEM || errno == EAGAIN || errno == ENOSYS)
    refuse(shared, "lock memory", ": CAP_IPC_LOCK, or a higher RLIMIT_MEMLOCK (LimitMEMLOCK=infinity), is needed", errno);
}

// proc(5). Inherited by child processes.
void never_be_killed(State &shared) {
  constexpr char kNever[] = "-1000";
  const int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, kNever, sizeof kNever - 1) < 0)
    refuse(shared, "oom_score_adj", ": CAP_SYS_RESOURCE is needed, or OOMScoreAdjust of systemd", errno);
  if (fd >= 0) close(fd);
}

int lock_object(dl_phdr_info *info, size_t, void *shared) {
  if (info->dlpi_name && strstr(info->dlpi_name, "linux-vdso")) return 0;
  for (size_t i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) &segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    lock_range(*static_cast<State *>(shared), reinterpret_cast<void *>(info->dlpi_addr + segment.p_vaddr),
               segment.p_memsz);
  }
  return 0;
}

void lock_stack(State &shared) {
  pthread_attr_t attributes;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return;
  void *start = nullptr;
  size_t bytes = 0;
  if (pthread_attr_getstack(&attributes, &start, &bytes) == 0 && gettid() != getpid()) lock_range(shared, start, bytes);
  pthread_attr_destroy(&attributes);
}

}  // namespace

std::atomic<bool> enabled{false};

void enter_slowly() {
  State &shared = state();
  std::lock_guard lock(shared.mutex);
  if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0)
    refuse(shared, "PR_SET_IO_FLUSHER", ": CAP_SYS_RESOURCE and Linux 5.6 are needed", errno);
  lock_stack(shared);
}

std::vector<std::string> enable() {
  State &shared = state();
  if (!enabled.exchange(true)) {
    std::lock_guard lock(shared.mutex);
    dl_iterate_phdr(lock_object, &shared);
    never_be_killed(shared);
    for (const auto &[start, bytes] : shared.held) lock_range(shared, start, bytes);
  }
  enter();
  std::lock_guard lock(shared.mutex);
  std::vector<std::string> messages;
  for (const auto &[kind, message] : shared.refused) messages.push_back(message);
  return messages;
}

void hold(void *start, size_t bytes) {
  State &shared = state();
  std::lock_guard lock(shared.mutex);
  shared.held[start] = bytes;
  if (enabled.load()) lock_range(shared, start, bytes);
}

void release(void *start) {
  State &shared = state();
  std::lock_guard lock(shared.mutex);
  shared.held.erase(start);
}

void hold_heap(void *start, size_t bytes) {
  if (!enabled.load(std::memory_order_relaxed)) return;
  State &shared = state();
  std::lock_guard lock(shared.mutex);
  lock_range(shared, start, bytes);
}

}  // namespace understudy::memory_guard
