// Pairing: may the next start of this master take what the standby has for everything that was acknowledged? Under
// `received` an acknowledged write may be in the page cache only, and a host that loses its power has lost it; the standby
// has not. The group's file says `paired` while that holds, and the start after a power cut has it given back
// (src/master/give-back.ts).
//
//   apart --in sync, and what was answered without the standby is on its disk--> paired: told, so that it is written down
//   paired --not in sync--> parting: told; nobody is answered until the file says so: part()--> apart
//
// So the file says `paired` never while a reply has left that the standby lacks. Engine thread only.
#pragma once
#include <cstdint>
#include <utility>

#include "core/breakage.h"

namespace understudy::engine {

class Pairing {
 public:
  enum class News : uint8_t { kNone, kPaired, kParting };
  explicit Pairing(bool wanted) : wanted_(wanted) {}

  // durable: on the standby; logged: the sequence of the last record in the log.
  News look(bool in_sync, uint64_t durable, uint64_t logged) {
    if (!wanted_) return News::kNone;
    if (BROKEN(kNeverPart) && paired_) return News::kNone;
    if (paired_) return in_sync || std::exchange(parting_, true) ? News::kNone : News::kParting;
    if (!in_sync) {
      counts_ = false;
      return News::kNone;
    }
    if (!std::exchange(counts_, true)) owed_until_ = logged;
    if (durable < owed_until_) return News::kNone;
    paired_ = true;
    return News::kPaired;
  }
  void part() { paired_ = parting_ = counts_ = false; }
  bool paired() const { return paired_; }
  bool is_apart() const { return wanted_ && !paired_; }

 private:
  const bool wanted_;
  bool paired_ = false;
  bool parting_ = false;
  bool counts_ = false;  // in sync since owed_until_ was noted
  uint64_t owed_until_ = 0;
};

}  // namespace understudy::engine
