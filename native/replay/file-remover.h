// FileRemover: files go on a thread of their own, one after the other in the order given: freeing what a file of half a
// GiB takes is a fifth of a second, and nobody waits for it. What a crash leaves is found at the next start.
// Any thread.
#pragma once
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

namespace understudy::replay {

class FileRemover {
 public:
  ~FileRemover();  // removes what it was given first
  void remove(std::string path);
  void finish();  // waits until all of it is done

 private:
  void run();

  static constexpr size_t kPathsMax = 4096;  // beyond them the caller waits
  std::mutex mutex_;  // of all below
  std::condition_variable changed_;
  std::deque<std::string> paths_;  // the first one is being removed
  bool stopping_ = false;
  std::thread thread_;  // from the first file on
};

}  // namespace understudy::replay
