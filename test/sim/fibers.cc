#include "fibers.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

// Saves what a call must keep (System V ABI), changes the stack, and goes on there.
extern "C" void sim_switch(void **from, void *to);
#if defined(__x86_64__)
asm(R"(
.text
.globl sim_switch
.type sim_switch, @function
sim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size sim_switch, . - sim_switch
)");
#else
#error "test/sim/fibers.cc knows x86-64 only"
#endif

namespace sim {

Scheduler *scheduler = nullptr;

namespace {
constexpr size_t kStackBytes = 256u << 10;
constexpr size_t kSavedWords = 6;
}  // namespace

void WaitQueue::wake_all() {
  for (Fiber *fiber : fibers_) scheduler->wake(fiber);
}

void WaitQueue::wake_one() {
  std::erase_if(fibers_, [](Fiber *fiber) { return fiber->state != Fiber::State::kBlocked; });
  if (!fibers_.empty()) scheduler->wake(fibers_[scheduler->random.below(fibers_.size())]);
}

void *Scheduler::take_stack() {
  if (!stacks_.empty()) {
    void *stack = stacks_.back();
    stacks_.pop_back();
    return stack;
  }
  void *stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack == MAP_FAILED) abort();
  mprotect(stack, 4096, PROT_NONE);  // the end of a stack that is too small is seen
  return stack;
}

Fiber *Scheduler::spawn(int host, std::string name, std::function<void()> body) {
  fibers_.push_back(std::make_unique<Fiber>());
  Fiber *fiber = fibers_.back().get();
  fiber->id = fibers_.size();
  fiber->host = host;
  fiber->name = std::move(name);
  fiber->body = std::move(body);
  fiber->stack = take_stack();
  auto *top = reinterpret_cast<void **>(static_cast<char *>(fiber->stack) + kStackBytes) - 2;
  *top = reinterpret_cast<void *>(&Scheduler::entry);  // where the first switch returns to
  fiber->stack_pointer = top - kSavedWords;
  runnable_.push_back(fiber);
  return fiber;
}

void Scheduler::entry() {
  Fiber *fiber = scheduler->current;
  fiber->body();
  fiber->body = nullptr;
  scheduler->finish(fiber);
}

void Scheduler::finish(Fiber *fiber) {
  fiber->state = Fiber::State::kDone;
  for (Fiber *joiner : fiber->joiners) wake(joiner);
  switch_out();
}

void Scheduler::switch_out() {
  Fiber *fiber = current;
  current = nullptr;
  sim_switch(&fiber->stack_pointer, own_stack_pointer_);
}

bool Scheduler::run() {
  while (!stopped_) {
    while (!timers_.empty() && timers_.begin()->first <= now_ns) {
      Fiber *fiber = timers_.begin()->second;
      timers_.erase(timers_.begin());
      fiber->wake_ns = kNever;
      fiber->timed_out = true;
      wake(fiber);
    }
    if (runnable_.empty()) {
      if (timers_.empty()) return false;
      now_ns = timers_.begin()->first;
      continue;
    }
    const size_t at = random.below(runnable_.size());
    Fiber *fiber = runnable_[at];
    runnable_[at] = runnable_.back();
    runnable_.pop_back();
    now_ns += 100 + random.below(1000);
    note(fiber->id, now_ns);
    current = fiber;
    sim_switch(&own_stack_pointer_, fiber->stack_pointer);
    if (fiber->state == Fiber::State::kDone || fiber->state == Fiber::State::kDead) {
      if (fiber->stack) stacks_.push_back(fiber->stack);
      fiber->stack = nullptr;
    }
  }
  return true;
}

void Scheduler::kill_host(int host) {
  for (auto &fiber : fibers_) {
    if (fiber->host != host || fiber->state == Fiber::State::kDone || fiber->state == Fiber::State::kDead) continue;
    fiber->state = Fiber::State::kDead;
    if (fiber.get() == current) continue;
    stacks_.push_back(fiber->stack);
    fiber->stack = nullptr;
  }
  std::erase_if(runnable_, [host](Fiber *fiber) { return fiber->host == host; });
  std::erase_if(timers_, [host](const auto &timer) { return timer.second->host == host; });
  if (current && current->host == host) switch_out();  // never to return
}

bool Scheduler::block(uint64_t deadline_ns) {
  Fiber *fiber = current;
  fiber->state = Fiber::State::kBlocked;
  fiber->timed_out = false;
  fiber->wake_ns = deadline_ns;
  if (deadline_ns != kNever) timers_.emplace(deadline_ns, fiber);
  switch_out();
  return !fiber->timed_out;
}

bool Scheduler::block_on(WaitQueue &queue, uint64_t deadline_ns) {
  Fiber *fiber = current;
  queue.add(fiber);
  const bool woken = block(deadline_ns);
  queue.remove(fiber);
  return woken;
}

void Scheduler::yield() {
  current->state = Fiber::State::kRunnable;
  runnable_.push_back(current);
  switch_out();
}

void Scheduler::wake(Fiber *fiber) {
  if (fiber->state != Fiber::State::kBlocked) return;
  if (fiber->wake_ns != kNever) {
    const auto [from, to] = timers_.equal_range(fiber->wake_ns);
    for (auto at = from; at != to; ++at)
      if (at->second == fiber) {
        timers_.erase(at);
        break;
      }
    fiber->wake_ns = kNever;
  }
  fiber->state = Fiber::State::kRunnable;
  runnable_.push_back(fiber);
}

void Scheduler::list() const {
  for (const auto &fiber : fibers_) {
    if (fiber->state > Fiber::State::kBlocked || !fiber->stack) continue;
    printf("# fiber %lu of host %d, %s:", fiber->id, fiber->host, fiber->name.c_str());
    const auto *saved = static_cast<uint64_t *>(fiber->stack_pointer);
    uint64_t frame = saved[kSavedWords - 1];
    const auto low = reinterpret_cast<uint64_t>(fiber->stack), high = low + kStackBytes;
    for (int depth = 0; depth < 12 && frame > low && frame + 16 < high; depth++) {
      const auto *words = reinterpret_cast<uint64_t *>(frame);
      printf(" %lx", words[1] - 1);
      frame = words[0];
    }
    printf("\n");
  }
}

void Scheduler::note(uint64_t what, uint64_t more) {
  trace = (trace ^ what) * 0x100000001b3;
  trace = (trace ^ more) * 0x100000001b3;
  events++;
}

}  // namespace sim
