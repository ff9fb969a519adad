#pragma once

#include <cstdint>
#include <span>

#include "base/clock.h"
#include "base/status.h"
#include "transport/data/frames.h"
#include "transport/data/peer_pool.h"

namespace baton::transport {

// The test transfer that verifies Lane::kStream towards me and measures it: kProbeFrames frames of the peer's
// test data, each with its checksum. Begins when it is made, with request() on its way. Thread: progress.
class StreamTest {
 public:
  StreamTest(size_t frame_bytes, const Clock& clock)
      : frame_bytes_(frame_bytes), clock_(clock), begin_(clock.now()) {}

  ProbeRequestFrame request() const { return {.bytes = static_cast<uint32_t>(frame_bytes_)}; }
  // False: a frame that has no place here.
  bool take(const ProbeFrame& frame, std::span<const std::byte> payload);
  bool over() const { return frames_ == kProbeFrames; }
  // When over: the rate, or kDataLoss.
  absl::StatusOr<double> result() const;

 private:
  const size_t frame_bytes_;
  const Clock& clock_;
  const Instant begin_;
  Instant end_{};
  uint32_t frames_ = 0;
  bool broken_ = false;
};

// The same for Lane::kLocal: the test data, read out of the peer's mapped pool.
absl::StatusOr<double> test_local(const PeerPool& pool, uint32_t checksum, const Clock& clock);

}  // namespace baton::transport
