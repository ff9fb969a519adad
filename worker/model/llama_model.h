#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "kernels/backend.h"
#include "worker/model/model_shard.h"
#include "worker/parallel/rank_links.h"
#include "worker/schedule/step_plan.h"

namespace baton::worker {

struct LlamaModelOptions {
  int32_t max_rows = 0;       // rows of the largest step: activations are allocated for them
  int64_t max_positions = 0;  // longest sequence: size of the table of angles; 0 = the model's context
  // Called with each matrix that was repacked: its bytes in the file are not needed any more, except rows of
  // the embedding table.
  std::function<void(const kernels::WeightView&)> on_packed = nullptr;
  // To the ranks that hold the rest of the model; nullptr for a model of one rank.
  RankLinks* links = nullptr;
};

// Memory of a model before it is made, on this backend.
struct ModelMemory {
  size_t weights = 0;      // packed
  size_t activations = 0;  // of the largest step, the backend's scratch and the logits included; about right
};
ModelMemory model_memory(const ModelShard& shard, const kernels::Backend& backend, int32_t max_rows,
                         int32_t logit_rows);
ModelMemory model_memory(const ModelSpec& spec, const ModelWeights& weights, const kernels::Backend& backend,
                         int32_t max_rows, int32_t logit_rows);

// The forward pass of every model of the Llama family, driven by its spec over a backend: embedding; per
// layer norm + q,k,v, rotation and KV write, attention, output projection, norm + gated feed-forward; norm +
// head. One rank's part of it (docs/adr/0010): the ranks of a stage hold the same residual and meet after o
// and after down; the first stage embeds, the last one has the head, between two the residual is sent.
// Owns the packed weights and the activations. The model file, the backend and the links must outlive it;
// the backend's KV pool (of the rank's layers and KV heads) is attached by the owner of the pool, before the
// first forward(). Thread: engine. Errors: create() passes on what the backend refuses; forward() a device
// error or the links' status.
class LlamaModel {
 public:
  static absl::StatusOr<std::unique_ptr<LlamaModel>> create(ModelShard shard, kernels::Backend& backend,
                                                            LlamaModelOptions options);
  static absl::StatusOr<std::unique_ptr<LlamaModel>> create(const ModelSpec& spec,
                                                            const ModelWeights& weights,
                                                            kernels::Backend& backend,
                                                            LlamaModelOptions options);

  // logits[batch.logit_rows.size()][part().vocab.size()]: nothing but on the last stage. `on_layer(l)` is
  // called once per layer of this rank, counted from 0, as soon as the KV of all rows of the layer is in the
  // pool. Every rank of a group must be given the same batch.
  absl::Status forward(const kernels::StepBatch& batch, const LayerListener& on_layer,
                       const kernels::LogitRows& logits) {
    launch(batch, on_layer, logits);
    return finish(on_layer);
  }
  // The halves of it. With a DeviceBackend that feeds_back() a second step may be launched before the first
  // is finished; on a device finish() tells the layers. `logits` stay until then.
  void launch(const kernels::StepBatch& batch, const LayerListener& on_layer,
              const kernels::LogitRows& logits);
  absl::Status finish(const LayerListener& on_layer);

  // Of the rank: its layers, heads and feed-forward width; hidden and vocab_size of the whole model.
  const ModelSpec& spec() const { return spec_; }
  const ModelPart& part() const { return part_; }
  kernels::Backend& backend() { return backend_; }
  int32_t max_rows() const { return options_.max_rows; }
  int64_t max_positions() const { return options_.max_positions; }
  // Bytes of weights that one step reads (the embedding table, read by row, is not counted; the head is).
  size_t weight_bytes() const;

  // For traces of the computation. Inside on_layer(l): the residual stream before block l (the embedding for
  // l = 0) and block l's rotated q, k, v (of a
  // step in which a sequence has several rows). After forward(): the residual stream after the last block, of
  // the logit rows only, one after the other.
  std::span<const float> residual() const { return {residual_, options_.max_rows * size_t(spec_.hidden)}; }
  std::span<const float> qkv() const { return {qkv_, options_.max_rows * size_t(spec_.qkv_width())}; }

 private:
  struct Layer {
    std::unique_ptr<kernels::Linear> qkv, o, gate_up, down;
    std::vector<float> attention_norm, ffn_norm, q_norm, k_norm;
    std::vector<float> o_bias, down_bias;  // of partial sums, added when they have met
  };
  // residual[rows] += matrix(inputs), of which this rank has `width`.
  struct SplitProduct {
    const ProductPart& part;
    const kernels::Linear& matrix;
    const std::vector<float>& bias;
    const float* inputs;
    int64_t width;
  };

  LlamaModel(const ModelShard& shard, kernels::Backend& backend, LlamaModelOptions options)
      : spec_(shard.spec), part_(shard.part), backend_(backend), options_(options) {}
  absl::Status load(const ModelWeights& weights);
  absl::Status load_layer(const LayerWeights& weights, Layer& layer);
  absl::StatusOr<std::unique_ptr<kernels::Linear>> pack(const kernels::LinearSpec& spec);
  void allocate();
  void begin_rows();
  void run_layer(int index, const LayerListener& on_layer);
  void finish_rows(const kernels::LogitRows& logits);
  bool keep_logit_rows();
  void add_product(const SplitProduct& product, int64_t rows);
  void add_sums(const SplitProduct& product, int64_t rows);
  void add_outputs(const SplitProduct& product, int64_t rows);
  void gather_rows(const float* mine, int64_t rows, int64_t width);
  kernels::NormWeights norm(const std::vector<float>& weight) const;

  ModelSpec spec_;
  ModelPart part_;
  kernels::Backend& backend_;
  LlamaModelOptions options_;
  std::unique_ptr<kernels::Embedding> embedding_;
  std::vector<Layer> layers_;
  std::vector<float> final_norm_;
  std::unique_ptr<kernels::Linear> head_;
  int32_t rows_ = 0, logit_rows_ = 0;  // of the running step
  // Activations, [max_rows][...], memory of the backend.
  float* residual_ = nullptr;   // hidden
  float* qkv_ = nullptr;        // qkv_width
  float* attention_ = nullptr;  // q_width
  float* activated_ = nullptr;  // ffn
  // Of a rank that shares its layers with others.
  float* partial_ = nullptr;   // hidden: a product before the ranks have met
  float* gathered_ = nullptr;  // [tensor][rows][width]
  float* joined_ = nullptr;    // the widest gathered rows, side by side
};

}  // namespace baton::worker
