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

// In the sampler's words.
absl::Status draw_status(const kernels::DrawnToken& drawn) {
  if (drawn.state == kernels::DrawnToken::kDrawn) return absl::OkStatus();
  return absl::InvalidArgumentError(drawn.state == kernels::DrawnToken::kNotFinite
                                        ? "the model's logits are not finite"
                                        : "mask, bias and penalties leave no finite largest logit");
}

absl::Status name_sequence(const Sequence& sequence, const absl::Status& status) {
  const std::string_view message(status.message().data(), status.message().size());
  return absl::Status(status.code(), cat("sequence ", to_string(sequence.id), " (request ",
                                         sequence.request.trace_id, "): ", message));
}

// A device's or a link's error concerns the whole step: whose step it was.
absl::Status name_step(const StepPlan& plan, const absl::Status& status) {
  constexpr size_t kNamed = 16;
  if (status.ok()) return status;
  std::string names;
  for (const PlannedRows& rows : std::span(plan.rows).first(std::min(kNamed, plan.rows.size())))
    names += cat(names.empty() ? "" : ", ", to_string(rows.sequence->id));
  if (plan.rows.size() > kNamed) names += cat(" and ", plan.rows.size() - kNamed, " more");
  return absl::Status(status.code(), cat(std::string(status.message()), " (step ", to_string(plan.id), ", ",
                                         plan.total_rows, " rows of sequences ", names, ")"));
}

}  // namespace

ModelRunner::ModelRunner(LlamaModel& model, const Clock& clock, const Group& group, TokenMasks* masks)
    : model_(model),
      clock_(clock),
      vocab_(model.spec().vocab_size),
      group_(group),
      masks_(masks),
      device_draws_(model.backend().draws() && model.part().shape.ranks() == 1 && !group.full_logits),
      ranks_draw_(model.part().shape.ranks() > 1 && !group.full_logits),
      draw_(model.spec().vocab_size),
      step_(model, group.links, clock) {
  BATON_CHECK(model.part().rank == 0, "only rank 0 plans");
  BATON_CHECK(model.part().shape.ranks() == 1 || (group.links != nullptr && group.plans != nullptr));
  for (int i = 0; i < model.backend().host_threads(); ++i) samplers_.emplace_back(model.spec().vocab_size);
  rows_.reserve(model.max_rows());
  ids_.reserve(model.max_rows());
  first_logits_.reserve(model.max_rows());
}

absl::Status ModelRunner::start(const StepPlan& plan, const LayerListener& on_layer, StepResult& result) {
  BATON_CHECK(running_ < most_plans(), "too many plans in flight");
  Flight& flight = flights_[(oldest_ + running_) % kMostPlans];
  flight.begun = clock_.now();
  result.id = plan.id;
  lay_out(plan);
  flight.keep.assign(rows_.keep.begin(), rows_.keep.end());
  flight.last.clear();
  int32_t logits = 0;
  for (const PlannedRows& rows : plan.rows) flight.last.push_back((logits += logit_count(rows)) - 1);
  const int pieces = micro_batches();
  if (group_.plans != nullptr) RETURN_IF_ERROR(group_.plans->step(plan.id, ids_, rows_, pieces));
  const Instant begun = clock_.now();
  const Duration links = step_.time().links;
  RETURN_IF_ERROR(name_step(plan, step_.run(plan.id, rows_, pieces, on_layer)));
  result.compute = clock_.now() - begun;
  result.links = step_.time().links - links;
  ++running_;
  return absl::OkStatus();
}

absl::Status ModelRunner::finish(const StepPlan& plan, const LayerListener& on_layer, StepResult& result) {
  BATON_CHECK(running_ > 0 && result.id == plan.id);
  const Flight& flight = flights_[oldest_];
  oldest_ = (oldest_ + 1) % kMostPlans;
  --running_;
  const Instant begun = clock_.now();
  const Duration links = step_.time().links;
  RETURN_IF_ERROR(name_step(plan, step_.collect(plan.id, flight.keep, on_layer)));
  result.compute += clock_.now() - begun;
  result.links += step_.time().links - links;
  sample(plan, result);
  // Of a plan that was launched behind another: since that one was done.
  const bool queued = model_.part().shape.pipeline == 1;
  const Instant done = clock_.now();
  result.duration = done - (queued ? std::max(flight.begun, last_done_) : flight.begun);
  last_done_ = done;
  return absl::OkStatus();
}

