#include "history.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

namespace sim {

static bool is_torn(uint64_t value) { return value >> 63; }

uint64_t value_of(const uint8_t *block) {
  uint64_t words[kBlockBytes / 8];
  memcpy(words, block, sizeof words);
  if (memcmp(words, words + 1, sizeof words - 8) == 0) return words[0];
  uint64_t hash = 0xcbf29ce484222325;
  for (uint64_t word : words) hash = (hash ^ word) * 0x100000001b3;
  return hash | 1ull << 63;
}

void fill_block(uint8_t *block, uint64_t stamp) {
  for (uint64_t at = 0; at < kBlockBytes; at += 8) memcpy(block + at, &stamp, 8);
}

size_t History::submit(uint64_t tick, uint64_t stamp, bool zero, uint64_t first, uint64_t count) {
  Write write;
  write.stamp = stamp;
  write.zero = zero;
  write.first = first;
  write.count = count;
  write.submitted = tick;
  writes_.push_back(write);
  for (uint64_t block = first; block < first + count; block++) covering_[block].push_back(writes_.size() - 1);
  return writes_.size() - 1;
}

void History::end(size_t write, uint64_t tick, bool failed) {
  writes_[write].failed |= failed;
  writes_[write].ended = tick;
}

void History::lose(uint64_t block, uint64_t stamp) {
  unsure(block);
  for (size_t index : covering_[block])
    if (stamp ? writes_[index].stamp == stamp && !writes_[index].zero : writes_[index].zero) writes_[index].failed = true;
}

struct History::View {
  const std::vector<uint64_t> &shows;
  uint64_t tick;                        // every write that had ended before is in the cut
  std::unordered_set<size_t> members;   // and these
  std::vector<size_t> shown;            // by block: a write, kNone: what was there first
};

bool History::in_cut(const View &view, size_t index) const {
  const Write &write = writes_[index];
  if (write.failed) return false;
  return view.members.contains(index) || write.ended < view.tick;
}

// The write of the cut at this block that was submitted last.
const Write *History::newest(const View &view, uint64_t block, size_t besides) const {
  const auto &covering = covering_[block];
  for (size_t i = covering.size(); i-- > 0;)
    if (covering[i] != besides && in_cut(view, covering[i])) return &writes_[covering[i]];
  return nullptr;
}

size_t History::find(const std::vector<uint64_t> &shows, uint64_t block) const {
  for (size_t index : covering_[block])
    if (writes_[index].stamp == shows[block] && !writes_[index].zero) return index;
  return kNone;
}

// A write that failed leaves a part of itself, as far as nothing came after it.
bool History::may_be_torn(uint64_t block, const Write *last) const {
  return std::any_of(covering_[block].begin(), covering_[block].end(), [&](size_t index) {
    return writes_[index].failed && (!last || writes_[index].ended >= last->submitted);
  });
}

static std::string stale(uint64_t block, const std::string &shows, const Write &lacks) {
  return "block " + std::to_string(block) + " shows " + shows + " and lacks write " + std::to_string(lacks.stamp) + " (" +
         std::to_string(lacks.submitted) + ".." + std::to_string(lacks.ended) + ")";
}

// The oldest write of zeroes that explains them; it brings with it what had ended before.
bool History::explain_zeroes(View &view, uint64_t block, std::string *fault) const {
  const Write *last = newest(view, block, kNone);
  if (!last && (base_[block] == 0 || unsure_[block])) return true;
  for (size_t index : covering_[block]) {
    const Write &write = writes_[index];
    if (!write.zero) continue;
    const Write *other = newest(view, block, index);
    if (other && write.ended < other->submitted) continue;
    if (!in_cut(view, index)) view.tick = std::max(view.tick, write.submitted);
    return true;
  }
  *fault = last ? stale(block, "zeroes", *last) : "block " + std::to_string(block) + " shows zeroes that nobody wrote";
  return false;
}

std::string History::judge(const std::vector<uint64_t> &shows, const Included &included, const Promised &promised,
                           uint64_t *tick) const {
  View view{shows, promised.tick, {}, std::vector<size_t>(base_.size(), kNone)};
  std::vector<uint64_t> zeroes;
  for (size_t i = 0; i < promised.writes; i++) {
    view.members.insert(promised_writes_[i]);
    view.tick = std::max(view.tick, writes_[promised_writes_[i]].submitted);
  }
  for (uint64_t block = 0; block < base_.size(); block++) {
    if (!included(block)) continue;
    const size_t found = view.shown[block] = find(shows, block);
    if (found != kNone) {
      if (!writes_[found].failed) view.members.insert(found);
      view.tick = std::max(view.tick, writes_[found].submitted);
    } else if (shows[block] == 0) {
      zeroes.push_back(block);
    } else if (shows[block] != base_[block] && !unsure_[block] && !(is_torn(shows[block]) && may_be_torn(block, nullptr))) {
      return "block " + std::to_string(block) + " shows " + std::to_string(shows[block]) + ", which nobody wrote there";
    }
  }
  std::string fault;
  for (uint64_t before = UINT64_MAX; before != view.tick;) {
    before = view.tick;
    for (uint64_t block : zeroes)
      if (!explain_zeroes(view, block, &fault)) return fault;
  }
  for (uint64_t block = 0; block < base_.size(); block++) {
    if (!included(block) || (view.shown[block] == kNone && shows[block] == 0)) continue;
    const size_t shown = view.shown[block];
    const Write *last = newest(view, block, shown);
    if (!last) continue;
    if (shown == kNone && is_torn(shows[block]) && may_be_torn(block, last)) continue;
    if (shown == kNone) return stale(block, "what was there first", *last);
    if (writes_[shown].ended < last->submitted) return stale(block, "write " + std::to_string(writes_[shown].stamp), *last);
  }
  *tick = view.tick;
  return "";
}

std::string History::judge_flushed(const std::vector<uint64_t> &shows, uint64_t flushed) const {
  for (uint64_t block = 0; block < base_.size(); block++) {
    const auto &covering = covering_[block];
    const Write *must = nullptr;
    for (size_t index : covering)
      if (!writes_[index].failed && writes_[index].ended < flushed) must = &writes_[index];
    if (!must) continue;
    bool found = is_torn(shows[block]);  // torn by a write that was under way
    for (size_t index : covering) {
      const Write &write = writes_[index];
      const bool shown = write.zero ? shows[block] == 0 : shows[block] == write.stamp;
      found |= shown && write.ended >= must->submitted;
    }
    if (!found) return stale(block, std::to_string(shows[block]), *must);
  }
  return "";
}

}  // namespace sim
