// Pace: a token bucket. Something may go while the bucket is not empty; what goes may leave it in debt, so that pieces
// larger than the bucket pass too and are paid for afterwards. One thread.
#pragma once
#include <algorithm>
#include <cstdint>

namespace understudy {

class Pace {
 public:
  explicit Pace(uint64_t bytes_per_second) : rate_(static_cast<double>(bytes_per_second) / 1e9) {}  // 0: no limit

  bool open(uint64_t now_ns) {
    if (rate_ == 0) return true;
    if (filled_ns_ < now_ns) {
      // What was not used for longer than kBurstNs is lost: a limit holds over any second, not on average since the start.
      tokens_ = std::min(tokens_ + rate_ * static_cast<double>(now_ns - filled_ns_), rate_ * kBurstNs);
      filled_ns_ = now_ns;
    }
    return tokens_ >= 0;
  }
  void take(uint64_t bytes) {
    if (rate_ != 0) tokens_ -= static_cast<double>(bytes);
  }
  // From the last open() on; 0: it is open.
  uint64_t wait_ns() const { return tokens_ >= 0 ? 0 : static_cast<uint64_t>(-tokens_ / rate_) + 1; }

 private:
  static constexpr double kBurstNs = 50e6;  // a thread that had to wait for its processor catches up
  const double rate_;                       // bytes a nanosecond
  double tokens_ = 0;
  uint64_t filled_ns_ = 0;
};

}  // namespace understudy
