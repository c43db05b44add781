#include "quic/resolver.h"

#include "core/thread.h"

namespace understudy::quic {

Resolver::~Resolver() { stop(); }

bool Resolver::ask(const std::string &host, uint16_t port, Answer answer) {
  std::lock_guard lock(mutex_);
  if (stopping_ || questions_.size() >= kQuestionsMax) return false;
  questions_.push_back({host, port, std::move(answer)});
  if (!thread_.joinable()) thread_ = start_thread("us-resolver", [this] { run(); });
  changed_.notify_one();
  return true;
}

void Resolver::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    questions_.clear();
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void Resolver::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !questions_.empty(); });
    if (stopping_) return;
    Question question = std::move(questions_.front());
    questions_.pop_front();
    lock.unlock();
    Result<std::vector<Address>> addresses = look_up(question.host, question.port, Lookup::kNames);
    lock.lock();
    if (stopping_) return;
    lock.unlock();
    question.answer(std::move(addresses));
    lock.lock();
  }
}

}  // namespace understudy::quic
