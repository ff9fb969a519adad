#include "worker/model/stage_trial.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/weight_slice.h"
#include "worker/model/llama_model.h"
#include "worker/model/model_linears.h"
#include "worker/parallel/batch_rows.h"

namespace baton::worker {
namespace {

using kernels::LinearSpec;
using kernels::StepBatch;
using kernels::WeightView;

constexpr size_t kTrialBytes = size_t{16} << 20;
constexpr int64_t kPanelRows = 16;
constexpr size_t kLayerLinears = 4;  // of model_linears()
constexpr size_t kPoolAlignment = 4096;
constexpr int32_t kDecodeRows = 8;
constexpr int32_t kChunkRows = 32;
constexpr int64_t kDepth = 256;
constexpr int64_t kOwnBlocks = 8;  // of the sequences of a step together, beside those they share
// Of each kind, taking turns.
constexpr int kSteps = 8;

Duration median(std::vector<Duration> times) {
  const auto middle = times.begin() + static_cast<ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

// The first layers of the shard as a model of one stage. It has to have a head, which no step here asks for.
ModelShard some_layers(const ModelShard& shard, const kernels::Backend& backend) {
  ModelShard out = shard;
  std::vector<LayerWeights>& layers = out.weights.layers;
  const std::vector<LinearSpec> linears = model_linears(shard);  // layer after layer
  size_t bytes = 0, count = 0;
  for (; count < layers.size() && (count < 2 || bytes < kTrialBytes); ++count)
    for (size_t i = 0; i < kLayerLinears; ++i)
      bytes += backend.packed_bytes(linears[count * kLayerLinears + i]);
  layers.resize(count);
  if (count == 1) layers.push_back(layers[0]);
  out.weights.head = kernels::rows_of(out.weights.embedding, 0, kPanelRows);
  out.spec.layers = static_cast<int32_t>(layers.size());
  out.part.shape = {.tensor = shard.part.shape.tensor, .pipeline = 1};
  out.part.rank = shard.part.place;
  out.part.stage = 0;
  out.part.layers = {0, out.spec.layers};
  out.part.vocab = {0, kPanelRows};
  return out;
}

struct FreePool {
  void operator()(std::byte* p) const { std::free(p); }
};

// One kind of step, and the best times so far.
struct TriedStep {
  BatchRows rows;
  std::vector<std::vector<BlockId>> tables;
  std::vector<Duration> layers;  // from each to the next one
  Duration rest = Duration::max();
  StepCost cost() const { return {.rows = rows.batch().rows(), .layer = median(layers), .rest = rest}; }
};

class StageTrial {
 public:
  StageTrial(kernels::Backend& backend, const StageTrialOptions& options)
      : backend_(backend), options_(options) {}

  absl::Status load(const ModelShard& shard);
  absl::Status run(StageTimes& out);

 private:
  absl::Status load_head(const WeightView& head);
  absl::Status take_pool();
  TriedStep lay_out(int32_t sequences, int32_t rows_each) const;
  absl::Status time(TriedStep& step);
  absl::Status time_layers(TriedStep& step);
  absl::Status time_rest(TriedStep& step);
  int64_t depth() const;

  kernels::Backend& backend_;
  const StageTrialOptions& options_;
  std::unique_ptr<std::byte, FreePool> pool_;
  std::unique_ptr<LlamaModel> model_;
  std::unique_ptr<kernels::Embedding> embedding_;
  double embedding_scale_ = 0;             // 1 where it counts: on the first stage
  std::unique_ptr<kernels::Linear> head_;  // on the last one
  double head_scale_ = 1;
  std::vector<float> head_norm_, logits_;
  float* rows_ = nullptr;        // [rows][hidden]
  std::vector<Instant> stored_;  // by layer, of one step
};

int64_t StageTrial::depth() const {
  return std::min(kDepth, options_.max_positions / 2) / options_.block_tokens * options_.block_tokens;
}

absl::Status StageTrial::load(const ModelShard& shard) {
  const LlamaModelOptions model{.max_rows = std::min(options_.max_rows, kChunkRows),
                                .max_positions = options_.max_positions,
                                .on_packed = options_.on_packed,
                                .links = options_.links};
  ASSIGN_OR_RETURN(model_, LlamaModel::create(some_layers(shard, backend_), backend_, model));
  ASSIGN_OR_RETURN(embedding_, backend_.make_embedding(shard.weights.embedding));
  if (shard.part.first_stage()) embedding_scale_ = 1;
  head_norm_ = shard.weights.final_norm;
  if (shard.part.last_stage()) RETURN_IF_ERROR(load_head(shard.weights.head));
  rows_ = backend_.allocate(static_cast<size_t>(model_->max_rows() * shard.spec.hidden));
  return take_pool();
}

absl::Status StageTrial::load_head(const WeightView& head) {
  const size_t bytes = backend_.packed_bytes({.parts = {head}, .bias = {}, .k_shards = 1});
  const double part = std::min(1.0, static_cast<double>(kTrialBytes) / static_cast<double>(bytes));
  const auto panels = static_cast<int64_t>(part * static_cast<double>(head.rows)) / kPanelRows;
  const WeightView some =
      part < 1 ? kernels::rows_of(head, 0, std::max<int64_t>(1, panels) * kPanelRows) : head;
  head_scale_ = static_cast<double>(head.rows) / static_cast<double>(some.rows);
  ASSIGN_OR_RETURN(head_, backend_.make_linear({.parts = {some}, .bias = {}, .k_shards = 1}));
  logits_.resize(static_cast<size_t>(kDecodeRows * some.rows));
  if (options_.on_packed != nullptr) options_.on_packed(some);
  return absl::OkStatus();
}

absl::Status StageTrial::take_pool() {
  const int64_t blocks = depth() / options_.block_tokens + kOwnBlocks;
  const auto geometry = kv_geometry(model_->spec(), options_.block_tokens, options_.kv, blocks);
  const size_t bytes = (geometry.pool_bytes() + kPoolAlignment - 1) / kPoolAlignment * kPoolAlignment;
  pool_.reset(static_cast<std::byte*>(std::aligned_alloc(kPoolAlignment, bytes)));
  if (pool_ == nullptr) return absl::ResourceExhaustedError("no memory for a trial of the stage");
  std::fill_n(pool_.get(), bytes, std::byte{0});
  return backend_.attach_kv({pool_.get(), geometry.pool_bytes()}, geometry);
}

// Sequences of depth() tokens, all with the same blocks so far.
TriedStep StageTrial::lay_out(int32_t sequences, int32_t rows_each) const {
  TriedStep out;
  out.tables.resize(sequences);
  out.layers.assign(model_->spec().layers - 1, Duration::max());
  const auto first = static_cast<int32_t>(depth());
  const int shared = first / options_.block_tokens;
  const int own = (rows_each + options_.block_tokens - 1) / options_.block_tokens;
  for (int32_t s = 0; s < sequences; ++s) {
    for (int b = 0; b < shared + own; ++b)
      out.tables[s].push_back(BlockId(static_cast<uint32_t>(b < shared ? b : b + s * own)));
    out.rows.sequences.push_back({s * rows_each, rows_each, first, out.tables[s]});
    for (int32_t row = 0; row < rows_each; ++row) {
      out.rows.tokens.push_back(static_cast<TokenId>((7 * s + 3 * row + 1) % model_->spec().vocab_size));
      out.rows.positions.push_back(first + row);
    }
  }
  return out;
}

absl::Status StageTrial::run(StageTimes& out) {
  const int32_t most = model_->max_rows();
  const auto room = static_cast<int32_t>(std::min<int64_t>(most, options_.max_positions - depth()));
  TriedStep decode = lay_out(std::min(kDecodeRows, most), 1), chunk = lay_out(1, room);
  for (int32_t row = 0; row < std::min(kDecodeRows, most); ++row) decode.rows.logit_rows.push_back(row);
  for (int step = 0; step < kSteps; ++step) {
    RETURN_IF_ERROR(time(decode));
    RETURN_IF_ERROR(time(chunk));
  }
  out.decode = decode.cost();
  out.chunk = chunk.cost();
  out.layers = model_->spec().layers;
  return absl::OkStatus();
}

absl::Status StageTrial::time(TriedStep& step) {
  RETURN_IF_ERROR(time_layers(step));
  return time_rest(step);
}

// From layer to layer, as a step of a longer stage passes them.
absl::Status StageTrial::time_layers(TriedStep& step) {
  StepBatch batch = step.rows.batch();
  batch.logit_rows = {};
  batch.awaits_layers = true;  // so that each layer is told when its KV is stored
  stored_.clear();
  RETURN_IF_ERROR(model_->forward(batch, [&](int) { stored_.push_back(options_.clock.now()); }, {}));
  BATON_CHECK(stored_.size() == step.layers.size() + 1);
  for (size_t i = 0; i < step.layers.size(); ++i)
    step.layers[i] = std::min(step.layers[i], stored_[i + 1] - stored_[i]);
  return absl::OkStatus();
}

absl::Status StageTrial::time_rest(TriedStep& step) {
  const StepBatch batch = step.rows.batch();
  const bool heads = head_ != nullptr && !batch.logit_rows.empty();
  Duration spent{};
  const auto timed = [&](const auto& work, double scale) -> absl::Status {
    const Instant begun = options_.clock.now();
    backend_.begin_step(batch);
    work();
    RETURN_IF_ERROR(backend_.finish_step());
    spent += from_seconds(scale * to_seconds(options_.clock.now() - begun));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(timed([&] { backend_.embed(*embedding_, rows_); }, embedding_scale_));
  const kernels::NormWeights norm = {.weight = head_norm_,
                                     .eps = static_cast<float>(model_->spec().norm_eps)};
  if (heads)
    RETURN_IF_ERROR(timed([&] { backend_.head(norm, *head_, rows_, {logits_.data()}); }, head_scale_));
  step.rest = std::min(step.rest, spent);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StageTimes> measure_stage(const ModelShard& shard, kernels::Backend& backend,
                                         const StageTrialOptions& options) {
  const Instant begun = options.clock.now();
  StageTrial trial(backend, options);
  RETURN_IF_ERROR(trial.load(shard));
  if (options.wait_for_others != nullptr) RETURN_IF_ERROR(options.wait_for_others());
  StageTimes out;
  RETURN_IF_ERROR(trial.run(out));
  out.took = options.clock.now() - begun;
  return out;
}

}  // namespace baton::worker
