// Times engine steps of a model's shape through the Backend interface, with random weights: no model file, no
// server. One layer's weights serve all layers (they are larger than any cache); the KV pool has all of them.
// Prints one JSON object a line: shape, batch, context, median and best milliseconds, bytes and operations of
// a step, and what they make per second. Works on every device, so the program itself is tested without a
// GPU:
//   gpu_step_benchmark --device cuda --shape qwen3-8b --batch 1,8,64 --context 1024
//   gpu_step_benchmark --device cuda --shape qwen3-8b --prefill 2048
//   gpu_step_benchmark --device cuda --check 600     the kernels against the reference, no
//   times
//   gpu_step_benchmark --device cuda --shape qwen3-8b --tune FILE     makes the table for numerics invariant;
//   --algorithms FILE runs with it
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/rng.h"
#include "kernels/backend.h"
#include "kernels/cuda_library.h"
#include "kernels/device_options.h"
#include "kernels/float16.h"
#include "kernels/self_check.h"

namespace baton {
namespace {

using namespace kernels;

struct ModelShape {
  int layers, hidden, heads, kv_heads, head_dim, ffn, vocab;
};
const std::map<std::string, ModelShape> kShapes = {
    {"qwen3-8b", {36, 4096, 32, 8, 128, 12288, 151936}},
    {"llama-8b", {32, 4096, 32, 8, 128, 14336, 128256}},
    {"llama-1b", {16, 2048, 32, 8, 64, 8192, 128256}},
    {"smollm2", {30, 576, 9, 3, 64, 1536, 49152}},
    {"tiny", {2, 64, 4, 2, 16, 96, 160}},
};

constexpr int kHeadSizes[] = {64, 128, 48};  // that --check tries

struct Options {
  std::string device = "cuda", shape = "tiny";
  Numerics numerics = Numerics::kBrainDots;
  DeviceOptions more;
  absl::StatusOr<std::unique_ptr<Backend>> backend() const {
    return make_device_backend({.device = device, .threads = 2, .numerics = numerics}, more);
  }
  std::vector<int> batches;
  int context = 1024, prefill = 0, repetitions = 7, check = 0;
  std::string tune;  // file to be written
};

class StepModel {
 public:
  StepModel(const Options& options, int max_rows, int sequences, int positions)
      : shape_(kShapes.at(options.shape)), rows_(max_rows) {
    auto made = options.backend();
    if (!made.ok()) fail(made.status());
    backend_ = *std::move(made);
    const int q = shape_.heads * shape_.head_dim, kv = shape_.kv_heads * shape_.head_dim;
    qkv_ = linear({{q, shape_.hidden}, {kv, shape_.hidden}, {kv, shape_.hidden}});
    o_ = linear({{shape_.hidden, q}}, k_shards_for(shape_.kv_heads, q));
    gate_up_ = linear({{shape_.ffn, shape_.hidden}, {shape_.ffn, shape_.hidden}});
    down_ = linear({{shape_.hidden, shape_.ffn}}, k_shards_for(shape_.kv_heads, shape_.ffn));
    head_ = linear({{shape_.vocab, shape_.hidden}});
    auto embedding = backend_->make_embedding(table_);
    if (!embedding.ok()) fail(embedding.status());
    embedding_ = *std::move(embedding);
    attach(sequences, positions);
    residual_ = backend_->allocate(size_t(rows_) * shape_.hidden);
    qkv_rows_ = backend_->allocate(size_t(rows_) * (q + 2 * kv));
    attention_ = backend_->allocate(size_t(rows_) * q);
    hidden_ = backend_->allocate(size_t(rows_) * shape_.ffn);
    norm_.assign(shape_.hidden, 1.0f);
    logits_.resize(size_t(sequences) * shape_.vocab);
  }

  // `rows` rows of each of `sequences`, the first at `position`; one logit row each. Seconds.
  double step(int sequences, int rows, int position) {
    std::vector<TokenId> tokens;
    std::vector<int32_t> positions, logit_rows;
    std::vector<SequenceRows> batch;
    for (int s = 0; s < sequences; ++s) {
      batch.push_back({static_cast<int32_t>(tokens.size()), rows, position, blocks_[s]});
      for (int i = 0; i < rows; ++i)
        tokens.push_back((s + i) % shape_.vocab), positions.push_back(position + i);
      logit_rows.push_back(static_cast<int32_t>(tokens.size()) - 1);
    }
    // Greedy tokens where the backend draws, as in serving: logits of 256 rows would be 150 MB to copy.
    const std::vector<DrawRow> draws(backend_->draws() ? logit_rows.size() : 0, DrawRow{.wanted = 1});
    const auto begun = std::chrono::steady_clock::now();
    backend_->begin_step({.tokens = tokens,
                          .positions = positions,
                          .sequences = batch,
                          .logit_rows = logit_rows,
                          .draws = draws,
                          .awaits_layers = false});
    backend_->run_together([&] { operations(rows > 1); });
    const absl::Status status = backend_->finish_step();
    if (!status.ok()) fail(status);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  }

