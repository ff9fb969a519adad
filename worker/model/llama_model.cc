#include "worker/model/llama_model.h"

#include "base/cat.h"
#include "base/check.h"

namespace baton::worker {

using kernels::LinearSpec;
using kernels::NormWeights;
using kernels::StepBatch;

absl::StatusOr<std::unique_ptr<LlamaModel>> LlamaModel::create(const ModelSpec& spec,
                                                               const ModelWeights& weights,
                                                               kernels::Backend& backend,
                                                               LlamaModelOptions options) {
  if (options.max_rows < 1)
    return absl::InvalidArgumentError(cat("max_rows ", options.max_rows, ": want at least 1"));
  if (options.max_positions == 0) options.max_positions = spec.context_tokens;
  if (options.max_positions < 1 || options.max_positions > spec.context_tokens)
    return absl::InvalidArgumentError(cat("max_positions ", options.max_positions,
                                          ": want 1 to the model's context of ", spec.context_tokens));
  std::unique_ptr<LlamaModel> model(new LlamaModel(spec, backend, options));
  RETURN_IF_ERROR(model->load(weights));
  return model;
}

absl::Status LlamaModel::load(const ModelWeights& weights) {
  BATON_CHECK(weights.layers.size() == static_cast<size_t>(spec_.layers));
  RETURN_IF_ERROR(backend_.set_attention(attention_spec(spec_), rope_spec(spec_, options_.max_positions)));
  ASSIGN_OR_RETURN(embedding_, backend_.make_embedding(weights.embedding));
  layers_.resize(spec_.layers);
  for (int i = 0; i < spec_.layers; ++i) RETURN_IF_ERROR(load_layer(weights.layers[i], layers_[i]));
  final_norm_ = weights.final_norm;
  ASSIGN_OR_RETURN(head_, backend_.make_linear({.parts = {weights.head}, .bias = {}, .k_shards = 1}));
  const size_t rows = options_.max_rows;
  residual_ = backend_.allocate(rows * spec_.hidden);
  qkv_ = backend_.allocate(rows * spec_.qkv_width());
  attention_ = backend_.allocate(rows * spec_.q_width());
  activated_ = backend_.allocate(rows * spec_.ffn);
  return absl::OkStatus();
}

absl::Status LlamaModel::load_layer(const LayerWeights& weights, Layer& layer) {
  // The row-parallel products (o, down) are summed in the canonical shards of the numeric contract.
  const int o_shards = kernels::k_shards_for(spec_.kv_heads, spec_.q_width());
  const int down_shards = kernels::k_shards_for(spec_.kv_heads, spec_.ffn);
  const LinearSpec qkv{.parts = {weights.q, weights.k, weights.v}, .bias = weights.qkv_bias, .k_shards = 1};
  const LinearSpec o{.parts = {weights.o}, .bias = weights.o_bias, .k_shards = o_shards};
  const LinearSpec gate_up{.parts = {weights.gate, weights.up}, .bias = weights.gate_up_bias, .k_shards = 1};
  const LinearSpec down{.parts = {weights.down}, .bias = weights.down_bias, .k_shards = down_shards};
  ASSIGN_OR_RETURN(layer.qkv, backend_.make_linear(qkv));
  ASSIGN_OR_RETURN(layer.o, backend_.make_linear(o));
  ASSIGN_OR_RETURN(layer.gate_up, backend_.make_linear(gate_up));
  ASSIGN_OR_RETURN(layer.down, backend_.make_linear(down));
  layer.attention_norm = weights.attention_norm;
  layer.ffn_norm = weights.ffn_norm;
  layer.q_norm = weights.q_norm;
  layer.k_norm = weights.k_norm;
  return absl::OkStatus();
}

NormWeights LlamaModel::norm(const std::vector<float>& weight) const {
  return {.weight = weight, .eps = static_cast<float>(spec_.norm_eps)};
}

absl::Status LlamaModel::forward(const StepBatch& batch, const LayerListener& on_layer, float* logits) {
  BATON_CHECK(batch.rows() >= 1 && batch.rows() <= options_.max_rows);
  rows_ = batch.rows();
  logit_rows_ = static_cast<int32_t>(batch.logit_rows.size());
  backend_.begin_step(batch);
  backend_.embed(*embedding_, residual_);
  for (int i = 0; i < spec_.layers; ++i) run_layer(i, on_layer);
  if (!batch.logit_rows.empty()) backend_.head(norm(final_norm_), *head_, residual_, logits);
  return backend_.finish_step();
}

void LlamaModel::run_layer(int index, const LayerListener& on_layer) {
  const Layer& layer = layers_[index];
  const NormWeights q_norm = norm(layer.q_norm);
  const NormWeights k_norm = norm(layer.k_norm);
  backend_.norm_linear(norm(layer.attention_norm), *layer.qkv, residual_, qkv_);
  backend_.rope_store(index, spec_.qk_norm ? &q_norm : nullptr, spec_.qk_norm ? &k_norm : nullptr, qkv_);
  if (on_layer) on_layer(index);
  backend_.attention(index, qkv_, attention_);
  if (index + 1 == spec_.layers && !keep_logit_rows()) return;
  backend_.linear_add(*layer.o, attention_, residual_);
  backend_.feed_forward(norm(layer.ffn_norm), *layer.gate_up, *layer.down, residual_, activated_);
}

// Once the last layer's KV is stored, a row matters only for its logits: a prompt of 512 tokens has one such
// row. False when there is none.
bool LlamaModel::keep_logit_rows() {
  if (logit_rows_ == 0) return false;
  if (logit_rows_ == rows_) return true;
  const kernels::RowTensor tensors[] = {{residual_, spec_.hidden}, {attention_, spec_.q_width()}};
  backend_.keep_logit_rows(tensors);
  return true;
}

size_t LlamaModel::weight_bytes() const {
  size_t bytes = head_->bytes();
  for (const Layer& layer : layers_)
    bytes += layer.qkv->bytes() + layer.o->bytes() + layer.gate_up->bytes() + layer.down->bytes();
  return bytes;
}

}  // namespace baton::worker
