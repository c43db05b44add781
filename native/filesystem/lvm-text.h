// The text that LVM2 describes a volume group in: sections, and keys with a number, a string or a list.
//
//   vg0 { id = "..." seqno = 3 physical_volumes { pv0 { ... } } logical_volumes { root { segment1 { stripes = ["pv0", 0] } } } }
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"

namespace understudy::filesystem {

// Numbers are kept as they are written.
struct LvmSection {
  std::map<std::string, std::vector<std::string>> values;  // a single one is a list of one
  std::map<std::string, LvmSection> sections;

  const LvmSection *section(const std::string &name) const;
  std::string text(const std::string &key) const;  // empty: there is none
  // False: there is none, or it is not one number.
  bool number(const std::string &key, uint64_t &value) const;
  bool lists(const std::string &key, std::string_view value) const;
};

// Sections lie at most ten deep.
Result<LvmSection> parse_lvm(std::string_view text);

}  // namespace understudy::filesystem