void ModelRunner::sample(const StepPlan& plan, StepResult& result) {
  result.sampled.clear();
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
}

size_t ModelRunner::most_plans() const {
  if (model_.part().shape.pipeline > 1) return kMostPlans;
  return feeds_back() != nullptr ? 2 : 1;
}

std::function<bool(const GenerateRequest&)> ModelRunner::feeds_back() const {
  const kernels::DeviceBackend* const device = kernels::device_backend(&model_.backend());
  if (!device_draws_ || device == nullptr || !device->feeds_back()) return nullptr;
  return [vocab = static_cast<int64_t>(vocab_)](const GenerateRequest& request) {
    return DeviceDraw::draws(request, vocab);
  };
}

absl::Status ModelRunner::on_tick(Instant now) {
  return group_.plans == nullptr ? absl::OkStatus() : group_.plans->on_tick(now);
}

Instant ModelRunner::next_deadline() const {
  return group_.plans == nullptr ? kNever : group_.plans->next_deadline();
}

// One stage has nobody to keep busy, and small micro-batches read the weights once more for nothing.
int ModelRunner::micro_batches() const {
  if (model_.part().shape.pipeline == 1) return 1;
  const auto rows = static_cast<int32_t>(rows_.tokens.size());
  return std::clamp(rows / group_.micro_batch_rows, 1, group_.micro_batches);
}

void ModelRunner::lay_out(const StepPlan& plan) {
  BATON_CHECK(plan.total_rows >= 1 && plan.total_rows <= model_.max_rows());
  rows_.clear();
  ids_.clear();
  for (const PlannedRows& rows : plan.rows) lay_out_rows(rows);
  if (!rows_.fed.empty()) rows_.fed.resize(rows_.tokens.size(), -1);
  if (!rows_.draws.empty()) rows_.draws.resize(rows_.logit_rows.size());
  BATON_CHECK(rows_.tokens.size() == static_cast<size_t>(plan.total_rows));
}

void ModelRunner::lay_out_rows(const PlannedRows& rows) {
  const Sequence& sequence = *rows.sequence;
  const int32_t end = rows.first_position + rows.row_count;
  BATON_CHECK(rows.row_count >= 1 && rows.first_position >= 0);
  const int32_t known = end - (rows.fed_by >= 0 ? 1 : 0);
  BATON_CHECK(static_cast<size_t>(known) <= sequence.tokens.size());
  BATON_CHECK(end <= model_.max_positions());
  const auto first_row = static_cast<int32_t>(rows_.tokens.size());
  for (int32_t position = rows.first_position; position < end; ++position) {
    const TokenId token = position < known ? sequence.tokens[position] : 0;
    // A token outside the vocabulary is reported after the step; the table must not be read beyond its end.
    rows_.tokens.push_back(token >= 0 && static_cast<size_t>(token) < vocab_ ? token : 0);
    rows_.positions.push_back(position);
  }
  if (rows.fed_by >= 0) feed(rows, first_row);
  if (sequence.leg == Leg::kPrefill)
    rows_.sends.push_back({static_cast<uint32_t>(rows_.sequences.size()), sequence.transfer});
  rows_.sequences.push_back({first_row, rows.row_count, rows.first_position, sequence.blocks});
  ids_.push_back(sequence.id);
  for (int32_t row = rows.row_count - logit_count(rows); row < rows.row_count; ++row)
    rows_.logit_rows.push_back(first_row + row);
  rows_.keep.resize(rows_.logit_rows.size(), BatchRows::kAllLogits);
  if (device_draws_) describe_draws(rows);
  if (ranks_draw_ && rows.sample && !rows.prompt_logits && tokens_valid(rows)) plan_draw(rows);
}

// By the plan before, which runs.
void ModelRunner::feed(const PlannedRows& rows, int32_t row) {
  BATON_CHECK(running_ == 1 && rows.row_count == 1);
  rows_.fed.resize(static_cast<size_t>(row), -1);
  rows_.fed.push_back(flights_[oldest_].last.at(static_cast<size_t>(rows.fed_by)));
}

