#include "core/work-pool.h"

#include "core/memory-guard.h"
#include "core/thread.h"

namespace understudy {

WorkPool::WorkPool(size_t threads) {
  for (size_t i = 0; i < threads; i++) threads_.push_back(start_thread("us-worker", [this] { run(); }));
}

WorkPool::~WorkPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ready_.notify_all();
  for (std::thread &thread : threads_) thread.join();
}

void WorkPool::submit(std::function<void()> job) {
  {
    std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  ready_.notify_one();
}

void WorkPool::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    ready_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    memory_guard::enter();
    job();
    lock.lock();
  }
}

}  // namespace understudy
