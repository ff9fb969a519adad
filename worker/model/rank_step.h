#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "base/clock.h"
#include "kernels/device.h"
#include "worker/model/candidates.h"
#include "worker/model/llama_model.h"
#include "worker/model/sharded_draw.h"
#include "worker/parallel/batch_rows.h"

namespace baton::worker {

// Cuts a step's rows into at most `count` micro-batches of consecutive rows, as equal as can be. A sequence
// may be cut: its earlier positions are in the earlier one. Example 10 rows in 3: rows 0-2, 3-5, 6-9.
void cut_batch(const kernels::StepBatch& batch, int count, std::vector<BatchRows>& out);

// What a rank did since it started.
struct RankTime {
  Duration steps{};  // in run(), to its end
  Duration links{};  // part of it: waiting for other ranks, and copying to and from them
};

// One rank's part of a step: the forward pass over one or more micro-batches, then what rank 0 wants of the
// logits, whose columns the ranks of the last stage have (BatchRows::keep): the token, which they draw
// together (sharded_draw.h); some candidates each, of which it draws; or all columns. Example 2 ranks,
// vocabulary 49152: a token, or one candidate (greedy), is 8 bytes a row from each, columns are 98,304. The
// same code on rank 0 and its followers, and for a group of one, where it is one call of forward(). Rank 0 of
// a pipeline may run() further steps before it collects the first: the others send when they are done, also
// of steps without logits, so that whoever was collected computes nowhere any more. One rank may run() one
// further step when its backend feeds_back(): then collect() waits for the device. Owns the logits. Thread:
// engine. Errors: as LlamaModel::forward; kInternal when a rank answers another step.
class RankStep {
 public:
  // `links` as in the model's options.
  RankStep(LlamaModel& model, RankLinks* links, const Clock& clock);

  // `on_layer` hears each layer once, here or in collect(): when the last micro-batch has stored its KV.
  absl::Status run(StepId step, const BatchRows& rows, int micro_batches, const LayerListener& on_layer);
  // On rank 0: what the oldest step gave that was run and not collected, whose BatchRows::keep this is.
  absl::Status collect(StepId step, std::span<const int32_t> keep, const LayerListener& on_layer);
  // Of logit row i of the step collected last: all logits, or candidates when it was to keep some, or what
  // was drawn. The others are empty, and kNone.
  std::span<const float> logits(size_t i) const;
  std::span<const Candidate> candidates(size_t i) const;
  kernels::DrawnToken drawn(size_t i) const;
  // The maxima of logits(i), or nothing when they were not made with the logits.
  std::span<const float> maxima(size_t i) const;
  const RankTime& time() const { return time_; }
  // On rank 0: of all steps collected, what the ranks of the last stage had to say, itself included.
  uint64_t collected_bytes() const { return collected_bytes_; }

 private:
  absl::Status forward(const kernels::StepBatch& batch, int micro_batches, const LayerListener& on_layer);
  kernels::LogitRows own_rows(size_t first);
  void lay_out(const Range& columns);
  void pack(StepId step);
  absl::Status gather(StepId step);
  absl::Status take(const Range& columns, int rank);
  bool take_drawn(const kernels::DrawnToken& drawn, const Range& columns, size_t row);

  LlamaModel& model_;
  RankLinks* const links_;
  const Clock& clock_;
  const size_t vocab_;
  const bool direct_;                    // forward() writes whole rows of full_
  kernels::DeviceBackend* const queue_;  // of one rank on a device
  const bool ahead_;                     // run() launches, collect() waits
  // Of two steps under way each has its own: of the one run last, and of the one collected last.
  size_t runs_ = 0, collects_ = 0;
  std::array<std::vector<float>, 2> full_;          // [logit rows][vocab], rank 0
  std::vector<float> own_;                          // [logit rows][columns of this rank]
  std::array<std::vector<float>, 2> own_maxima_;    // of the logits that forward() writes
  std::vector<int32_t> keep_;                       // by logit row of the step at hand
  std::vector<std::vector<Candidate>> candidates_;  // [logit rows], rank 0
  std::vector<kernels::DrawnToken> drawn_;          // [logit rows], rank 0
  std::unique_ptr<ShardedDraw> draw_;               // on ranks of the last stage, if there are several ranks
  uint64_t collected_bytes_ = 0;
  // A message of one rank to rank 0: the step, then of each logit row its columns, candidates or drawn token,
  // at offsets_[row].
  std::vector<std::byte> message_;
  std::vector<size_t> offsets_;
  std::vector<CandidateSelector> selectors_;  // one for each of the backend's host threads
  std::vector<BatchRows> micro_batches_;
  RankTime time_;
};

}  // namespace baton::worker