  std::string description() const { return backend_->description(); }
  std::string numerics() const { return backend_->numerics_id(KvType::kBF16); }
  double layer_bytes() const {
    return double(qkv_->bytes()) + o_->bytes() + gate_up_->bytes() + down_->bytes();
  }
  double weights() const {
    const auto cells = [](const Linear& l) { return double(l.rows()) * double(l.cols()); };
    return (cells(*qkv_) + cells(*o_) + cells(*gate_up_) + cells(*down_)) * shape_.layers + cells(*head_);
  }
  double weight_bytes() const { return layer_bytes() * shape_.layers + head_->bytes(); }
  double kv_bytes(double positions) const {
    return positions * 4 * shape_.kv_heads * shape_.head_dim * shape_.layers;
  }

 private:
  [[noreturn]] static void fail(const absl::Status& status) {
    std::fprintf(stderr, "gpu_step_benchmark: %s\n", std::string(status.message()).c_str());
    std::exit(1);
  }

  std::unique_ptr<Linear> linear(const std::vector<std::pair<int, int>>& parts, int k_shards = 1) {
    LinearSpec spec;
    spec.k_shards = k_shards;
    for (const auto& [rows, cols] : parts) {
      auto& values = *weights_.emplace_back(std::make_unique<std::vector<uint16_t>>(size_t(rows) * cols));
      Rng random(weights_.size());
      for (size_t i = 0; i < values.size(); i += 4) {  // small and random: zeros would flatter
        const uint64_t bits = random.next();
        for (size_t j = i; j < std::min(i + 4, values.size()); ++j)
          values[j] = static_cast<uint16_t>((bits >> 16 * (j - i) & 0x80ff) | 0x3c00);
      }
      spec.parts.push_back({DType::kBF16, reinterpret_cast<const std::byte*>(values.data()), rows, cols});
    }
    table_ = spec.parts[0];
    auto made = backend_->make_linear(spec);
    if (!made.ok()) fail(made.status());
    return *std::move(made);
  }

  void attach(int sequences, int positions) {
    AttentionSpec attention = {shape_.heads, shape_.kv_heads, shape_.head_dim,
                               1 / std::sqrt(float(shape_.head_dim))};
    RopeSpec rope;
    for (int i = 0; i < shape_.head_dim / 2; ++i)
      rope.inv_freq.push_back(std::pow(1e6, -2.0 * i / shape_.head_dim));
    rope.max_positions = positions;
    const int each = (positions + 63) / 64;
    KvGeometry geometry = {shape_.layers, shape_.kv_heads,          shape_.head_dim, 64,
                           KvType::kBF16, int64_t{each} * sequences};
    blocks_.resize(sequences);
    for (int b = 0; b < each * sequences; ++b) blocks_[b % sequences].push_back(BlockId(b));  // scattered
    absl::Status status = backend_->set_attention(attention, rope);
    if (status.ok()) {
      pool_.resize(backend_->in_host_memory() ? geometry.pool_bytes() : 64);
      status = backend_->attach_kv(pool_, geometry);
    }
    if (!status.ok()) fail(status);
  }

  void operations(bool prompt) {
    const NormWeights norm = {norm_, 1e-5f};
    backend_->embed(*embedding_, residual_);
    for (int l = 0; l < shape_.layers; ++l) {
      backend_->norm_linear(norm, *qkv_, residual_, qkv_rows_);
      backend_->rope_store(l, nullptr, nullptr, qkv_rows_);
      backend_->attention(l, qkv_rows_, attention_);
      if (prompt && l + 1 == shape_.layers) {
        const RowTensor kept[] = {{residual_, shape_.hidden},
                                  {attention_, int64_t{shape_.heads} * shape_.head_dim}};
        backend_->keep_logit_rows(kept);
      }
      backend_->linear_add(*o_, attention_, residual_);
      backend_->feed_forward(norm, *gate_up_, *down_, residual_, hidden_);
    }
    backend_->head(norm, *head_, residual_, {.values = logits_.data()});
  }

