#include "worker/model/llama_model.h"

#include <algorithm>

#include "base/cat.h"
#include "base/check.h"
#include "kernels/device.h"
#include "worker/model/model_linears.h"

namespace baton::worker {

using kernels::LinearSpec;
using kernels::LogitRows;
using kernels::NormWeights;
using kernels::StepBatch;

namespace {

struct LayerLinears {
  LinearSpec qkv, o, gate_up, down;
};

// Whether a product's bias waits until the ranks' sums have met.
bool bias_comes_last(const ModelPart& part, const ProductPart& product) {
  return part.shape.tensor > 1 && product.by == SplitBy::kInputs;
}

// The row-parallel products (o, down) are summed in the canonical shards of the numeric contract, of which
// the part says how many are here.
LayerLinears layer_linears(const ModelPart& part, const LayerWeights& w) {
  LayerLinears linears = {.qkv = {.parts = {w.q, w.k, w.v}, .bias = w.qkv_bias, .k_shards = 1},
                          .o = {.parts = {w.o}, .bias = w.o_bias, .k_shards = part.o.k_shards},
                          .gate_up = {.parts = {w.gate, w.up}, .bias = w.gate_up_bias, .k_shards = 1},
                          .down = {.parts = {w.down}, .bias = w.down_bias, .k_shards = part.down.k_shards}};
  if (bias_comes_last(part, part.o)) linears.o.bias.clear();
  if (bias_comes_last(part, part.down)) linears.down.bias.clear();
  return linears;
}

LinearSpec head_linear(const ModelWeights& weights) {
  return {.parts = {weights.head}, .bias = {}, .k_shards = 1};
}

// Floats a row that only a rank of several needs: its product, what it gathers, and that side by side.
size_t meeting_floats(const ModelShard& shard) {
  const int64_t tensor = shard.part.shape.tensor;
  if (tensor == 1) return 0;
  const int64_t widest =
      std::max({shard.spec.hidden, tensor * shard.spec.q_width(), tensor * shard.spec.ffn});
  return static_cast<size_t>(shard.spec.hidden + 2 * widest);
}

}  // namespace

std::vector<LinearSpec> model_linears(const ModelShard& shard) {
  std::vector<LinearSpec> out;
  for (const LayerWeights& layer : shard.weights.layers) {
    LayerLinears linears = layer_linears(shard.part, layer);
    for (LinearSpec* linear : {&linears.qkv, &linears.o, &linears.gate_up, &linears.down})
      out.push_back(std::move(*linear));
  }
  if (shard.part.last_stage()) out.push_back(head_linear(shard.weights));
  return out;
}

ModelMemory model_memory(const ModelShard& shard, const kernels::Backend& backend, int32_t max_rows,
                         int32_t logit_rows) {
  const ModelSpec& spec = shard.spec;
  ModelMemory out;
  for (const LinearSpec& linear : model_linears(shard)) out.weights += backend.packed_bytes(linear);
  // On the host rows of the table are read from the file; a device shares it with a tied head.
  const bool tied = shard.part.last_stage() && shard.weights.head.data == shard.weights.embedding.data;
  if (!backend.in_host_memory() && shard.part.first_stage() && !tied)
    out.weights += backend.packed_bytes({.parts = {shard.weights.embedding}, .bias = {}, .k_shards = 1});
  const size_t widest = std::max({spec.hidden, spec.q_width(), spec.ffn});
  const size_t own = spec.hidden + spec.qkv_width() + spec.q_width() + spec.ffn + meeting_floats(shard);
  // The backend's: normed rows, twice the codes with their groups, gate and up before they are one.
  const size_t scratch = 4 * widest + 2 * (widest + widest / 4) + 4 * widest;
  // Logits: rank 0 has all of them, whoever computed them; ranks that draw together weigh their own.
  const auto columns = static_cast<size_t>(shard.part.vocab.size());
  const size_t logits = 4 * (shard.part.rank == 0 ? static_cast<size_t>(spec.vocab_size) : columns);
  const size_t weights = shard.part.shape.ranks() > 1 && backend.in_host_memory() ? 12 * columns : 0;
  out.activations = max_rows * (4 * own + scratch) + logit_rows * (logits + weights);
  return out;
}

ModelMemory model_memory(const ModelSpec& spec, const ModelWeights& weights, const kernels::Backend& backend,
                         int32_t max_rows, int32_t logit_rows) {
  return model_memory(whole_model(spec, weights), backend, max_rows, logit_rows);
}

absl::StatusOr<std::unique_ptr<LlamaModel>> LlamaModel::create(const ModelSpec& spec,
                                                               const ModelWeights& weights,
                                                               kernels::Backend& backend,
                                                               LlamaModelOptions options) {
  BATON_CHECK(weights.layers.size() == static_cast<size_t>(spec.layers));
  return create(whole_model(spec, weights), backend, std::move(options));
}

absl::StatusOr<std::unique_ptr<LlamaModel>> LlamaModel::create(ModelShard shard, kernels::Backend& backend,
                                                               LlamaModelOptions options) {
  const int64_t context = shard.spec.context_tokens;
  if (options.max_rows < 1)
    return absl::InvalidArgumentError(cat("max_rows ", options.max_rows, ": want at least 1"));
  if (options.max_positions == 0) options.max_positions = context;
  if (options.max_positions < 1 || options.max_positions > context)
    return absl::InvalidArgumentError(
        cat("max_positions ", options.max_positions, ": want 1 to the model's context of ", context));
  const ParallelShape& shape = shard.part.shape;
  BATON_CHECK(options.links == nullptr ? shape.ranks() == 1 : options.links->shape().same_ranks(shape));
  BATON_CHECK(options.links == nullptr || options.links->rank() == shard.part.rank);
  std::unique_ptr<LlamaModel> model(new LlamaModel(shard, backend, std::move(options)));
  RETURN_IF_ERROR(model->load(shard.weights));
  return model;
}

absl::Status LlamaModel::load(const ModelWeights& weights) {
  RETURN_IF_ERROR(backend_.set_attention(attention_spec(spec_), rope_spec(spec_, options_.max_positions)));
  if (part_.first_stage()) {
    ASSIGN_OR_RETURN(embedding_, backend_.make_embedding(weights.embedding));
  }
  layers_.resize(spec_.layers);
  for (int i = 0; i < spec_.layers; ++i) RETURN_IF_ERROR(load_layer(weights.layers[i], layers_[i]));
  final_norm_ = weights.final_norm;
  if (part_.last_stage()) {
    ASSIGN_OR_RETURN(head_, pack(head_linear(weights)));
  }
  allocate();
  return absl::OkStatus();
}

void LlamaModel::allocate() {
  const size_t rows = options_.max_rows;
  residual_ = backend_.allocate(rows * spec_.hidden);
  qkv_ = backend_.allocate(rows * spec_.qkv_width());
  attention_ = backend_.allocate(rows * spec_.q_width());
  activated_ = backend_.allocate(rows * spec_.ffn);
  const int64_t tensor = part_.shape.tensor;
  if (tensor == 1) return;
  const size_t widest = std::max({spec_.hidden, tensor * spec_.q_width(), tensor * spec_.ffn});
  partial_ = backend_.allocate(rows * spec_.hidden);
  gathered_ = backend_.allocate(rows * widest);
  joined_ = backend_.allocate(rows * widest);
}

absl::StatusOr<std::unique_ptr<kernels::Linear>> LlamaModel::pack(const LinearSpec& spec) {
  auto linear = backend_.make_linear(spec);
  if (options_.on_packed != nullptr && linear.ok())
    for (const kernels::WeightView& part : spec.parts) options_.on_packed(part);
  return linear;
}

absl::Status LlamaModel::load_layer(const LayerWeights& weights, Layer& layer) {
  const LayerLinears linears = layer_linears(part_, weights);
  ASSIGN_OR_RETURN(layer.qkv, pack(linears.qkv));
  ASSIGN_OR_RETURN(layer.o, pack(linears.o));
  ASSIGN_OR_RETURN(layer.gate_up, pack(linears.gate_up));
  ASSIGN_OR_RETURN(layer.down, pack(linears.down));
  layer.attention_norm = weights.attention_norm;
  layer.ffn_norm = weights.ffn_norm;
  layer.q_norm = weights.q_norm;
  layer.k_norm = weights.k_norm;
  if (bias_comes_last(part_, part_.o)) layer.o_bias = weights.o_bias;
  if (bias_comes_last(part_, part_.down)) layer.down_bias = weights.down_bias;
  return absl::OkStatus();
}

NormWeights LlamaModel::norm(const std::vector<float>& weight) const {
  return {.weight = weight, .eps = static_cast<float>(spec_.norm_eps)};
}

void LlamaModel::launch(const StepBatch& batch, const LayerListener& on_layer, const LogitRows& logits) {
  BATON_CHECK(batch.rows() >= 1 && batch.rows() <= options_.max_rows);
  rows_ = batch.rows();
  logit_rows_ = static_cast<int32_t>(batch.logit_rows.size());
  kernels::DeviceBackend* const on_device = kernels::device_backend(&backend_);
  const LayerListener nobody;  // yet: finish() tells of a device's layers
  const LayerListener& told = on_device != nullptr ? nobody : on_layer;
  backend_.begin_step(batch);
  backend_.run_together([&] {
    begin_rows();
    for (int i = 0; i < spec_.layers; ++i) run_layer(i, told);
    finish_rows(logits);
  });
  if (on_device != nullptr) on_device->launch_step();
}

absl::Status LlamaModel::finish(const LayerListener& on_layer) {
  kernels::DeviceBackend* const on_device = kernels::device_backend(&backend_);
  const bool told_later = on_device != nullptr && on_layer != nullptr;
  // On a device the layers have only been asked for: each is told when it is there, while later ones compute.
  int told = 0;
  while (told_later && told < spec_.layers && on_device->device().await_stored(told)) on_layer(told++);
  RETURN_IF_ERROR(backend_.finish_step());
  for (; told_later && told < spec_.layers; ++told) on_layer(told);
  return options_.links == nullptr ? absl::OkStatus() : options_.links->status();
}

void LlamaModel::begin_rows() {
  if (part_.first_stage()) return backend_.embed(*embedding_, residual_);
  backend_.alone([&] { options_.links->receive({residual_, rows_ * static_cast<size_t>(spec_.hidden)}); });
}

void LlamaModel::finish_rows(const LogitRows& logits) {
  if (!part_.last_stage())
    return backend_.alone(
        [&] { options_.links->send_on({residual_, rows_ * static_cast<size_t>(spec_.hidden)}); });
  if (logit_rows_ > 0) backend_.head(norm(final_norm_), *head_, residual_, logits);
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
  int64_t rows = rows_;
  if (part_.last_stage() && index + 1 == spec_.layers) {
    if (!keep_logit_rows()) return;
    rows = logit_rows_;
  }
  add_product({part_.o, *layer.o, layer.o_bias, attention_, spec_.q_width()}, rows);
  const NormWeights ffn_norm = norm(layer.ffn_norm);
  if (part_.shape.tensor == 1)
    return backend_.feed_forward(ffn_norm, *layer.gate_up, *layer.down, residual_, activated_);
  backend_.gate_up(ffn_norm, *layer.gate_up, residual_, activated_);
  add_product({part_.down, *layer.down, layer.down_bias, activated_, spec_.ffn}, rows);
}

void LlamaModel::add_product(const SplitProduct& product, int64_t rows) {
  if (part_.shape.tensor == 1) return backend_.linear_add(product.matrix, product.inputs, residual_);
  return product.part.by == SplitBy::kInputs ? add_sums(product, rows) : add_outputs(product, rows);
}

// The ranks' sub-trees meet in the upper part of the tree of one rank; then bias and residual, once.
void LlamaModel::add_sums(const SplitProduct& product, int64_t rows) {
  backend_.linear_part(product.matrix, product.inputs, partial_);
  backend_.alone([&] { options_.links->sum({partial_, static_cast<size_t>(rows * spec_.hidden)}); });
  backend_.add_rows({rows, spec_.hidden, partial_, product.bias, residual_});
}

// Everyone has all inputs and computes some outputs as one rank would; their bias is in the matrix.
void LlamaModel::add_outputs(const SplitProduct& product, int64_t rows) {
  gather_rows(product.inputs, rows, product.width);
  backend_.linear_part(product.matrix, joined_, partial_);
  gather_rows(partial_, rows, product.matrix.rows());
  backend_.add_rows({rows, spec_.hidden, joined_, {}, residual_});
}

// joined_[rows][tensor * width] = the ranks' [rows][width] side by side.
void LlamaModel::gather_rows(const float* mine, int64_t rows, int64_t width) {
  const auto size = static_cast<size_t>(rows * width);
  const int tensor = part_.shape.tensor;
  backend_.alone([&] { options_.links->gather({mine, size}, {gathered_, tensor * size}); });
  backend_.join_rows({tensor, rows, width, gathered_, joined_});
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
  size_t bytes = head_ != nullptr ? head_->bytes() : 0;
  for (const Layer& layer : layers_)
    bytes += layer.qkv->bytes() + layer.o->bytes() + layer.gate_up->bytes() + layer.down->bytes();
  return bytes;
}

}  // namespace baton::worker
