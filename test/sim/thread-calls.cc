// Threads, locks and time of the simulated hosts (see calls.cc). Outside of a fiber there is one thread only, so that a
// lock is free whenever it is asked for.
#include "sanitized.h"
#ifndef SIM_SANITIZED
#include <dlfcn.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdarg>
#include <unordered_map>

#include "room.h"

using namespace sim;

namespace {

bool in_fiber() { return scheduler && scheduler->current; }

// Who waits for the lock, condition or word at an address. Only looked up: its order says nothing.
std::unordered_map<const void *, WaitQueue> &waiting() {
  static auto *queues = new std::unordered_map<const void *, WaitQueue>;
  return *queues;
}

void wait_at(const void *address, uint64_t deadline_ns, bool *timed_out = nullptr) {
  const bool woken = scheduler->block_on(waiting()[address], deadline_ns);
  if (timed_out) *timed_out = !woken;
}

void wake_at(const void *address, bool all) {
  const auto found = waiting().find(address);
  if (found == waiting().end()) return;
  all ? found->second.wake_all() : found->second.wake_one();
}

uint64_t ns_of(const timespec *time) {
  return static_cast<uint64_t>(time->tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time->tv_nsec);
}

constexpr uint64_t kWallOffsetNs = 1'700'000'000'000'000'000;

int wait_for_condition(pthread_cond_t *condition, pthread_mutex_t *mutex, uint64_t deadline_ns) {
  bool timed_out = false;
  pthread_mutex_unlock(mutex);
  wait_at(condition, deadline_ns, &timed_out);
  pthread_mutex_lock(mutex);
  return timed_out ? ETIMEDOUT : 0;
}

}  // namespace

extern "C" {

int pthread_create(pthread_t *thread, const pthread_attr_t *, void *(*body)(void *), void *argument) {
  if (!in_fiber()) return EAGAIN;
  Fiber *fiber = scheduler->spawn(scheduler->current->host, "thread", [body, argument] { body(argument); });
  *thread = reinterpret_cast<pthread_t>(fiber);
  return 0;
}

int pthread_join(pthread_t thread, void **result) {
  auto *fiber = reinterpret_cast<Fiber *>(thread);
  while (fiber->state != Fiber::State::kDone) {
    fiber->joiners.push_back(scheduler->current);
    scheduler->block(kNever);
  }
  if (result) *result = nullptr;
  return 0;
}

int pthread_setname_np(pthread_t, const char *name) {
  if (in_fiber()) scheduler->current->name = name;
  return 0;
}

// Of a fiber, not of the thread that all hosts share.
int sched_setscheduler(pid_t, int, const sched_param *) { return 0; }

int pthread_sigmask(int, const sigset_t *, sigset_t *) { return 0; }

int pthread_mutex_lock(pthread_mutex_t *mutex) {
  if (in_fiber() && scheduler->random.one_in(8)) scheduler->yield();
  while (mutex->__data.__lock) {
    if (!in_fiber()) return EDEADLK;
    wait_at(mutex, kNever);
  }
  mutex->__data.__lock = 1;
  return 0;
}

int pthread_mutex_trylock(pthread_mutex_t *mutex) {
  if (mutex->__data.__lock) return EBUSY;
  mutex->__data.__lock = 1;
  return 0;
}

int pthread_mutex_unlock(pthread_mutex_t *mutex) {
  mutex->__data.__lock = 0;
  if (in_fiber()) wake_at(mutex, false);
  return 0;
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock, const timespec *until) {
  return wait_for_condition(condition, mutex, ns_of(until) - (clock == CLOCK_REALTIME ? kWallOffsetNs : 0));
}

int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex) {
  return wait_for_condition(condition, mutex, kNever);
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const timespec *until) {
  return wait_for_condition(condition, mutex, ns_of(until) - kWallOffsetNs);
}

int pthread_cond_signal(pthread_cond_t *condition) {
  if (in_fiber()) wake_at(condition, false);
  return 0;
}

int pthread_cond_broadcast(pthread_cond_t *condition) {
  if (in_fiber()) wake_at(condition, true);
  return 0;
}

int pthread_cond_destroy(pthread_cond_t *) { return 0; }

// std::future waits at a futex of its own.
long syscall(long number, ...) {
  va_list arguments;
  va_start(arguments, number);
  long words[6];
  for (long &word : words) word = va_arg(arguments, long);
  va_end(arguments);
  if (number == SYS_futex && in_fiber()) {
    const auto *word = reinterpret_cast<const int *>(words[0]);
    const int operation = static_cast<int>(words[1]) & FUTEX_CMD_MASK;
    if (operation == FUTEX_WAKE) {
      wake_at(word, static_cast<int>(words[2]) == INT_MAX);
      return 0;
    }
    if (__atomic_load_n(word, __ATOMIC_SEQ_CST) != static_cast<int>(words[2])) {
      errno = EAGAIN;
      return -1;
    }
    wait_at(word, kNever);
    return 0;
  }
  static const auto real = reinterpret_cast<long (*)(long, ...)>(dlsym(RTLD_NEXT, "syscall"));
  return real(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}

int clock_gettime(clockid_t clock, timespec *time) {
  static const auto real = reinterpret_cast<int (*)(clockid_t, timespec *)>(dlsym(RTLD_NEXT, "clock_gettime"));
  if (!in_fiber()) return real(clock, time);
  const uint64_t now = scheduler->now_ns + (clock == CLOCK_REALTIME ? kWallOffsetNs : 0);
  time->tv_sec = static_cast<time_t>(now / 1'000'000'000);
  time->tv_nsec = static_cast<long>(now % 1'000'000'000);
  return 0;
}

// Nobody takes a fiber's processor away.
int getrusage(__rusage_who_t, rusage *usage) {
  *usage = {};
  return 0;
}

int nanosleep(const timespec *time, timespec *) {
  scheduler->sleep(ns_of(time));
  return 0;
}

int sched_yield() {
  if (in_fiber()) scheduler->sleep(1000);
  return 0;
}

}  // extern "C"

#endif  // SIM_SANITIZED
