// What a place on a device holds, by its signatures (libblkid).
#pragma once
#include <string>

#include "core/status.h"
#include "filesystem/space.h"

namespace understudy::filesystem {

struct Signature {
  std::string kind;  // libblkid's; "" nothing that is known, "ambiguous": several that contradict each other
  std::string label, uuid;
  uint64_t block_bytes = 0;
};
Result<Signature> read_signature(const Space &space);

}  // namespace understudy::filesystem
