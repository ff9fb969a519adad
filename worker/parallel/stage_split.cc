#include "worker/parallel/stage_split.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/cat.h"
#include "base/check.h"

namespace baton::worker {
namespace {

constexpr Duration kMostOfARow = std::chrono::seconds(100);

Duration mix(Duration decode, int32_t decode_rows, Duration chunk, int32_t chunk_rows, double decoded) {
  const double sum = decoded * static_cast<double>(decode.count()) / decode_rows +
                     (1 - decoded) * static_cast<double>(chunk.count()) / chunk_rows;
  return Duration(std::llround(sum));
}

std::string microseconds(Duration d) {
  char text[32];
  std::snprintf(text, sizeof text, " %.1f", 1e6 * to_seconds(d));
  return text;
}

}  // namespace

StageCost cost_of_row(const StepCost& decode, const StepCost& chunk, double decoded) {
  BATON_CHECK(decode.rows >= 1 && chunk.rows >= 1 && decoded >= 0 && decoded <= 1);
  return {.layer = std::max(Duration(1), mix(decode.layer, decode.rows, chunk.layer, chunk.rows, decoded)),
          .rest = mix(decode.rest, decode.rows, chunk.rest, chunk.rows, decoded)};
}

absl::StatusOr<std::vector<StageCost>> stage_costs(std::span<const StageCost> ranks, int tensor) {
  BATON_CHECK(tensor >= 1 && ranks.size() % tensor == 0);
  std::vector<StageCost> out(ranks.size() / tensor);
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const auto& [layer, rest] = ranks[rank];
    if (layer < Duration(1) || layer > kMostOfARow || rest < Duration(0) || rest > kMostOfARow)
      return absl::InvalidArgumentError(cat("rank ", rank, " says that a row costs it ", layer.count(),
                                            " ns a layer and ", rest.count(), " ns beside layers"));
    StageCost& stage = out[rank / tensor];
    stage = {std::max(stage.layer, layer), std::max(stage.rest, rest)};
  }
  return out;
}

// Giving each layer to the stage that is shortest with it is best: what a stage costs with n layers grows
// with n, so the layers given are those with the smallest of all these costs.
std::vector<int32_t> split_layers(std::span<const StageCost> stages, int32_t layers) {
  BATON_CHECK(!stages.empty() && std::ssize(stages) <= layers);
  std::vector<int32_t> out(stages.size(), 1);
  const auto with_one_more = [&](size_t s) { return stages[s].rest + (out[s] + 1) * stages[s].layer; };
  for (auto left = layers - static_cast<int32_t>(stages.size()); left > 0; --left) {
    size_t best = 0;
    for (size_t s = 1; s < stages.size(); ++s)
      if (with_one_more(s) < with_one_more(best)) best = s;
    ++out[best];
  }
  return out;
}

std::string costs_text(std::span<const StageCost> stages) {
  std::string layer = "layer", rest = "rest";
  for (const StageCost& stage : stages) {
    layer += microseconds(stage.layer);
    rest += microseconds(stage.rest);
  }
  return cat(layer, " us, ", rest, " us a row");
}

}  // namespace baton::worker
