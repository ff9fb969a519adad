#include "worker/parallel/rank_pulse.h"

#include <condition_variable>
#include <utility>

#include "base/timers.h"

namespace baton::worker {

RankPulse::RankPulse(Parts parts)
    : parts_(std::move(parts)), reports_(static_cast<size_t>(parts_.pulse.size())) {}

absl::Status RankPulse::run(const std::stop_token& stop) {
  std::mutex sleeping;
  std::condition_variable_any never;
  std::unique_lock lock(sleeping);
  Duration patience = timers::kRankSilent + parts_.start;
  while (!stop.stop_requested()) {
    if (absl::Status status = beat(parts_.clock.now() + patience); !status.ok()) {
      // Whoever died is seen to be gone by everybody; what it said before still counts.
      if (absl::IsDeadlineExceeded(status))
        for (Communicator* other : parts_.others) other->interrupt(parts_.pulse.culprit());
      return status;
    }
    patience = timers::kRankSilent;
    never.wait_for(lock, stop, timers::kRankBeat, [] { return false; });
  }
  return absl::OkStatus();
}

absl::Status RankPulse::beat(Instant deadline) {
  const RankReport own = parts_.own();
  std::vector<RankReport> all(reports_.size());
  RETURN_IF_ERROR(parts_.pulse.all_gather(std::as_bytes(std::span(&own, 1)),
                                          std::as_writable_bytes(std::span(all)), deadline));
  const std::lock_guard lock(mutex_);
  reports_ = std::move(all);
  return absl::OkStatus();
}

std::vector<RankReport> RankPulse::reports() const {
  const std::lock_guard lock(mutex_);
  return reports_;
}

}  // namespace baton::worker
