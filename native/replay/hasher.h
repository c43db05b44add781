// Hasher: answers the master's question what the image holds in regions that are dirty over there: hashes, or the bytes
// themselves (a master that has lost its own). One thread; answers in the order of the questions. A region that staged
// records will still change is kHashUnknown, and so is everything whose answer would have to wait too long: the master
// then sends the region, or asks for its bytes again.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "replay/applier.h"
#include "replay/digest.h"
#include "replay/ledger.h"

namespace understudy::replay {

class Hasher {
 public:
  Hasher(std::vector<std::shared_ptr<VolumeImage>> images, Applier &applier, Ledger &ledger, const ReplicaState &state,
         ReplicaListener &listener)
      : images_(std::move(images)), applier_(applier), ledger_(ledger), state_(state), listener_(listener) {}
  ~Hasher() { stop(); }
  void start();
  void stop();
  enum class Want : uint8_t { kHashes, kData };
  // EINVAL: no such regions. EAGAIN: kQueueMax questions are waiting.
  Status ask(const wire::HashRequestBody &request, Want want);
  void forget();  // a new session: the questions of the last one are nobody's

 private:
  static constexpr size_t kQueueMax = 1024;
  struct Question {
    wire::HashRequestBody request;
    Want want;
    uint64_t deadline_ns;  // monotonic
  };
  enum class Stand : uint8_t { kWait, kStaged, kDirect, kNever };
  void run();
  void answer(const Question &question);
  void tell(const Question &question);
  Stand stand(const wire::HashRequestBody &request) const;  // with the gate held
  Stand wait_until_ready(const Question &question);
  wire::HashEntry hash_region(const wire::HashRequestBody &request, uint64_t region, bool is_staged);

  std::vector<std::shared_ptr<VolumeImage>> images_;
  Applier &applier_;
  Ledger &ledger_;
  const ReplicaState &state_;
  ReplicaListener &listener_;
  std::mutex mutex_;  // of the queue
  std::condition_variable asked_;
  std::deque<Question> queue_;
  std::atomic<bool> stopping_{false};
  Digest zeroes_{};  // of a whole region
  std::thread thread_;
};

}  // namespace understudy::replay
