#include "worker/model/model_runner.h"

#include <algorithm>

#include "base/cat.h"
#include "base/check.h"

namespace baton::worker {
namespace {

// Logit rows that a planned piece needs: all with prompt logits, else the last when it yields a token.
int32_t logit_count(const PlannedRows& rows) {
  if (rows.prompt_logits) return rows.row_count;
  return rows.sample ? 1 : 0;
}

absl::Status name_sequence(const Sequence& sequence, const absl::Status& status) {
  const std::string_view message(status.message().data(), status.message().size());
  return absl::Status(status.code(), cat("sequence ", to_string(sequence.id), " (request ",
                                         sequence.request.trace_id, "): ", message));
}

}  // namespace

ModelRunner::ModelRunner(LlamaModel& model, const Clock& clock)
    : model_(model), clock_(clock), vocab_(model.spec().vocab_size) {
  for (int i = 0; i < model.backend().host_threads(); ++i) samplers_.emplace_back(model.spec().vocab_size);
  tokens_.reserve(model.max_rows());
  positions_.reserve(model.max_rows());
  sequences_.reserve(model.max_rows());
  logit_rows_.reserve(model.max_rows());
  first_logits_.reserve(model.max_rows());
}

absl::Status ModelRunner::run(const StepPlan& plan, const LayerListener& on_layer, StepResult& result) {
  const Instant start = clock_.now();
  result.id = plan.id;
  result.sampled.clear();
  lay_out(plan);
  kernels::StepBatch batch;
  batch.tokens = tokens_;
  batch.positions = positions_;
  batch.sequences = sequences_;
  batch.logit_rows = logit_rows_;
  const Instant begun = clock_.now();
  RETURN_IF_ERROR(model_.forward(batch, on_layer, logits_.data()));
  result.compute = clock_.now() - begun;
  first_logits_.clear();
  size_t logit = 0;
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const int32_t count = logit_count(plan.rows[i]);
    if (count == 0) continue;
    result.sampled.emplace_back().planned = i;
    first_logits_.push_back(logit);
    logit += count;
  }
  // Each row is a function of its own logits: which thread draws it does not matter.
  model_.backend().run_on_host(static_cast<int>(result.sampled.size()), [&](int i, int thread) {
    SampledRow& row = result.sampled[i];
    finish_rows(plan.rows[row.planned], first_logits_[i], samplers_[thread], row);
  });
  result.duration = clock_.now() - start;
  return absl::OkStatus();
}

void ModelRunner::lay_out(const StepPlan& plan) {
  BATON_CHECK(plan.total_rows >= 1 && plan.total_rows <= model_.max_rows());
  tokens_.clear();
  positions_.clear();
  sequences_.clear();
  logit_rows_.clear();
  for (const PlannedRows& rows : plan.rows) lay_out_rows(rows);
  BATON_CHECK(tokens_.size() == static_cast<size_t>(plan.total_rows));
  // Grows to the largest step seen; a step with prompt logits wants a row of logits per prompt token.
  if (logits_.size() < logit_rows_.size() * vocab_) logits_.resize(logit_rows_.size() * vocab_);
}

void ModelRunner::lay_out_rows(const PlannedRows& rows) {
  const Sequence& sequence = *rows.sequence;
  const int32_t end = rows.first_position + rows.row_count;
  BATON_CHECK(rows.row_count >= 1 && rows.first_position >= 0);
  BATON_CHECK(static_cast<size_t>(end) <= sequence.tokens.size());
  BATON_CHECK(end <= model_.max_positions());
  const auto first_row = static_cast<int32_t>(tokens_.size());
  for (int32_t position = rows.first_position; position < end; ++position) {
    const TokenId token = sequence.tokens[position];
    // A token outside the vocabulary is reported after the step; the table must not be read beyond its end.
    tokens_.push_back(token >= 0 && static_cast<size_t>(token) < vocab_ ? token : 0);
    positions_.push_back(position);
  }
  sequences_.push_back({first_row, rows.row_count, rows.first_position, sequence.blocks});
  for (int32_t row = rows.row_count - logit_count(rows); row < rows.row_count; ++row)
    logit_rows_.push_back(first_row + row);
}

bool ModelRunner::tokens_valid(const PlannedRows& rows) const {
  const auto& tokens = rows.sequence->tokens;
  const auto count = std::min<size_t>(tokens.size(), rows.first_position + rows.row_count + 1);
  return std::all_of(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(count),
                     [this](TokenId t) { return t >= 0 && static_cast<size_t>(t) < vocab_; });
}

void ModelRunner::finish_rows(const PlannedRows& rows, size_t first_logit, Sampler& sampler,
                              SampledRow& out) const {
  absl::Status status;
  if (!tokens_valid(rows)) {
    status = absl::InvalidArgumentError(cat("a token is not in the vocabulary of ", vocab_));
  } else {
    if (rows.prompt_logits) status = score_prompt(rows, first_logit, sampler, out);
    if (status.ok() && rows.sample)
      status = sample_last(rows, first_logit + logit_count(rows) - 1, sampler, out);
  }
  if (status.ok()) return;
  out.token.reset();
  out.error = name_sequence(*rows.sequence, status);
}

// The logits of position p score the prompt token at p + 1.
absl::Status ModelRunner::score_prompt(const PlannedRows& rows, size_t first_logit, Sampler& sampler,
                                       SampledRow& out) const {
  const Sequence& sequence = *rows.sequence;
  const int32_t top = std::max(sequence.request.sampling.prompt_logprobs, 0);
  const int32_t end = std::min(rows.first_position + rows.row_count, sequence.prompt_tokens - 1);
  for (int32_t position = rows.first_position; position < end; ++position) {
    const auto row = logits(first_logit + (position - rows.first_position));
    RETURN_IF_ERROR(sampler.score(row, sequence.tokens[position + 1], top, out.prompt_tokens.emplace_back()));
  }
  return absl::OkStatus();
}

absl::Status ModelRunner::sample_last(const PlannedRows& rows, size_t logit, Sampler& sampler,
                                      SampledRow& out) const {
  const Sequence& sequence = *rows.sequence;
  SamplerInput input;
  input.logits = logits(logit);
  input.tokens = std::span(sequence.tokens).first(rows.first_position + rows.row_count);
  input.prompt_tokens = std::min<int32_t>(sequence.prompt_tokens, rows.first_position + rows.row_count);
  input.sampling = &sequence.request.sampling;
  input.stop = &sequence.request.stop;
  return sampler.sample(input, out.token.emplace());
}

}  // namespace baton::worker