// The last of the piece's logit rows is the one to draw from; those of prompt logprobs are read here.
void ModelRunner::describe_draws(const PlannedRows& rows) {
  rows_.draws.resize(rows_.logit_rows.size());
  if (rows.sample && rows.sequence->request.grammar.empty() && tokens_valid(rows))
    rows_.draws.back() = draw_.describe(sampler_input(rows), rows.fed_by >= 0 ? 1 : 0, rows_.changes);
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
    const size_t row = first_logit + (position - rows.first_position);
    const SamplerInput input = {.logits = step_.logits(row), .maxima = step_.maxima(row)};
    RETURN_IF_ERROR(
        sampler.score(input, sequence.tokens[position + 1], top, out.prompt_tokens.emplace_back()));
  }
  return absl::OkStatus();
}

SamplerInput ModelRunner::sampler_input(const PlannedRows& rows) const {
  const Sequence& sequence = *rows.sequence;
  SamplerInput input;
  // While a fed row is laid out its token is not known.
  const auto end = static_cast<size_t>(rows.first_position + rows.row_count);
  input.tokens = std::span(sequence.tokens).first(std::min(end, sequence.tokens.size()));
  input.prompt_tokens = std::min<int32_t>(sequence.answer_begin(), rows.first_position + rows.row_count);
  input.sampling = &sequence.request.sampling;
  input.stop = &sequence.request.stop;
  return input;
}

// What may follow the answer so far. A sequence has one row a step: nobody else uses its mask.
absl::Status ModelRunner::constrain(const Sequence& sequence, SamplerInput& input) const {
  if (sequence.request.grammar.empty()) return absl::OkStatus();
  if (sequence.mask == nullptr) {
    if (masks_ == nullptr) return absl::UnimplementedError("this worker knows no grammars");
    ASSIGN_OR_RETURN(sequence.mask, masks_->begin(sequence.request));
  }
  ASSIGN_OR_RETURN(input.allowed, sequence.mask->after(input.tokens.subspan(input.prompt_tokens)));
  return absl::OkStatus();
}

// What rank 0 wants of the row's logits, and how the ranks that have them are to draw it or to change them.
void ModelRunner::plan_draw(const PlannedRows& rows) {
  if (!rows.sequence->request.grammar.empty()) return;
  const SamplerInput input = sampler_input(rows);
  int32_t keep = samplers_[0].needs(input);
  if (samplers_[0].draws_from_all(input)) keep = BatchRows::kDrawn;
  if (keep == BatchRows::kAllLogits) return;
  const size_t before = rows_.changes.size();
  const kernels::DrawRow draw = draw_.describe(input, 0, rows_.changes);
  if (draw.wanted == 0 || !may_be_told(draw, std::span(rows_.changes).subspan(before), vocab_)) {
    rows_.changes.resize(before);
    return;
  }
  rows_.keep.back() = keep;
  if (keep != BatchRows::kDrawn && draw.changes == 0) return;
  rows_.draws.resize(rows_.logit_rows.size());
  rows_.draws.back() = draw;
}

absl::Status ModelRunner::sample_last(const PlannedRows& rows, size_t logit, Sampler& sampler,
                                      SampledRow& out) const {
  const kernels::DrawnToken drawn = device_draws_ ? model_.backend().drawn()[logit] : step_.drawn(logit);
  if (drawn.state != kernels::DrawnToken::kNone) {
    RETURN_IF_ERROR(draw_status(drawn));
    out.token.emplace().token = drawn.token;
    const int32_t top = rows.sequence->request.sampling.logprobs;
    if (top >= 0)
      DeviceDraw::report(model_.backend().reports()[logit],
                         static_cast<int32_t>(std::min<size_t>(top, vocab_)), *out.token);
    return absl::OkStatus();
  }
  SamplerInput input = sampler_input(rows);
  const std::span<const Candidate> candidates = step_.candidates(logit);
  if (!candidates.empty()) return sampler.sample_from(candidates, input, out.token.emplace());
  input.logits = step_.logits(logit);
  input.maxima = step_.maxima(logit);
  RETURN_IF_ERROR(constrain(*rows.sequence, input));
  return sampler.sample(input, out.token.emplace());
}

}  // namespace baton::worker
