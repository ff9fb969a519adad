#pragma once

#include <functional>
#include <stop_token>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/mailbox.h"
#include "worker/engine/engine.h"
#include "worker/engine/latest.h"
#include "worker/engine/pages_ahead.h"
#include "worker/schedule/step_plan.h"

namespace baton::worker {

// What a worker's control side asks of the engine thread beside coordinator messages.
struct SetHashKey {
  HashKey key;
};
struct SetDraining {
  bool draining = true;
};
// This worker cannot go on: its requests are given back.
struct GiveUp {
  std::string why;
};
using EngineCommand = std::variant<CoordinatorMessage, KvEvent, HostCopied, SetHashKey, SetDraining, GiveUp>;
using EngineMailbox = Mailbox<EngineCommand>;

// A copy made between steps, for other threads.
struct EngineStatus {
  LoadSnapshot load;
  EngineCounters counters;
  bool draining = false;
  bool idle = true;     // holds nothing but cached blocks
  Instant last_turn{};  // the loop's last turn: readiness is recent progress
  bool step_running = false;
  double host_seconds = 0;      // of all turns that ran a step: what was not the step's arithmetic
  double planning_seconds = 0;  // part of it: plan() and prepare()
  double link_seconds = 0;      // of steps: waiting for other ranks of the group
  double step_seconds = 0;      // this rank's own part of steps, link_seconds included
  double active_seconds = 0;    // of all turns that ran a step: somebody's plan was under way
};

// A step is under way for longer than `limit`.
inline bool step_overdue(const EngineStatus& status, Instant now, Duration limit) {
  return status.step_running && now - status.last_turn > limit;
}

// The body of the engine thread: drain the mailbox, plan, run, publish. In a pipeline further plans are
// started while earlier ones compute in later stages. Without work it sleeps on the mailbox until the
// engine's next deadline, so an idle worker uses no CPU. The plan of step n+1 is prepared while step n runs,
// as soon as its first layer is under way (docs/adr/0008-overlap.md); between the steps remain what the
// tokens decide and who is admitted.
//
// Thread: run() and do_work() on the engine thread; status() anywhere. Borrows everything; the clock is
// shared with whoever posts. Errors: run() returns the executor's error; every request was ended with it and
// published, and the loop must not be run again: this life of the worker is over, its owner says so and
// exits.
class EngineLoop {
 public:
  using Publish =
      std::function<void(std::vector<WorkerMessage>& messages)>;  // on the engine thread; takes them

  struct Parts {
    Engine& engine;
    StepExecutor& executor;
    EngineMailbox& mailbox;
    const Clock& clock;
    PagesAhead* ahead = nullptr;  // what to do when there is nothing to do
  };
  EngineLoop(const Parts& parts, Publish publish);

  // One turn: returns whether something was done. Never sleeps.
  absl::StatusOr<bool> do_work(Instant now);
  // Turns until `stop` or the mailbox is closed (kOk) or the executor fails. A stop takes effect when the
  // mailbox wakes the thread: close the mailbox.
  absl::Status run(std::stop_token stop);

  EngineStatus status() const;

 private:
  bool take_ahead();
  bool drain(Instant now);
  void handle(const EngineCommand& command, Instant now);
  struct Running {
    StepResult result;
    Instant begun{};
  };

  const StepPlan* plan(Instant now);
  void on_layer(int layer);
  absl::Status step(const StepPlan* next);
  absl::Status start(const StepPlan& plan);
  absl::Status finish(const StepPlan& plan);
  // Ids of plans follow each other.
  Running& running_of(const StepPlan& plan) { return results_[plan.id.value() % results_.size()]; }
  void fail(const absl::Status& status);
  void publish();
  void copy_status(Instant now, bool step_running);

  const Parts parts_;
  const Publish publish_;
  std::vector<EngineCommand> commands_;  // scratch
  std::vector<WorkerMessage> messages_;  // scratch
  std::vector<Running> results_;         // of running plans
  const StepPlan* told_ = nullptr;       // whose layers the executor tells
  const LayerListener listener_;
  Duration host_{};
  Duration active_{};
  Duration computed_{};
  Duration planning_{};
  Duration links_{};
  Latest<EngineStatus> status_{EngineStatus{}};
};

}  // namespace baton::worker
