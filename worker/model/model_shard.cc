#include "worker/model/model_shard.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "kernels/weight_slice.h"
#include "worker/model/output_shard.h"

namespace baton::worker {

using kernels::WeightView;

namespace {

WeightView rows_of(const WeightView& view, const Range& rows) {
  return kernels::rows_of(view, rows.begin, rows.size());
}

// Appends values [range) of the part of `from` that starts at `first`.
void take(const std::vector<float>& from, int64_t first, const Range& range, std::vector<float>& to) {
  if (from.empty()) return;
  to.insert(to.end(), from.begin() + first + range.begin, from.begin() + first + range.end);
}

// The rank's piece of o or down. The bias belongs to its rows; of partial sums it is added after they met.
absl::Status cut_product(const ProductPart& part, WeightView& matrix, std::vector<float>& bias) {
  std::vector<float> own;
  take(bias, 0, part.rows, own);
  bias = std::move(own);
  matrix = rows_of(matrix, part.rows);
  ASSIGN_OR_RETURN(matrix, kernels::columns_of(matrix, part.columns.begin, part.columns.size()));
  return absl::OkStatus();
}

absl::Status cut_layer(const ModelSpec& spec, const ModelPart& part, LayerWeights& layer) {
  const Range q{part.heads.begin * spec.head_dim, part.heads.end * spec.head_dim};
  const Range kv{part.kv_heads.begin * spec.head_dim, part.kv_heads.end * spec.head_dim};
  std::vector<float> qkv_bias, gate_up_bias;
  take(layer.qkv_bias, 0, q, qkv_bias);
  take(layer.qkv_bias, spec.q_width(), kv, qkv_bias);
  take(layer.qkv_bias, spec.q_width() + spec.kv_width(), kv, qkv_bias);
  take(layer.gate_up_bias, 0, part.ffn, gate_up_bias);
  take(layer.gate_up_bias, spec.ffn, part.ffn, gate_up_bias);
  layer.qkv_bias = std::move(qkv_bias);
  layer.gate_up_bias = std::move(gate_up_bias);
  layer.q = rows_of(layer.q, q);
  layer.k = rows_of(layer.k, kv);
  layer.v = rows_of(layer.v, kv);
  layer.gate = rows_of(layer.gate, part.ffn);
  layer.up = rows_of(layer.up, part.ffn);
  RETURN_IF_ERROR(cut_product(part.o, layer.o, layer.o_bias));
  return cut_product(part.down, layer.down, layer.down_bias);
}

}  // namespace

SplitModel split_model(const ModelSpec& spec, const ModelWeights& weights) {
  SplitModel model{.layers = spec.layers,
                   .heads = spec.heads,
                   .kv_heads = spec.kv_heads,
                   .head_dim = spec.head_dim,
                   .hidden = spec.hidden,
                   .ffn = spec.ffn,
                   .vocab = spec.vocab_size};
  for (const LayerWeights& layer : weights.layers) {
    model.o_block = std::max(model.o_block, traits_of(layer.o.type).elements);
    model.down_block = std::max(model.down_block, traits_of(layer.down.type).elements);
  }
  return model;
}

namespace {

absl::StatusOr<ModelShard> shard_of(const SplitModel& model, const ModelSpec& spec,
                                    const ModelWeights& weights, const ParallelShape& shape, int rank) {
  ASSIGN_OR_RETURN(const ModelPart part, part_of(model, shape, rank));
  ModelShard shard{.part = part, .spec = spec, .weights = {}};
  shard.spec.layers = static_cast<int32_t>(part.layers.size());
  shard.spec.heads = static_cast<int32_t>(part.heads.size());
  shard.spec.kv_heads = static_cast<int32_t>(part.kv_heads.size());
  shard.spec.ffn = part.ffn.size();
  shard.weights.embedding = weights.embedding;
  shard.weights.final_norm = weights.final_norm;
  shard.weights.layers.assign(weights.layers.begin() + part.layers.begin,
                              weights.layers.begin() + part.layers.end);
  for (LayerWeights& layer : shard.weights.layers) RETURN_IF_ERROR(cut_layer(spec, part, layer));
  if (part.last_stage()) shard.weights.head = rows_of(weights.head, part.vocab);
  return shard;
}

}  // namespace

absl::StatusOr<ModelShard> shard_of(const ModelSpec& spec, const ModelWeights& weights,
                                    const ParallelShape& shape, int rank) {
  return shard_of(split_model(spec, weights), spec, weights, shape, rank);
}

absl::StatusOr<ModelShard> shard_by_outputs(const ModelSpec& spec, const ModelWeights& weights,
                                            const ParallelShape& shape, int rank) {
  SplitModel model = split_model(spec, weights);
  model.o_block = static_cast<int>(spec.q_width());  // rows that cannot be cut
  model.down_block = static_cast<int>(spec.ffn);
  return shard_of(model, spec, weights, shape, rank);
}

ModelShard whole_model(const ModelSpec& spec, const ModelWeights& weights) {
  absl::StatusOr<ModelShard> shard = shard_of(spec, weights, {}, 0);
  BATON_CHECK(shard.ok(), "a model is a part of itself");
  return *std::move(shard);
}

}  // namespace baton::worker
