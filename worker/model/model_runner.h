#pragma once

#include <array>
#include <functional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "worker/model/device_draw.h"
#include "worker/model/llama_model.h"
#include "worker/model/rank_step.h"
#include "worker/model/sampler.h"
#include "worker/parallel/plan_broadcast.h"
#include "worker/schedule/step_plan.h"

namespace baton::worker {

// Runs the scheduler's plans on a model: lays the planned rows out as one batch, runs the forward pass, draws
// a token for every sequence whose last row was computed, scores prompt tokens where they were asked for.
// As rank 0 of a group it first tells the others what the step computes (`group`); a group of one is told
// nothing, by the same code. Tokens of answers with a grammar are drawn from whole rows, on the host. As rank
// 0 of a pipeline it may start up to kMostPlans before it finishes the first: start() returns when its own
// stage is computed. With a backend that feeds_back() a second plan may be started behind the first, whose
// rows that one may feed (docs/adr/0018): start() returns when it is launched. Borrows the model and the
// clock (which only measures StepResult::duration). Owns batch arrays and logits; after the first steps of
// the largest kind nothing is allocated but the lists of logprobs that a request asked for. Thread: engine.
// Errors: run() returns a device error, which concerns the whole step; what is wrong with one sequence
// (logits not finite, a token outside the vocabulary, absurd bias) is SampledRow::error of that sequence, and
// the others go on.
class ModelRunner final : public StepExecutor {
 public:
  // The other ranks, and how they are spoken to; nothing for a worker of one rank. Borrowed.
  struct Group {
    RankLinks* links = nullptr;
    PlanSender* plans = nullptr;
    // A step of this many rows or more is cut into so many micro-batches, when there are stages to keep busy.
    int micro_batches = 4;
    int32_t micro_batch_rows = 32;
    bool full_logits = false;  // for tests: never candidates, nor tokens that the backend or the ranks drew
  };
  static constexpr size_t kMostPlans = 8;

  ModelRunner(LlamaModel& model, const Clock& clock) : ModelRunner(model, clock, Group()) {}
  // `masks`, borrowed: of answers with a grammar; none: such sequences end with an error.
  ModelRunner(LlamaModel& model, const Clock& clock, const Group& group, TokenMasks* masks = nullptr);

  absl::Status start(const StepPlan& plan, const LayerListener& on_layer, StepResult& result) override;
  absl::Status finish(const StepPlan& plan, const LayerListener& on_layer, StepResult& result) override;

  // Whose tokens can be fed to a plan behind the one that draws them; null: nobody's.
  std::function<bool(const GenerateRequest&)> feeds_back() const;

  absl::Status on_tick(Instant now) override;
  Instant next_deadline() const override;

  // Row i of the plan that was finished last belongs to row logit_rows()[i] of the one started last; empty
  // when candidates were enough to draw from or the ranks drew, without meaning when the backend drew. For
  // tests of exactness.
  std::span<const int32_t> logit_rows() const { return rows_.logit_rows; }
  std::span<const float> logits(size_t i) const { return step_.logits(i); }
  const RankTime& time() const { return step_.time(); }
  uint64_t collected_bytes() const { return step_.collected_bytes(); }

 private:
  // A plan that was started.
  struct Flight {
    Instant begun{};
    std::vector<int32_t> keep;  // by logit row
    std::vector<int32_t> last;  // of each row of the plan: its last logit row, of which it is sampled
  };
  size_t most_plans() const;
  void lay_out(const StepPlan& plan);
  void sample(const StepPlan& plan, StepResult& result);
  void lay_out_rows(const PlannedRows& rows);
  void finish_rows(const PlannedRows& rows, size_t first_logit, Sampler& sampler, SampledRow& out) const;
  absl::Status score_prompt(const PlannedRows& rows, size_t first_logit, Sampler& sampler,
                            SampledRow& out) const;
  void plan_draw(const PlannedRows& rows);
  SamplerInput sampler_input(const PlannedRows& rows) const;
  absl::Status constrain(const Sequence& sequence, SamplerInput& input) const;
  absl::Status sample_last(const PlannedRows& rows, size_t logit, Sampler& sampler, SampledRow& out) const;
  int micro_batches() const;
  bool tokens_valid(const PlannedRows& rows) const;
  void describe_draws(const PlannedRows& rows);
  void feed(const PlannedRows& rows, int32_t row);

  LlamaModel& model_;
  const Clock& clock_;
  size_t vocab_;
  std::vector<Sampler> samplers_;  // one for each of the backend's host threads
  const Group group_;
  TokenMasks* const masks_;
  const bool device_draws_, ranks_draw_;
  DeviceDraw draw_;
  RankStep step_;
  std::array<Flight, kMostPlans> flights_;  // a ring: `running_` from oldest_ on
  size_t oldest_ = 0;
  size_t running_ = 0;
  Instant last_done_{};
  BatchRows rows_;                    // of the plan started last
  std::vector<SequenceId> ids_;       // of rows_.sequences
  std::vector<size_t> first_logits_;  // of each sampled row
};

}  // namespace baton::worker
