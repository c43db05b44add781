// Looks names up on a thread of its own, because the system's resolver may block for many seconds.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "quic/address.h"

namespace understudy::quic {

class Resolver {
 public:
  using Answer = std::function<void(Result<std::vector<Address>>)>;

  ~Resolver();
  // Answers on the resolver's thread. False: kQuestionsMax are waiting already.
  bool ask(const std::string &host, uint16_t port, Answer answer);
  // No more answers after this. Waits for a question that is under way, as long as the system's resolver takes.
  void stop();

 private:
  static constexpr size_t kQuestionsMax = 64;
  struct Question {
    std::string host;
    uint16_t port;
    Answer answer;
  };
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Question> questions_;
  bool stopping_ = false;
  std::thread thread_;  // started by the first question
};

}  // namespace understudy::quic
