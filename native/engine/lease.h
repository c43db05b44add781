// Lease: until when this side may answer its clients. The standby grants it, and is not made the master before it is
// over, so that the two never answer at once.
//
//   the request is sent        the standby grants it: nobody makes it the master for length + margin from here on
//   |----- length - margin -----------> until: nothing is answered from here on
//
// It counts from when the request was sent, never from when the grant came. The clock goes on while the machine is
// suspended (boot_ns()); time comes in. The margin is for clocks that run at different rates, and for what lies between
// the last look at the clock and the bytes' leaving this host: no more can be done about that here.
//
// Any thread but for look(): the link thread grants, the engine thread asks, JavaScript's looks and decides who needs one.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>

namespace understudy::engine {

struct LeaseTerms {
  uint64_t length_ns = 0;  // 0: there is no lease, and clients are always answered
  uint64_t usable_ns = 0;  // length - margin
  bool required = true;    // false: nobody has a copy that could be made the master; see start()
  uint64_t until_ns = 0;   // held from before, by another process of this host
};

class Lease {
 public:
  enum class News : uint8_t { kNone, kOut, kHeld };

  explicit Lease(const LeaseTerms &terms)
      : length_ns_(terms.length_ns),
        usable_ns_(terms.usable_ns),
        until_ns_(terms.until_ns),
        required_(terms.length_ns != 0 && terms.required),
        held_(!required_) {}

  uint64_t length_ns() const { return length_ns_; }
  uint64_t until_ns() const { return until_ns_.load(std::memory_order_acquire); }
  bool required() const { return required_.load(std::memory_order_acquire); }
  bool holds(uint64_t now_ns) const { return !required() || now_ns < until_ns(); }
  uint64_t left_ns(uint64_t now_ns) const { return until_ns() - std::min(now_ns, until_ns()); }

  // What was asked for at `sent_ns` is granted.
  void granted(uint64_t sent_ns) {
    const uint64_t until = sent_ns + usable_ns_;
    uint64_t before = until_ns();
    while (before < until && !until_ns_.compare_exchange_weak(before, until, std::memory_order_acq_rel)) {
    }
  }
  // From now on one is needed: what may make the standby grant it, and count from there, is about to be sent.
  void start(uint64_t now_ns) {
    if (!length_ns_) return;
    granted(now_ns);
    required_.store(true, std::memory_order_release);
  }
  // There is no copy any more that could be made the master.
  void waive() { required_.store(false, std::memory_order_release); }

  // Engine thread.
  News look(uint64_t now_ns) {
    const bool holds_now = holds(now_ns);
    if (holds_now == held_) return News::kNone;
    held_ = holds_now;
    return held_ ? News::kHeld : News::kOut;
  }
  bool held() const { return held_; }  // as of the last look()

 private:
  const uint64_t length_ns_, usable_ns_;
  std::atomic<uint64_t> until_ns_;
  std::atomic<bool> required_;
  bool held_;
};

}  // namespace understudy::engine
