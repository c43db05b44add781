// Event: something the deciding half (TypeScript) must hear of. Rare by construction: never one per request.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace understudy {

// `type` and the field names are those of AddonEvent in src/native/binding.ts. uint64_t becomes a bigint.
struct Event {
  using Value = std::variant<std::string, double, bool, uint64_t>;
  std::string type;
  std::vector<std::pair<std::string, Value>> fields;
  std::string json;  // if not empty: parsed and set as `message`
};
using EventSink = std::function<void(Event)>;  // any thread

}  // namespace understudy
