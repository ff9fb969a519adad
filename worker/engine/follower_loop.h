#pragma once

#include <stop_token>

#include "base/clock.h"
#include "worker/engine/latest.h"
#include "worker/kv_cache/kv_exchange.h"
#include "worker/model/rank_step.h"
#include "worker/parallel/plan_broadcast.h"

namespace baton::worker {

// A copy made between steps, for other threads.
struct FollowerStatus {
  uint64_t steps = 0;
  uint64_t beats = 0;
  Instant last_turn{};  // a message of rank 0 came: readiness is recent progress
  bool step_running = false;
  RankTime time;
};

// The body of the engine thread of every rank but 0: receive a plan, compute this rank's part of it, again.
// Rank 0 speaks every kHeartbeat at least, so silence for kDead (and the time that stages further on may
// still need) is its end. The first message may take `start` longer: rank 0 is still loading.
//
//   FollowerLoop loop({*model, links, clock, exchange}, limits);
//   absl::Status end = loop.run(stop);   // OK: rank 0 said stop, or `stop` was requested
//
// Thread: run() on the engine thread; status() anywhere. Borrows its parts. Errors: a rank is gone or silent,
// a plan makes no sense, the device failed. The group's incarnation is over then: its owner says so and
// exits.
class FollowerLoop {
 public:
  struct Parts {
    LlamaModel& model;
    RankLinks& links;
    const Clock& clock;
    KvExchange* exchange = nullptr;  // hears of each layer of prompts that are handed over
    Duration start = std::chrono::seconds(60);
  };
  FollowerLoop(const Parts& parts, const PlanLimits& limits);

  absl::Status run(std::stop_token stop);
  FollowerStatus status() const { return status_.load(); }

 private:
  // One message; false after kStop.
  absl::StatusOr<bool> do_work(Instant deadline);
  void on_layer(int layer);
  void copy_status(bool step_running);

  const Parts parts_;
  PlanReceiver plans_;
  RankStep step_;
  FollowerStatus own_;
  Latest<FollowerStatus> status_{FollowerStatus{}};
};

}  // namespace baton::worker
