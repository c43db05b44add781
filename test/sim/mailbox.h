// Mailbox: the events of the native code of one process, for the fiber that decides there as TypeScript does.
#pragma once
#include <deque>
#include <variant>

#include "core/event.h"
#include "fibers.h"

namespace sim {

class Mailbox {
 public:
  understudy::EventSink sink() {
    return [this](understudy::Event event) { put(std::move(event)); };
  }
  void put(understudy::Event event) {
    events_.push_back(std::move(event));
    arrived_.wake_all();
  }
  // False: the time is over.
  bool take(understudy::Event *event, uint64_t deadline_ns) {
    while (events_.empty())
      if (!scheduler->block_on(arrived_, deadline_ns)) return false;
    *event = std::move(events_.front());
    events_.pop_front();
    return true;
  }

 private:
  std::deque<understudy::Event> events_;
  WaitQueue arrived_;
};

inline uint64_t number_in(const understudy::Event &event, const char *name) {
  for (const auto &[field, value] : event.fields) {
    if (field != name) continue;
    if (const auto *number = std::get_if<uint64_t>(&value)) return *number;
    if (const auto *number = std::get_if<double>(&value)) return static_cast<uint64_t>(*number);
    if (const auto *flag = std::get_if<bool>(&value)) return *flag;
  }
  return 0;
}

inline std::string words_of(const understudy::Event &event) {
  std::string words = event.type + " " + event.json;
  for (const auto &[field, value] : event.fields) {
    const auto *text = std::get_if<std::string>(&value);
    words += " " + field + "=" + (text ? *text : std::to_string(number_in(event, field.c_str())));
  }
  return words;
}

// One value that another fiber brings: what a promise is in TypeScript.
class Later {
 public:
  void bring(bool good) {
    state_ = good ? kGood : kBad;
    arrived_.wake_all();
  }
  bool wait() {
    while (state_ == kNone) scheduler->block_on(arrived_, kNever);
    return state_ == kGood;
  }

 private:
  enum { kNone, kGood, kBad } state_ = kNone;
  WaitQueue arrived_;
};

}  // namespace sim
