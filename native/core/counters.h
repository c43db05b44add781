// Counters: one mapping of pages of 512 64-bit words, written by native threads and read by JavaScript without a call.
// Each word has one writing thread; readers take whatever is there.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

namespace understudy {

class CounterPage {
 public:
  static constexpr size_t kWords = 512;
  CounterPage() = default;
  CounterPage(std::atomic<uint64_t> *words, uint32_t number) : words_(words), number_(number) {}
  uint32_t number() const { return number_; }
  uint64_t get(size_t word) const { return words_[word].load(std::memory_order_relaxed); }
  void set(size_t word, uint64_t value) { words_[word].store(value, std::memory_order_relaxed); }
  void add(size_t word, uint64_t by) { set(word, get(word) + by); }  // by the word's only writer
  std::atomic<uint64_t> &word(size_t word) { return words_[word]; }

 private:
  std::atomic<uint64_t> *words_ = nullptr;
  uint32_t number_ = 0;
};

// Hands out pages of one mapping that is never unmapped (JavaScript may hold it for ever). Any thread.
class CounterPages {
 public:
  static constexpr uint32_t kPages = 4096;
  static CounterPages &instance();
  void *data() { return words_; }
  size_t bytes() const { return size_t{kPages} * CounterPage::kWords * 8; }
  CounterPage take();              // zeroed
  void give_back(CounterPage page);

 private:
  CounterPages();
  std::mutex mutex_;  // of used_
  std::atomic<uint64_t> *words_;
  uint64_t used_[kPages / 64] = {};
};

enum class RequestKind : uint8_t { kRead, kWrite, kFlush, kTrim, kZero, kCache, kBlockStatus };
inline constexpr size_t kRequestKinds = 7;
inline constexpr const char *kRequestKindNames[kRequestKinds] = {"read", "write", "flush",       "trim",
                                                                 "zero", "cache", "block_status"};

// A volume's page. For each kind from kVolumeKinds on: requests, bytes, errors, latency_sum_ns, 32 buckets.
enum VolumeCounter : size_t { kDirtyBytes = 0, kSizeBytes = 1, kConnections = 2, kHotBytes = 3, kMapStored = 4,
  kLeftOutBytes = 5,  // that clients wrote, and the filter kept from the standby
  kVolumeKinds = 8 };
inline constexpr size_t kKindWords = 36;
inline constexpr size_t kKindBuckets = 4;
constexpr size_t kind_word(RequestKind kind, size_t word) {
  return kVolumeKinds + static_cast<size_t>(kind) * kKindWords + word;
}
void count_request(CounterPage &page, RequestKind kind, uint64_t bytes, uint64_t latency_ns, bool failed);

#define UNDERSTUDY_GROUP_COUNTERS(X)                                                                                  \
  X(incarnation) X(written_sequence) X(written_bytes) X(sent_sequence) X(sent_bytes) X(received_sequence)             \
  X(received_bytes) X(durable_sequence) X(durable_bytes) X(committed_sequence) X(committed_bytes)                     \
  X(applied_sequence) X(applied_bytes) X(peer_incarnation) X(peer_flags) X(log_bytes) X(log_bytes_max) X(state)       \
  X(resync_done_bytes) X(resync_total_bytes) X(resync_sent_bytes) X(detaches_log_full) X(detaches_peer_timeout)       \
  X(detaches_requested) X(alone_flushes) X(backpressure_ns) X(session) X(session_rtt_ns) X(session_cwnd_bytes)        \
  X(session_packet_bytes) X(session_packets_sent) X(session_packets_received) X(session_packets_lost)                 \
  X(session_bytes_sent) X(session_bytes_received) X(session_bytes_retransmitted) X(reconnects) X(voids) X(away)      \
  X(unreadable_bytes) X(detaches_max_lag) X(acked_position) X(detaches_log_file) X(log_file_bytes) X(log_file_bytes_max)         \
  X(log_file_errno) X(behind) X(lease_stalls) X(given_back_bytes) X(paired)  \
  X(compress_raw_bytes) X(compress_sent_bytes)

enum GroupCounter : size_t {
#define X(name) kGroup_##name,
  UNDERSTUDY_GROUP_COUNTERS(X)
#undef X
      kGroupCounters
};

}  // namespace understudy