  const ModelShape shape_;
  const int rows_;
  std::vector<std::unique_ptr<std::vector<uint16_t>>> weights_;
  std::vector<std::byte> pool_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Linear> qkv_, o_, gate_up_, down_, head_;
  std::unique_ptr<Embedding> embedding_;
  WeightView table_;
  std::vector<std::vector<BlockId>> blocks_;
  float *residual_, *qkv_rows_, *attention_, *hidden_;
  std::vector<float> norm_, logits_;
};

void report(const Options& o, StepModel& model, int sequences, int rows) {
  const int position = rows == 1 ? o.context - 1 : 0;
  for (int i = 0; i < 3; ++i) model.step(sequences, rows, position);  // runs, records, replays once
  std::vector<double> seconds;
  for (int i = 0; i < o.repetitions; ++i) seconds.push_back(model.step(sequences, rows, position));
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2],
               bytes = model.weight_bytes() + model.kv_bytes(double(sequences) * o.context);
  const double operations = 2 * model.weights() * sequences * rows;  // attention not counted
  std::printf(
      "{\"device\": \"%s\", \"shape\": \"%s\", \"numerics\": \"%s\", \"sequences\": %d, \"rows\": %d, "
      "\"context\": %d, "
      "\"median_ms\": %.4f, \"best_ms\": %.4f, \"tok_s\": %.1f, \"step_gb\": %.3f, \"gb_s\": %.1f, "
      "\"tflop_s\": %.2f}\n",
      model.description().c_str(), o.shape.c_str(), model.numerics().c_str(), sequences, rows,
      rows == 1 ? o.context : rows, median * 1e3, seconds[0] * 1e3, sequences * rows / median, bytes / 1e9,
      rows == 1 ? bytes / median / 1e9 : 0.0, operations / median / 1e12);
}

// The products of the shape, and of --check.
std::vector<LinearSpec> linears_of(const ModelShape& m) {
  const auto view = [](int rows, int cols) {
    return WeightView{.type = DType::kBF16, .rows = rows, .cols = cols};
  };
  const int q = m.heads * m.head_dim, kv = m.kv_heads * m.head_dim;
  std::vector<LinearSpec> out = {
      {.parts = {view(q, m.hidden), view(kv, m.hidden), view(kv, m.hidden)}},
      {.parts = {view(m.hidden, q)}, .k_shards = k_shards_for(m.kv_heads, q)},
      {.parts = {view(m.ffn, m.hidden), view(m.ffn, m.hidden)}},
      {.parts = {view(m.hidden, m.ffn)}, .k_shards = k_shards_for(m.kv_heads, m.ffn)},
      {.parts = {view(m.vocab, m.hidden)}}};
  for (const int head_dim : kHeadSizes)
    for (const LinearSpec& linear : self_check_linears(head_dim)) out.push_back(linear);
  return out;
}

int make_table(const Options& o) {
  const auto table = tune_cuda(
      {.device = o.device,
       .linears = linears_of(kShapes.at(o.shape)),
       .most_rows = 8192,
       .said = [](std::string_view line) { std::printf("%.*s\n", int(line.size()), line.data()); }});
  if (!table.ok())
    return std::fprintf(stderr, "gpu_step_benchmark: %s\n", std::string(table.status().message()).c_str()), 1;
  std::ofstream out(o.tune, std::ios::binary);
  return out << *table && out.flush() ? 0 : 1;
}

// Each head size that has kernels of its own, and one that has not.
int check_kernels(const Options& o) {
  int failed = 0;
  for (const int head_dim : kHeadSizes) {
    auto made = o.backend();
    const absl::Status status =
        made.ok() ? check_against_reference(
                        **made, {head_dim, KvType::kBF16, o.numerics != Numerics::kFastest, o.check})
                  : made.status();
    if (!status.ok()) ++failed;
    std::printf("{\"check\": \"head size %d, %s\", \"ok\": %s}\n", head_dim,
                made.ok() ? (*made)->numerics_id(KvType::kBF16).c_str() : "", status.ok() ? "true" : "false");
    if (!status.ok()) std::fprintf(stderr, "gpu_step_benchmark: %s\n", std::string(status.message()).c_str());
  }
  return failed == 0 ? 0 : 1;
}

std::vector<int> numbers(const std::string& text) {
  std::vector<int> out;
  std::istringstream in(text);
  for (std::string n; std::getline(in, n, ',');) out.push_back(std::stoi(n));
  return out;
}

int run(int count, char** arguments) {
  Options o;
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string key = arguments[i], value = arguments[i + 1];
    if (key == "--device") o.device = value;
    if (key == "--shape") o.shape = value;
    if (key == "--batch") o.batches = numbers(value);
    if (key == "--context") o.context = std::stoi(value);
    if (key == "--prefill") o.prefill = std::stoi(value);
    if (key == "--check") o.check = std::stoi(value);
    if (key == "--repetitions") o.repetitions = std::stoi(value);
    if (key == "--tune") o.tune = value;
    if (key == "--algorithms") o.more.algorithms = value;
    if (key == "--quantization" && value == "fp8") o.more.quantization = Quantization::kFp8;
    if (key == "--numerics" && value == "fastest") o.numerics = Numerics::kFastest;
  }
  if (!kShapes.contains(o.shape))
    return std::fprintf(stderr, "gpu_step_benchmark: no shape %s\n", o.shape.c_str()), 2;
  if (!o.tune.empty()) return make_table(o);
  if (o.check > 0) return check_kernels(o);
  int most = 1;
  for (const int b : o.batches) most = std::max(most, b);
  StepModel model(o, std::max(most, o.prefill), most, std::max(o.context, o.prefill));
  for (const int b : o.batches) report(o, model, b, 1);
  if (o.prefill > 0) report(o, model, 1, o.prefill);
  return 0;
}

}  // namespace
}  // namespace baton

int main(int count, char** arguments) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // what a later failure must not take along
  return baton::run(count, arguments);
}
