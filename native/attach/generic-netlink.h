// GenericNetlink: one question to a kernel family at a time, and its outcome. Blocking: for a worker, never for the
// JavaScript or an engine thread. (linux/genetlink.h, linux/netlink.h; man 7 netlink.)
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/fd.h"
#include "core/status.h"

namespace understudy::attach {

// Attributes of a message, in the order they were put.
class Attributes {
 public:
  void put(uint16_t type, const void *data, size_t bytes);
  void put_u32(uint16_t type, uint32_t value) { put(type, &value, sizeof value); }
  void put_u64(uint16_t type, uint64_t value) { put(type, &value, sizeof value); }
  void put_text(uint16_t type, const std::string &text) { put(type, text.c_str(), text.size() + 1); }
  void put_nested(uint16_t type, const Attributes &inner);
  const std::vector<uint8_t> &bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
};

class GenericNetlink {
 public:
  GenericNetlink() = default;  // for Result: nothing but open() makes one that works
  // ENOENT: there is no such family (its module is not loaded).
  static Result<GenericNetlink> open(const std::string &family);
  // Good when the kernel has acknowledged it; its errno otherwise; ETIMEDOUT when it says nothing for kAnswerSeconds.
  Status ask(uint8_t command, const Attributes &attributes, const std::string &what);

 private:
  static constexpr int kAnswerSeconds = 10;
  using Reply = std::function<void(const uint8_t *attributes, size_t bytes)>;
  Status exchange(uint16_t type, uint8_t command, const Attributes &attributes, const std::string &what,
                  const Reply &reply);
  Status answer(uint32_t sequence, const std::string &what, const Reply &reply);
  Fd socket_;
  uint16_t family_ = 0;
  uint32_t sequence_ = 0;
};

}  // namespace understudy::attach
