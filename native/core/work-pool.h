// WorkPool: a few threads for what may wait for a disk (fdatasync, cold reads, trims, hashing), so that an engine
// thread never does. Work is taken in order; each job reports back by itself.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace understudy {

class WorkPool {
 public:
  explicit WorkPool(size_t threads);
  ~WorkPool();  // runs what is queued, then joins
  void submit(std::function<void()> job);

 private:
  void run();
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace understudy
