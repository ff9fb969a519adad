#include "worker/model/llama_model.h"

#include <algorithm>

#include "base/cat.h"
#include "base/check.h"

namespace baton::worker {

using kernels::LinearSpec;
using kernels::NormWeights;
using kernels::StepBatch;

namespace {

struct LayerLinears {
  LinearSpec qkv, o, gate_up, down;
};

// The row-parallel products (o, down) are summed in the canonical shards of the numeric contract.
LayerLinears layer_linears(const ModelSpec& spec, const LayerWeights& w) {
  const int o_shards = kernels::k_shards_for(spec.kv_heads, spec.q_width());
  const int down_shards = kernels::k_shards_for(spec.kv_heads, spec.ffn);
  return {.qkv = {.parts = {w.q, w.k, w.v}, .bias = w.qkv_bias, .k_shards = 1},
          .o = {.parts = {w.o}, .bias = w.o_bias, .k_shards = o_shards},
          .gate_up = {.parts = {w.gate, w.up}, .bias = w.gate_up_bias, .k_shards = 1},
          .down = {.parts = {w.down}, .bias = w.down_bias, .k_shards = down_shards}};
}

LinearSpec head_linear(const ModelWeights& weights) {
  return {.parts = {weights.head}, .bias = {}, .k_shards = 1};
}

}  // namespace

ModelMemory model_memory(const ModelSpec& spec, const ModelWeights& weights, const kernels::Backend& backend,
                         int32_t max_rows, int32_t logit_rows) {
  ModelMemory out;
  out.weights = backend.packed_bytes(head_linear(weights));
  for (const LayerWeights& layer : weights.layers) {
    const LayerLinears linears = layer_linears(spec, layer);
    for (const LinearSpec* linear : {&linears.qkv, &linears.o, &linears.gate_up, &linears.down})
      out.weights += backend.packed_bytes(*linear);
  }
  const size_t widest = std::max({spec.hidden, spec.q_width(), spec.ffn});
  const size_t own = spec.hidden + spec.qkv_width() + spec.q_width() + spec.ffn;
  // The backend's: normed rows, twice the codes with their groups, gate and up before they are one.
  const size_t scratch = 4 * widest + 2 * (widest + widest / 4) + 4 * widest;
  out.activations = max_rows * (4 * own + scratch) + logit_rows * 4 * static_cast<size_t>(spec.vocab_size);
  return out;
}

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
  ASSIGN_OR_RETURN(head_, pack(head_linear(weights)));
  const size_t rows = options_.max_rows;
  residual_ = backend_.allocate(rows * spec_.hidden);
  qkv_ = backend_.allocate(rows * spec_.qkv_width());
  attention_ = backend_.allocate(rows * spec_.q_width());
  activated_ = backend_.allocate(rows * spec_.ffn);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<kernels::Linear>> LlamaModel::pack(const LinearSpec& spec) {
  auto linear = backend_.make_linear(spec);
  if (options_.on_packed != nullptr && linear.ok())
    for (const kernels::WeightView& part : spec.parts) options_.on_packed(part);
  return linear;
}

absl::Status LlamaModel::load_layer(const LayerWeights& weights, Layer& layer) {
  const LayerLinears linears = layer_linears(spec_, weights);
  ASSIGN_OR_RETURN(layer.qkv, pack(linears.qkv));
  ASSIGN_OR_RETURN(layer.o, pack(linears.o));
  ASSIGN_OR_RETURN(layer.gate_up, pack(linears.gate_up));
  ASSIGN_OR_RETURN(layer.down, pack(linears.down));
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
  backend_.run_together([&] {
    backend_.embed(*embedding_, residual_);
    for (int i = 0; i < spec_.layers; ++i) run_layer(i, on_layer);
    if (!batch.logit_rows.empty()) backend_.head(norm(final_norm_), *head_, residual_, logits);
  });
  return backend_.finish_step();
}

void LlamaModel::run_layer(int index, const LayerListener& on_layer) {
  const Layer& layer = layers_[index];
  const NormWeights q_norm = norm(layer.q_norm);
  const NormWeights k_norm = norm(layer.k_norm);
  backend_.norm_linear(norm(layer.attention_norm), *layer.qkv, residual_, qkv_);
  const kernels::RopeAttention attention = {index, spec_.qk_norm ? &q_norm : nullptr,
                                            spec_.qk_norm ? &k_norm : nullptr};
  backend_.rope_attention(attention, qkv_, attention_, [&] {
    if (on_layer) on_layer(index);
  });
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
