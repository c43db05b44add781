// History: what clients saw of one life of a master, and whether what a copy shows is a legal cut of it (G2): the rule
// of test/support/history.ts, for blocks of 4 KiB.
//
// Write u comes before write v when u's reply had come before v was submitted. A copy is legal when it shows, with each
// write, everything that comes before it, and everything that was promised of it; each block the last of that. Zeroes
// may be what was there first or any write of zeroes. The device may hold something at first (`base`).
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace sim {

constexpr uint64_t kBlockBytes = 4096;

// What a block holds, as one number: 0: zeroes; a write's stamp; else a hash of a torn block, with the top bit.
uint64_t value_of(const uint8_t *block);
void fill_block(uint8_t *block, uint64_t stamp);

struct Write {
  uint64_t stamp = 0;      // unique in the run
  bool zero = false;
  uint64_t first = 0, count = 0;  // blocks
  uint64_t submitted = 0, ended = UINT64_MAX;  // ticks; UINT64_MAX: no reply
  bool failed = false;     // it was answered with an error, or lost by the device: its blocks may show it or not
};

// Blocks that are judged; the others are left out of replication.
using Included = std::function<bool(uint64_t block)>;

class History {
 public:
  explicit History(std::vector<uint64_t> base) : base_(std::move(base)), unsure_(base_.size()), covering_(base_.size()) {}

  // Index of the write.
  size_t submit(uint64_t tick, uint64_t stamp, bool zero, uint64_t first, uint64_t count);
  void end(size_t write, uint64_t tick, bool failed);
  // The device has lost what it had taken at this block (zeroes: stamp 0).
  void lose(uint64_t block, uint64_t stamp);
  void unsure(uint64_t block) { unsure_[block] = true; }  // what was there first may be something else
  const Write &write(size_t index) const { return writes_[index]; }
  size_t writes() const { return writes_.size(); }

  // What every copy must show from now on: all writes that had ended before `tick`, and this one.
  void promise_before(uint64_t tick) { promised_ = std::max(promised_, tick); }
  void promise(size_t write) { promised_writes_.push_back(write); }

  struct Promised {
    uint64_t tick = 0;
    size_t writes = 0;  // the first so many of promised_writes_
  };
  Promised promised() const { return {promised_, promised_writes_.size()}; }

  // Empty: a legal cut that has what was promised. `shows`: a value per block. tick: every write that had ended before
  // is in it.
  std::string judge(const std::vector<uint64_t> &shows, const Included &included, const Promised &promised,
                    uint64_t *tick) const;
  // Whether everything promised by a flush is there, however the rest looks (a master's device after a power cut).
  std::string judge_flushed(const std::vector<uint64_t> &shows, uint64_t flushed) const;

 private:
  static constexpr size_t kNone = SIZE_MAX;
  struct View;
  size_t find(const std::vector<uint64_t> &shows, uint64_t block) const;
  const Write *newest(const View &view, uint64_t block, size_t besides) const;
  bool in_cut(const View &view, size_t index) const;
  bool may_be_torn(uint64_t block, const Write *last) const;
  bool explain_zeroes(View &view, uint64_t block, std::string *fault) const;

  std::vector<uint64_t> base_;
  std::vector<bool> unsure_;
  std::vector<Write> writes_;
  std::vector<std::vector<size_t>> covering_;  // by block, in the order of submission
  uint64_t promised_ = 0;
  std::vector<size_t> promised_writes_;
};

}  // namespace sim
