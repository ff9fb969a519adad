#pragma once

#include <functional>
#include <vector>

#include "base/status.h"
#include "worker/schedule/sequence.h"

namespace baton::worker {

// Feeds tokens [first_position, first_position + row_count) of `sequence` through the model.
struct PlannedRows {
  const Sequence* sequence = nullptr;  // borrowed; its tokens and block table may grow meanwhile
  int32_t first_position = 0;
  int32_t row_count = 0;
  bool sample = false;         // the last row yields a token (position first_position + row_count)
  bool prompt_logits = false;  // every row's logits are wanted (prompt_logprobs)
  // The one row's token is not known yet: the plan before, which still runs, draws it for its row of this
  // index (SchedulerOptions::feeds_back). -1: it stands in the sequence.
  int32_t fed_by = -1;
};

// What one engine step computes: prefill chunks and decode rows in one batch. Reused from step to step, so
// that planning does not allocate.
struct StepPlan {
  StepId id;
  std::vector<PlannedRows> rows;
  int32_t total_rows = 0;
  int32_t prefill_rows = 0;
};

struct SampledRow {
  size_t planned = 0;  // index into StepPlan::rows
  std::optional<TokenOutput> token;
  // Not OK: this sequence cannot go on (its logits are not finite, a token is not in the vocabulary); no
  // token then.
  absl::Status error;
  std::vector<TokenOutput>
      prompt_tokens;  // with prompt_logits: for positions first_position+1 .. first_position+row_count-1
                      // and, when not the last chunk, first_position+row_count
};

struct StepResult {
  StepId id;
  std::vector<SampledRow> sampled;  // in plan order, only rows that yield something
  Duration duration{};
  Duration compute{};  // part of it: the arithmetic, without laying out and sampling; 0 = not measured
  Duration links{};    // part of compute: waiting for other ranks of the group, copying to and from them
};

// Called on the engine thread after each layer of a step, inside start() or finish() of its plan: the KV of
// all the plan's rows is in the pool for `layer`.
using LayerListener = std::function<void(int layer)>;

// Runs plans, in order. Several may be under way: start() returns when this process has done its part of the
// plan, later stages of a pipeline or a device may still compute; finish() waits for them and gives the
// tokens of the oldest plan that was started and not finished. Both get the same plan and result, which stay
// where they are meanwhile. A layer is told once, by either. Implementations: worker/model ModelRunner; tests
// (a fake whose tokens are a hash of the KV).
// Thread: engine.
class StepExecutor {
 public:
  virtual ~StepExecutor() = default;
  virtual absl::Status start(const StepPlan& plan, const LayerListener& on_layer, StepResult& result) = 0;
  // Of the oldest plan. By default start() has done everything.
  virtual absl::Status finish(const StepPlan& /*plan*/, const LayerListener& /*on_layer*/,
                              StepResult& /*result*/) {
    return absl::OkStatus();
  }
  absl::Status run(const StepPlan& plan, const LayerListener& on_layer, StepResult& result) {
    RETURN_IF_ERROR(start(plan, on_layer, result));
    return finish(plan, on_layer, result);
  }
  // Between steps: for an executor that has to say something although there is nothing to compute.
  virtual absl::Status on_tick(Instant /*now*/) { return absl::OkStatus(); }
  virtual Instant next_deadline() const { return kNever; }
};

}  // namespace baton::worker
