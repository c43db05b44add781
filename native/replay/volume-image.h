// VolumeImage: one image and the views that look at it. All changes of the image go through here, so that each view
// gets what it must keep first.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "engine/device.h"
#include "engine/range-table.h"
#include "replay/frozen-blocks.h"
#include "replay/progress.h"
#include "replay/turn-gate.h"

namespace understudy::replay {

class VolumeImage {
 public:
  VolumeImage(std::string name, std::unique_ptr<Device> device, std::shared_ptr<TurnGate> gate)
      : name_(std::move(name)), device_(std::move(device)), gate_(std::move(gate)) {}

  const std::string &name() const { return name_; }
  Device &device() { return *device_; }
  TurnGate &gate() { return *gate_; }

  // Applier thread, with the gate held.
  int write(const void *data, size_t bytes, uint64_t offset);
  // As write(), for what a resynchronisation copies, which nobody looks at here for long: it leaves the page cache with the
  // next good flush. Not only for the memory: what is written at once the kernel keeps as one large folio, and a small
  // write into one costs three to six times as much for as long as it stays, its sync half as much again.
  int write_passing(const void *data, size_t bytes, uint64_t offset);
  int zero(uint64_t offset, uint64_t bytes, ZeroHow how);
  int flush();
  bool take_lost_views() { return std::exchange(lost_views_, false); }

  // With the gate held.
  void add_view(FrozenBlocks *view) { views_.push_back(view); }
  void remove_view(FrozenBlocks *view) { std::erase(views_, view); }

 private:
  void preserve(uint64_t offset, uint64_t bytes, bool skip_holes);
  void let_pass();

  const std::string name_;
  std::unique_ptr<Device> device_;
  std::shared_ptr<TurnGate> gate_;
  std::vector<FrozenBlocks *> views_;  // under the gate
  bool is_dirty_ = false;              // written since the last good flush; applier thread
  bool lost_views_ = false;
  std::vector<engine::Range> passing_;  // since the last good flush, in the order of their writes, joined where they meet
};

}  // namespace understudy::replay
