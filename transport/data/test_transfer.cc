#include "transport/data/test_transfer.h"

#include <algorithm>
#include <memory>

#include "transport/data/checksum.h"
#include "transport/data/handshake.h"

namespace baton::transport {
namespace {

constexpr int kRounds = 3;  // the first one takes page faults

struct alignas(64) Line {  // as pools are aligned, so that the test transfer goes their way
  std::byte bytes[64];
};

double rate(uint64_t bytes, Duration time) {
  return static_cast<double>(bytes) / std::max(to_seconds(time), 1e-9);
}

absl::Status came_out_wrong() { return absl::DataLossError("the test transfer came out wrong"); }

}  // namespace

bool StreamTest::take(const ProbeFrame& frame, std::span<const std::byte> payload) {
  if (over() || frame.index != frames_ || payload.size() != frame_bytes_) return false;
  ++frames_;
  broken_ = broken_ || checksum_of(payload) != frame.checksum;
  end_ = clock_.now();
  return true;
}

absl::StatusOr<double> StreamTest::result() const {
  if (broken_) return came_out_wrong();
  return rate(uint64_t{frames_} * frame_bytes_, end_ - begin_);
}

absl::StatusOr<double> test_local(const PeerPool& pool, uint32_t checksum, const Clock& clock) {
  const auto probe = pool.probe();
  const auto landing = std::make_unique<Line[]>(probe.size() / sizeof(Line));
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    const Instant begin = clock.now();
    PieceChecksum sum;
    sum.copy(landing[0].bytes, probe, true);
    finish_stores();
    best = std::max(best, rate(probe.size(), clock.now() - begin));
    if (sum.value() != checksum) return came_out_wrong();
  }
  return best;
}

}  // namespace baton::transport
