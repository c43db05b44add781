#include "replay/file-remover.h"

#include <unistd.h>

#include "core/thread.h"

namespace understudy::replay {

FileRemover::~FileRemover() {
  finish();
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void FileRemover::remove(std::string path) {
  std::unique_lock lock(mutex_);
  if (!thread_.joinable()) thread_ = start_thread("us-remover", [this] { run(); });
  changed_.wait(lock, [&] { return paths_.size() < kPathsMax; });
  paths_.push_back(std::move(path));
  lock.unlock();
  changed_.notify_all();
}

void FileRemover::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return paths_.empty(); });
}

void FileRemover::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stopping_ || !paths_.empty(); });
    if (paths_.empty()) return;
    const std::string path = paths_.front();
    lock.unlock();
    unlink(path.c_str());
    lock.lock();
    paths_.pop_front();
    changed_.notify_all();
  }
}

}  // namespace understudy::replay
