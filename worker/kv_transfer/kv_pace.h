#pragma once

#include <algorithm>
#include <cstdint>

#include "base/clock.h"

namespace baton::worker {

// How fast what this rank offers to the ranks of one worker is taken: bytes answered over the time in which
// any were under way, all of its streams to that worker together. A sample for each MiB; the first one counts
// whole. Example: two streams of 1 MiB each, offered at once and both answered after 1 ms: 2 GB/s and not
// twice 1 GB/s one after the other. A value. Thread: progress. Units: bytes, seconds.
class KvPace {
 public:
  void offered(Instant now) {
    if (under_way_++ == 0) busy_since_ = now;
  }
  void answered(uint64_t bytes, Instant now) {
    bytes_ += bytes;
    busy_ += std::max(now, busy_since_) - busy_since_;
    busy_since_ = now;
    dropped();
    if (bytes_ < kSampleBytes || busy_ <= Duration::zero()) return;
    const double sample = static_cast<double>(bytes_) / to_seconds(busy_);
    rate_ += (rate_ == 0 ? 1 : kWeight) * (sample - rate_);
    bytes_ = 0;
    busy_ = {};
  }
  // It is under way no longer, and nobody knows whether it was taken.
  void dropped() { --under_way_; }
  double bytes_per_second() const { return rate_; }  // 0 before the first sample

 private:
  static constexpr uint64_t kSampleBytes = 1 << 20;
  static constexpr double kWeight = 0.2;

  int under_way_ = 0;
  Instant busy_since_{};
  Duration busy_{};  // before busy_since_, of this sample
  uint64_t bytes_ = 0;
  double rate_ = 0;
};

}  // namespace baton::worker
