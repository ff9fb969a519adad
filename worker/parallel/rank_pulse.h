#pragma once

#include <functional>
#include <mutex>
#include <stop_token>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "transport/collectives/communicator.h"

namespace baton::worker {

// What a rank tells the others with each beat: plain numbers since it started.
struct RankReport {
  uint64_t steps = 0;
  int64_t step_nanoseconds = 0;  // in its part of steps
  int64_t link_nanoseconds = 0;  // part of it: waiting for other ranks, and copying to and from them
  // Of hand-overs: this rank's streams, and what came with them.
  uint64_t kv_landed = 0;
  uint64_t kv_sent = 0;
  uint64_t kv_failed = 0;  // either way
  uint64_t kv_bytes_received = 0;
  uint64_t kv_refused = 0;  // pieces that were forged, late, corrupt or of another generation
};

// The ranks of a group meet every timers::kRankBeat, step or no step, on a communicator of their own: a rank
// that is stopped, or cut off without a word, is found timers::kRankSilent later by all others. Then the
// communicators that steps use are interrupted, so that nobody waits there as long as a step may take, and
// the group's incarnation ends as if the rank had died. A rank whose process ends is seen by the other
// communicators themselves. Time in which this process did not run either does not count (a paused machine).
//
// Thread: run() a thread of its own, which sleeps between beats; reports() any. Borrows its parts.
class RankPulse {
 public:
  struct Parts {
    Communicator& pulse;
    std::vector<Communicator*> others;  // to be interrupted
    const Clock& clock;
    std::function<RankReport()> own;            // called on the pulse's thread
    Duration start = std::chrono::seconds(60);  // more for the first beat: others may still be starting
  };
  explicit RankPulse(Parts parts);

  // Until `stop`, or the end of the group: then why.
  absl::Status run(const std::stop_token& stop);
  // By rank, as of the last beat.
  std::vector<RankReport> reports() const;

 private:
  absl::Status beat(Instant deadline);

  const Parts parts_;
  mutable std::mutex mutex_;
  std::vector<RankReport> reports_;
};

}  // namespace baton::worker
