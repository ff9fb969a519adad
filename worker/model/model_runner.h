#pragma once

#include <span>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "worker/model/llama_model.h"
#include "worker/model/sampler.h"
#include "worker/schedule/step_plan.h"

namespace baton::worker {

// Runs the scheduler's plans on a model: lays the planned rows out as one batch, runs the forward pass, draws
// a token for every sequence whose last row was computed, scores prompt tokens where they were asked for.
// Borrows the model and the clock (which only measures StepResult::duration). Owns batch arrays and logits;
// after the first steps of the largest kind nothing is allocated but the lists of logprobs that a request
// asked for. Thread: engine. Errors: run() returns a device error, which concerns the whole step; what is
// wrong with one sequence (logits not finite, a token outside the vocabulary, absurd bias) is
// SampledRow::error of that sequence, and the others go on.
class ModelRunner final : public StepExecutor {
 public:
  ModelRunner(LlamaModel& model, const Clock& clock);

  absl::Status run(const StepPlan& plan, const LayerListener& on_layer, StepResult& result) override;

  // Of the last run(): row i belongs to batch row logit_rows()[i]. For tests of exactness.
  std::span<const int32_t> logit_rows() const { return logit_rows_; }
  std::span<const float> logits(size_t i) const { return std::span(logits_).subspan(i * vocab_, vocab_); }

 private:
  void lay_out(const StepPlan& plan);
  void lay_out_rows(const PlannedRows& rows);
  void finish_rows(const PlannedRows& rows, size_t first_logit, Sampler& sampler, SampledRow& out) const;
  absl::Status score_prompt(const PlannedRows& rows, size_t first_logit, Sampler& sampler,
                            SampledRow& out) const;
  absl::Status sample_last(const PlannedRows& rows, size_t logit, Sampler& sampler, SampledRow& out) const;
  bool tokens_valid(const PlannedRows& rows) const;

  LlamaModel& model_;
  const Clock& clock_;
  size_t vocab_;
  std::vector<Sampler> samplers_;  // one for each of the backend's host threads
  std::vector<TokenId> tokens_;
  std::vector<int32_t> positions_;
  std::vector<kernels::SequenceRows> sequences_;
  std::vector<int32_t> logit_rows_;
  std::vector<size_t> first_logits_;  // of each sampled row
  std::vector<float> logits_;
};

}  // namespace baton::worker
