#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"

namespace baton::worker {

// How the layers of a model are shared out to the stages of a pipeline: by what they cost where they run.
// Each rank measures its stage (worker/model/stage_trial.h), the ranks tell each other, and all of them come
// to the same split by the arithmetic here: whole nanoseconds, no order but that of the ranks. No bit of a
// result depends on it (docs/adr/0010).

// What a row costs a stage: each of its layers, and what it does beside layers (the first
// stage looks up the embedding, the last one has the final norm and the head).
struct StageCost {
  Duration layer{};
  Duration rest{};
  bool operator==(const StageCost&) const = default;
};

// What a rank measured: steps of two kinds, a whole step each.
struct StepCost {
  int32_t rows = 1;
  Duration layer{};
  Duration rest{};
};

// The share of a worker's rows that are decoded, one a step and sequence, each with logits. The others are
// those of prompts, of which almost none has logits. A pool for both computes prompts that are longer than
// their answers: seven rows to one.
inline constexpr double kDecodedByPrefill = 0;
inline constexpr double kDecodedByAny = 0.125;
inline constexpr double kDecodedByDecode = 1;

// The cost of a row of that mix:
//
//   cost = decoded * decode / rows of decode + (1 - decoded) * chunk / rows of chunk
//
// for layer and for rest alike. Rows and not steps are mixed: a plan carries rows of both kinds, so a stage
// is as long as the sum of what its rows cost it. A row of a decode step is dear, since the step reads all
// weights for a few rows; the head is of decode alone.
// Example SmolLM2 Q4_1, one thread of a Zen 5: decode of 8 rows: layer 0.24 ms, head 1.44 ms; chunk of 32
// rows: layer 0.896 ms. One row in eight: layer 0.125 * 30 us + 0.875 * 28 us = 28.25 us, head 0.125 * 180 us
// = 22.5 us: 0.8 layers, so 15 + 15. Decode alone: layer 30 us, head 180 us: 6 layers, so 18 + 12.
StageCost cost_of_row(const StepCost& decode, const StepCost& chunk, double decoded);

// Of each stage, from what its `tensor` ranks said: they wait for each other in every layer, so the slowest
// counts. kInvalidArgument, naming the rank, for what no rank can have measured: a layer wants 1 ns to 100 s
// a row, the rest 0 to 100 s.
absl::StatusOr<std::vector<StageCost>> stage_costs(std::span<const StageCost> ranks, int tensor);

// Layers of each stage, one at least, such that the longest stage (layers * layer + rest) is as short as can
// be. Of equally good places for a layer the first one gets it. Wants costs that stage_costs() has checked,
// and a layer for each stage.
// Examples of 30 layers: {30 us, 0} and {30 us, 180 us}: 18 + 12, 540 us each. {10 us, 0} and, on a machine
// of half the speed, {20 us, 60 us}: 22 + 8, 220 us each.
std::vector<int32_t> split_layers(std::span<const StageCost> stages, int32_t layers);

// For the log: "layer 28.2 28.0 us, rest 1.2 22.5 us a row"
std::string costs_text(std::span<const StageCost> stages);

}  // namespace baton::worker
