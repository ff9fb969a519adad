#include "worker/model/rank_step.h"

#include <algorithm>
#include <cstring>

#include "base/cat.h"
#include "base/check.h"

namespace baton::worker {

using kernels::DrawnToken;
using kernels::SequenceRows;
using kernels::StepBatch;

namespace {

// Rows [first, last) of the batch.
void take_rows(const StepBatch& batch, int32_t first, int32_t last, BatchRows& out) {
  out.clear();
  out.tokens.assign(batch.tokens.begin() + first, batch.tokens.begin() + last);
  out.positions.assign(batch.positions.begin() + first, batch.positions.begin() + last);
  for (const SequenceRows& s : batch.sequences) {
    const int32_t begin = std::max(first, s.first_row), end = std::min(last, s.first_row + s.row_count);
    if (begin >= end) continue;
    out.sequences.push_back({begin - first, end - begin, s.first_position + begin - s.first_row, s.blocks});
  }
  for (const int32_t row : batch.logit_rows)
    if (row >= first && row < last) out.logit_rows.push_back(row - first);
}

}  // namespace

void cut_batch(const StepBatch& batch, int count, std::vector<BatchRows>& out) {
  BATON_CHECK(count >= 1);
  const int32_t pieces = std::min(count, batch.rows());
  out.resize(static_cast<size_t>(pieces));
  for (int32_t i = 0; i < pieces; ++i)
    take_rows(batch, batch.rows() * i / pieces, batch.rows() * (i + 1) / pieces, out[i]);
}

RankStep::RankStep(LlamaModel& model, RankLinks* links, const Clock& clock)
    : model_(model),
      links_(links),
      clock_(clock),
      vocab_(static_cast<size_t>(model.spec().vocab_size)),
      direct_(model.part().rank == 0 && model.part().vocab.size() == model.spec().vocab_size),
      queue_(model.part().shape.ranks() == 1 ? kernels::device_backend(&model.backend()) : nullptr),
      ahead_(queue_ != nullptr && queue_->feeds_back()) {
  if (!direct_ && model.part().last_stage())
    draw_ = std::make_unique<ShardedDraw>(model.backend(), *links, model.spec().vocab_size);
}

absl::Status RankStep::run(StepId step, const BatchRows& rows, int micro_batches,
                           const LayerListener& on_layer) {
  const Instant begun = clock_.now();
  const Duration before = links_ != nullptr ? links_->spent() : Duration{};
  const size_t count = rows.logit_rows.size();
  const auto columns = static_cast<size_t>(model_.part().vocab.size());
  const auto blocks = static_cast<size_t>(kernels::logit_blocks(model_.part().vocab.size()));
  // Grow to the largest step seen; a step with prompt logits wants a row of logits per prompt token.
  if (ahead_) runs_ ^= 1;
  std::vector<float>& out = direct_ ? full_[runs_] : own_;
  if (model_.part().last_stage() && out.size() < count * columns) out.resize(count * columns);
  if (own_maxima_[runs_].size() < count * blocks) own_maxima_[runs_].resize(count * blocks);
  absl::Status status;
  if (ahead_) {
    queue_->feed(rows.fed);
    model_.launch(rows.batch(), on_layer, own_rows(0));
  } else {
    StepBatch batch = rows.batch();
    if (!direct_) batch.draws = {}, batch.changes = {};  // not the backend's to draw
    status = forward(batch, micro_batches, on_layer);
  }
  if (status.ok() && draw_ != nullptr) status = draw_->draw(rows, own_rows(0));
  if (status.ok() && model_.part().last_stage() && model_.part().rank != 0) {
    keep_.assign(rows.keep.begin(), rows.keep.end());
    keep_.resize(count, 0);
    pack(step);
    links_->report(std::span(message_).first(offsets_.back()));
    status = links_->status();
  }
  time_.steps += clock_.now() - begun;
  if (links_ != nullptr) time_.links += links_->spent() - before;
  return status;
}

absl::Status RankStep::collect(StepId step, std::span<const int32_t> keep, const LayerListener& on_layer) {
  keep_.assign(keep.begin(), keep.end());
  const Instant begun = clock_.now();
  if (ahead_) {
    collects_ ^= 1;
    absl::Status status = model_.finish(on_layer);
    time_.steps += clock_.now() - begun;
    return status;
  }
  if (direct_) return absl::OkStatus();
  const Duration before = links_->spent();
  const bool columns = std::ranges::find(keep, BatchRows::kAllLogits) != keep.end();
  if (columns && full_[0].size() < keep.size() * vocab_) full_[0].resize(keep.size() * vocab_);
  absl::Status status = gather(step);
  time_.steps += clock_.now() - begun;
  time_.links += links_->spent() - before;
  return status;
}

std::span<const float> RankStep::logits(size_t i) const {
  if (keep_.at(i) != BatchRows::kAllLogits) return {};
  return {full_[collects_].data() + i * vocab_, vocab_};
}

std::span<const float> RankStep::maxima(size_t i) const {
  if (!direct_) return {};
  const auto blocks = static_cast<size_t>(kernels::logit_blocks(static_cast<int64_t>(vocab_)));
  return {own_maxima_[collects_].data() + i * blocks, blocks};
}

std::span<const Candidate> RankStep::candidates(size_t i) const {
  if (keep_.at(i) <= 0) return {};
  return candidates_.at(i);
}

DrawnToken RankStep::drawn(size_t i) const {
  return keep_.at(i) == BatchRows::kDrawn ? drawn_.at(i) : DrawnToken{};
}

absl::Status RankStep::forward(const StepBatch& batch, int micro_batches, const LayerListener& on_layer) {
  if (micro_batches <= 1) return model_.forward(batch, on_layer, own_rows(0));
  cut_batch(batch, micro_batches, micro_batches_);
  size_t logit = 0;
  for (const BatchRows& part : micro_batches_) {
    const bool last = &part == &micro_batches_.back();
    StepBatch rows = part.batch();
    rows.awaits_layers = last && batch.awaits_layers;
    RETURN_IF_ERROR(model_.forward(rows, last ? on_layer : LayerListener(), own_rows(logit)));
    logit += part.logit_rows.size();
  }
  return absl::OkStatus();
}

kernels::LogitRows RankStep::own_rows(size_t first) {
  const kernels::LogitRows all = {(direct_ ? full_[runs_] : own_).data(), own_maxima_[runs_].data()};
  return all.from(static_cast<int64_t>(first), model_.part().vocab.size());
}

// offsets_[row] of a rank's message, and its size at the end.
void RankStep::lay_out(const Range& columns) {
  const auto width = static_cast<size_t>(columns.size());
  offsets_.assign(1, sizeof(StepId));
  for (const int32_t keep : keep_) {
    size_t bytes = width * sizeof(float);
    if (keep == BatchRows::kDrawn) bytes = sizeof(DrawnToken);
    if (keep > 0) bytes = std::min(static_cast<size_t>(keep), width) * sizeof(Candidate);
    offsets_.push_back(offsets_.back() + bytes);
  }
  if (message_.size() < offsets_.back()) message_.resize(offsets_.back());
}

void RankStep::pack(StepId step) {
  const Range& columns = model_.part().vocab;
  const auto width = static_cast<size_t>(columns.size());
  const auto blocks = static_cast<size_t>(kernels::logit_blocks(columns.size()));
  lay_out(columns);
  std::memcpy(message_.data(), &step, sizeof step);
  kernels::Backend& backend = model_.backend();
  selectors_.resize(static_cast<size_t>(backend.host_threads()));
  backend.run_on_host(static_cast<int>(keep_.size()), [&](int r, int thread) {
    const std::span<const float> own(own_.data() + r * width, width);
    std::byte* to = message_.data() + offsets_[r];
    if (keep_[r] == BatchRows::kDrawn) {
      std::memcpy(to, &draw_->drawn(static_cast<size_t>(r)), sizeof(DrawnToken));
      return;
    }
    if (keep_[r] == BatchRows::kAllLogits || width == 0) {
      std::memcpy(to, own.data(), own.size_bytes());
      return;
    }
    const std::span<Candidate> out(reinterpret_cast<Candidate*>(to),
                                   (offsets_[r + 1] - offsets_[r]) / sizeof(Candidate));
    const std::span<const float> maxima(own_maxima_[0].data() + r * blocks, blocks);
    selectors_[thread].select(own, maxima, static_cast<TokenId>(columns.begin), out);
  });
}

absl::Status RankStep::gather(StepId step) {
  const ModelPart& part = model_.part();
  if (candidates_.size() < keep_.size()) candidates_.resize(keep_.size());
  for (auto& row : candidates_) row.clear();
  drawn_.assign(keep_.size(), {});
  const int tensor = part.shape.tensor, first = (part.shape.pipeline - 1) * tensor;
  for (int place = 0; place < tensor; ++place) {
    const Range columns = vocab_part(static_cast<int64_t>(vocab_), tensor, place);
    if (first + place == 0) {
      pack(step);
    } else {
      lay_out(columns);
      links_->hear(first + place, std::span(message_).first(offsets_.back()));
      RETURN_IF_ERROR(links_->status());
    }
    StepId answered;
    std::memcpy(&answered, message_.data(), sizeof answered);
    if (answered != step)
      return absl::InternalError(cat("rank ", first + place, " of the group answers step ", answered.value(),
                                     ", want step ", step.value()));
    collected_bytes_ += offsets_.back();
    RETURN_IF_ERROR(take(columns, first + place));
  }
  for (size_t r = 0; r < keep_.size(); ++r)
    if (keep_[r] == BatchRows::kDrawn && drawn_[r].state == DrawnToken::kNone)
      return absl::InternalError(cat("no rank of the group has drawn logit row ", r));
  return absl::OkStatus();
}

absl::Status RankStep::take(const Range& columns, int rank) {
  for (size_t r = 0; r < keep_.size(); ++r) {
    const std::byte* from = message_.data() + offsets_[r];
    const size_t bytes = offsets_[r + 1] - offsets_[r];
    if (keep_[r] == BatchRows::kAllLogits) {
      std::memcpy(full_[0].data() + r * vocab_ + columns.begin, from, bytes);
    } else if (keep_[r] == BatchRows::kDrawn) {
      DrawnToken drawn;
      std::memcpy(&drawn, from, sizeof drawn);
      if (!take_drawn(drawn, columns, r))
        return absl::InternalError(cat("rank ", rank, " of the group draws token ", drawn.token, ", state ",
                                       drawn.state, " of logit row ", r));
    } else {
      std::vector<Candidate>& row = candidates_[r];
      const size_t had = row.size();
      row.resize(had + bytes / sizeof(Candidate));
      std::memcpy(row.data() + had, from, bytes);
    }
  }
  return absl::OkStatus();
}

// False for what cannot be: a token of other columns, a second one, an error that not all have.
bool RankStep::take_drawn(const DrawnToken& drawn, const Range& columns, size_t row) {
  DrawnToken& so_far = drawn_[row];
  const bool first = columns.begin == 0;
  switch (drawn.state) {
    case DrawnToken::kNone:
      return so_far.state == DrawnToken::kNone || so_far.state == DrawnToken::kDrawn;
    case DrawnToken::kDrawn:
      if (so_far.state != DrawnToken::kNone || drawn.token < columns.begin || drawn.token >= columns.end)
        return false;
      break;
    case DrawnToken::kNotFinite:
    case DrawnToken::kNothingLeft:
      if (!first && so_far.state != drawn.state) return false;
      break;
    default:
      return false;
  }
  so_far = drawn;
  return true;
}

}  // namespace baton::worker
