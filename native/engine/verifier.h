// Verifier: compares a whole volume with the standby's copy while clients go on.
//
// Each chunk is read and hashed under its range lock, and the hash becomes a record at that position; the standby
// compares when its replay reaches the record, so both look at the same moment and there is no false alarm.
// Engine thread only.
#pragma once
#include <functional>
#include <vector>

#include "engine/resync.h"

namespace understudy::engine {

class Verifier {
 public:
  using Done = std::function<void(Status status, uint64_t chunks, uint64_t different)>;
  Verifier(Resync::Host host, Capture &capture);

  Status start(Volume &volume, Done done);  // EBUSY: one runs already; EAGAIN: the pair is not in sync
  void result(const wire::VerifyResultBody &body);
  void cancel(const char *why);  // the stream was lost: results will not come
  void turn();
  bool running() const { return volume_ != nullptr; }
  bool reading() const { return reads_ != 0; }

 private:
  void read(uint64_t start, uint64_t end);
  void finish_if_complete();

  Resync::Host host_;
  Capture &capture_;
  Volume *volume_ = nullptr;
  Done done_;
  uint64_t cursor_ = 0, id_base_ = 0, next_id_ = 0, run_ = 0;
  uint64_t sent_ = 0, answered_ = 0, different_ = 0, unread_ = 0;
  size_t reads_ = 0;
};

}  // namespace understudy::engine
