#pragma once

#include "base/clock.h"

namespace baton::transport {

// When is a peer's lane to be tested again? When what transfers get stays below half of what they used to
// get, which begins as what the pair measured when it met. At most once in timers::kLaneCheckPause, and while
// nothing is under way, if that comes soon. Bytes a second. Thread: progress.
class LaneWatch {
 public:
  // The pair has met and measured this.
  void start(double rate) { usual_ = rate; }
  // What the last MiB or so got.
  void sample(double rate);

  // The earliest moment to ask the peer for a test transfer; kNever: no reason to.
  Instant due(bool idle) const;
  void asked(Instant now);
  bool waiting() const { return deadline_ != kNever; }
  Instant deadline() const { return deadline_; }  // of the peer's answer
  // The test transfer was good: slow is the usual now.
  void verified();
  double usual() const { return usual_; }
  double slow() const { return slow_rate_; }  // mean of the samples that were the reason

 private:
  double usual_ = 0;
  double slow_rate_ = 0;
  int slow_ = 0;  // samples in a row
  Instant not_before_{};
  Instant deadline_ = kNever;
};

}  // namespace baton::transport
