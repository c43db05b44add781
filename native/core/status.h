// Status: how an operation ended, without exceptions. ok() or (errno, "action: object: reason (ENAME)").
#pragma once
#include <string>
#include <utility>

namespace understudy {

struct [[nodiscard]] Status {
  int error = 0;        // an errno; 0: it worked
  std::string message;  // empty when it worked
  bool ok() const { return error == 0; }
  static Status good() { return {}; }
  // e.g. failed(ENOSPC, "append: segment 12") -> "append: segment 12: No space left on device (ENOSPC)"
  static Status failed(int error, const std::string &what);
};

// A value or the Status that says why there is none.
template <typename T>
struct [[nodiscard]] Result {
  T value{};
  Status status;
  Result(T &&v) : value(std::move(v)) {}
  Result(Status s) : status(std::move(s)) {}
  bool ok() const { return status.ok(); }
};

}  // namespace understudy
