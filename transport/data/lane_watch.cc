#include "transport/data/lane_watch.h"

#include "base/timers.h"

namespace baton::transport {
namespace {

constexpr double kMuchSlower = 0.5;
constexpr double kMemory = 0.01;  // of a sample in what is usual: some 100 MiB
// Samples in a row before a test is asked for: while nothing is under way, and when something always is.
constexpr int kSlowSamples = 4;
constexpr int kTooManySamples = 16;

}  // namespace

void LaneWatch::sample(double rate) {
  if (waiting()) return;
  if (rate >= usual_ * kMuchSlower) {
    slow_ = 0;
  } else {
    ++slow_;
    slow_rate_ = slow_ == 1 ? rate : slow_rate_ + (rate - slow_rate_) / slow_;
  }
  usual_ += kMemory * (rate - usual_);
}

Instant LaneWatch::due(bool idle) const {
  const bool wanted = !waiting() && slow_ >= (idle ? kSlowSamples : kTooManySamples);
  return wanted ? not_before_ : kNever;
}

void LaneWatch::asked(Instant now) {
  slow_ = 0;
  not_before_ = now + timers::kLaneCheckPause;
  deadline_ = now + timers::kTransferCap;
}

void LaneWatch::verified() {
  usual_ = slow_rate_;
  deadline_ = kNever;
}

}  // namespace baton::transport
