// Latencies, counted in buckets whose width grows with the value: 64 to each power of two, so that a percentile is at
// most 1.6 % too large, from a nanosecond to hours, in 29 KiB and without a division.
#pragma once
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace understudy::bench {

class Histogram {
 public:
  void add(uint64_t ns) {
    ++buckets_[bucket_of(ns)];
    ++count_;
    if (ns > max_) max_ = ns;
  }
  void merge(const Histogram &other) {
    for (size_t i = 0; i < buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
    count_ += other.count_;
    if (other.max_ > max_) max_ = other.max_;
  }
  uint64_t count() const { return count_; }
  uint64_t max() const { return max_; }

  // The largest value that the bucket of this quantile (0..1) can hold, and never more than the largest that was seen:
  // `quantile` of all values are not above it. 0 when there are none.
  uint64_t quantile(double quantile) const {
    if (count_ == 0) return 0;
    const double exact = quantile * static_cast<double>(count_);
    uint64_t rank = static_cast<uint64_t>(exact);
    if (static_cast<double>(rank) < exact || rank == 0) ++rank;
    uint64_t seen = 0;
    for (size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
      seen += buckets_[bucket];
      if (seen >= rank) return last_of(bucket) < max_ ? last_of(bucket) : max_;
    }
    return max_;
  }

 private:
  static constexpr unsigned kBits = 6;  // 2^6 buckets a power of two
  static constexpr size_t kBuckets = (64 - kBits + 1) << kBits;

  // Below 2^kBits each value has its own; above, the leading one and the kBits after it choose.
  static size_t bucket_of(uint64_t value) {
    if (value < (1u << kBits)) return value;
    const unsigned shift = static_cast<unsigned>(std::bit_width(value)) - 1 - kBits;
    return (static_cast<size_t>(shift) << kBits) + static_cast<size_t>(value >> shift);
  }
  static uint64_t last_of(size_t bucket) {
    if (bucket < (2u << kBits)) return bucket;
    const unsigned shift = static_cast<unsigned>(bucket >> kBits) - 1;
    const uint64_t leading = bucket - (static_cast<size_t>(shift) << kBits);
    return (leading << shift) + ((uint64_t{1} << shift) - 1);
  }

  std::array<uint64_t, kBuckets> buckets_{};
  uint64_t count_ = 0, max_ = 0;
};

}  // namespace understudy::bench
