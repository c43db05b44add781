// Progress: the four watermarks, kept together so that a reader sees them fit to each other, and the health of the two
// things that can fail. Each mark has one writing thread; all are read by anyone, and mirrored in ReplicaState.
#pragma once
#include <mutex>
#include <string>

#include "replay/replica.h"

namespace understudy::replay {

class Progress {
 public:
  Progress(ReplicaState &state, ReplicaListener &listener) : state_(state), listener_(listener) {}

  void received(wire::Position position, uint64_t bytes, wire::Mark committed);
  void durable(wire::Position position, wire::Mark mark);
  // offset: in the log; an older one than before (a replay after a failed flush) is not news.
  void applied(uint64_t offset, wire::Position position, uint64_t bytes);
  wire::WatermarksBody body() const;

  enum class Part : uint8_t { kLog, kImage };
  // Tells the listener when the error is a new one.
  void failed(Part part, const Status &status);
  void well(Part part);
  int error_of(Part part) const { return errors_[static_cast<size_t>(part)].load(); }  // an errno; 0: all is well
  bool is_failing(Part part) const { return error_of(part) != 0; }

 private:
  struct Place {
    uint64_t incarnation = 0;
    wire::Mark mark;
  };
  wire::Mark in_current(const Place &place) const {  // watermarks count records of the incarnation last received
    return place.incarnation == received_.incarnation ? place.mark : wire::Mark{};
  }
  void publish() const;
  void publish_errors();

  ReplicaState &state_;
  ReplicaListener &listener_;
  mutable std::mutex mutex_;  // of the marks
  Place received_, durable_, applied_;
  wire::Mark committed_;
  uint64_t applied_offset_ = 0;
  std::atomic<int> errors_[2] = {0, 0};
};

}  // namespace understudy::replay
