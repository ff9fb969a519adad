#pragma once

#include <array>
#include <vector>

#include "base/clock.h"
#include "worker/parallel/plan_codec.h"
#include "worker/parallel/rank_links.h"

namespace baton::worker {

// Rank 0 says every step what is to be computed, and otherwise every kHeartbeat that it is there. A message
// goes as one broadcast of kFirstBytes, and a second one of what is left of it. In a group of one nothing is
// written. Thread: one. Errors: those of the links, for ever after the first.
class PlanSender {
 public:
  static constexpr size_t kFirstBytes = 1024;
  PlanSender(RankLinks& links, const PlanLimits& limits, const Clock& clock);

  absl::Status step(StepId step, std::span<const SequenceId> ids, const BatchRows& rows, int micro_batches);
  // A beat when it is due. kNever in a group of one.
  absl::Status on_tick(Instant now);
  Instant next_deadline() const { return next_beat_; }
  // The followers end.
  absl::Status stop();

 private:
  absl::Status send(std::span<std::byte> message);

  RankLinks& links_;
  const Clock& clock_;
  PlanWriter writer_;
  std::array<std::byte, kFirstBytes> first_{};
  Instant next_beat_ = kNever;
};

// A follower's end. Thread: one.
class PlanReceiver {
 public:
  PlanReceiver(RankLinks& links, const PlanLimits& limits);

  // The next message. Errors: nothing came until `deadline`, a rank is gone, the message makes no sense.
  absl::StatusOr<PlanHead> receive(Instant deadline);
  // Of the last message, a step.
  const BatchRows& rows() const { return rows_; }

 private:
  RankLinks& links_;
  PlanReader reader_;
  std::vector<std::byte> message_;
  BatchRows rows_;
};

}  // namespace baton::worker
