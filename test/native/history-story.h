// A master's records at random, for a standby that keeps a history, and what the volumes are after any of them.
#pragma once
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "replay-support.h"

namespace history_story {
using namespace replay_test;

inline constexpr uint64_t kSizes[2] = {(1u << 20) + 1234, 300'000};
inline constexpr uint64_t kSecondNs = 1'000'000'000;

// All records ever made, and what the volumes are after any of them, by a replay of its own.
struct Story {
  Master master{7};
  std::vector<Record> records;
  std::map<uint64_t, bool> voided;
  uint64_t time_ns = wall_ns();

  void add(Record record, uint16_t volume) {
    record.header.volume_index = volume;
    record.header.time_ns = time_ns += kSecondNs;
    wire::seal(record.header, record.payload.data());
    if (record.header.type == RecordType::kVoid) voided[record.header.offset] = true;
    records.push_back(std::move(record));
  }
  void add_random(std::mt19937_64 &random) {
    const uint16_t volume = random() % 3 == 0;
    const uint64_t size = kSizes[volume];
    const uint64_t length = 1 + random() % (random() % 4 ? 6000 : 100'000);
    const uint64_t offset = random() % 3 ? random() % (size - length) : random() % 20'000;
    const uint64_t what = random() % 20;
    if (what < 2)
      add(master.make(what ? RecordType::kTrim : RecordType::kZero, offset, length), volume);
    else if (what < 3)
      add(master.make(RecordType::kFlush, 0, 0), volume);
    else if (what < 5)
      add_uncommitted(random, offset, length, volume);
    else
      add(master.fill(offset, length, static_cast<uint8_t>(random())), volume);
    if (random() % 60 == 0) add_step(random);
  }
  void add_uncommitted(std::mt19937_64 &random, uint64_t offset, uint64_t length, uint16_t volume) {
    master.commits = false;
    add(master.fill(offset, length, static_cast<uint8_t>(random())), volume);
    if (random() % 2) add(master.void_of(master.sequence), volume);
    add(master.commit(master.sequence), volume);
    master.commits = true;
  }
  void add_step(std::mt19937_64 &random) {
    if (random() % 3 == 0) {  // a new start of the master
      Master next(master.incarnation + 1);
      next.predecessor = 0;
      master = next;
    }
    add(master.begin(), 0);
    for (int i = 0; i < 5; i++)
      if (i % 2) add(master.fill(random() % 200'000, 9000, static_cast<uint8_t>(random())), 0);
      else add(master.sync(random() % 50 * 4096, 8192, static_cast<uint8_t>(random())), 0);
    add(master.step(), 0);
  }

  // What is to be seen of the first `count` records: a step that is not whole counts for nothing.
  struct State {
    Bytes volumes[2] = {Bytes(kSizes[0]), Bytes(kSizes[1])};
    wire::Position position;
  };
  // each(count of records, state) for all cuts in turn.
  void replay(const std::function<void(size_t, const State &)> &each) const {
    State now;
    size_t step_from = 0;
    bool in_step = false;
    std::map<uint64_t, bool> void_now;
    for (size_t i = 0; i < records.size(); i++) {
      const RecordHeader &h = records[i].header;
      if (h.type == RecordType::kBegin && !in_step) in_step = true, step_from = i;
      const bool ends = in_step && h.type == RecordType::kStep;
      if (ends) {
        for (size_t j = step_from; j <= i; j++) apply_to(now.volumes[records[j].header.volume_index], records[j]);
        in_step = false;
      } else if (!in_step && !is_voided(i)) {
        apply_to(now.volumes[h.volume_index], records[i]);
      }
      if (wire::is_sequenced(h.type) && !in_step) now.position = {h.incarnation, h.sequence};
      each(i + 1, now);
    }
  }
  bool is_voided(size_t i) const {
    const RecordHeader &h = records[i].header;
    if (!wire::is_sequenced(h.type)) return true;
    for (size_t j = i + 1; j < records.size() && j < i + 3; j++)
      if (records[j].header.type == RecordType::kVoid && records[j].header.incarnation == h.incarnation &&
          records[j].header.offset == h.sequence)
        return true;
    return false;
  }
};

inline ReplicaOptions options_with_history(const std::string &store) {
  ReplicaOptions options = options_for(store, 0);
  options.volumes = {{"a", store + "/a", kSizes[0], true}, {"b", store + "/b", kSizes[1], true}};
  options.segment_bytes = 300'000;
  options.history.bytes_max = uint64_t{1} << 40;
  options.history.epoch_bytes = 1u << 20;
  options.history.pack_rest_ns = 0;  // segments are compressed as soon as they may be
  return options;
}

inline size_t send_some(Standby &standby, Story &story, size_t from, size_t count, std::mt19937_64 &random) {
  while (story.records.size() < from + count) story.add_random(random);
  for (size_t i = from; i < from + count; i++)
    if (!EXPECT(standby.send(story.records[i]).ok())) return 0;
  return from + count;
}

inline Story begun() {
  Story story;
  story.add(story.master.begin(true), 0);
  story.add(story.master.step(), 0);
  return story;
}

inline bool has_begun(Standby &standby) {
  return wait_until([&] { return standby.replica->history().has_value(); });
}

}  // namespace history_story
