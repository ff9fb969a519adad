#include "benchmarks/micro/synthetic_model.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <random>

#include "base/check.h"
#include "kernels/dequantize.h"
#include "kernels/float16.h"

namespace baton::benchmarks {
namespace {

constexpr int kContext = 2048;
constexpr int kBlockTokens = 16;
constexpr int kMaxSequences = 32;

std::unique_ptr<kernels::Linear> linear(kernels::Backend& backend, DType type, const std::vector<int>& rows,
                                        int cols, int k_shards) {
  std::vector<std::vector<std::byte>> bytes;
  kernels::LinearSpec spec;
  spec.k_shards = k_shards;
  for (const int r : rows) {
    bytes.push_back(random_weights(type, r, cols));
    spec.parts.push_back({type, bytes.back().data(), r, cols});
  }
  auto made = backend.make_linear(spec);
  BATON_CHECK(made.ok());
  return *std::move(made);
}

}  // namespace

std::vector<std::byte> random_weights(DType type, int64_t rows, int64_t cols) {
  std::vector<std::byte> out(rows * kernels::row_bytes(type, cols).value());
  std::mt19937_64 random(static_cast<uint64_t>(rows * 1000003 + cols));
  if (type == DType::kF32) {
    for (size_t i = 0; i < out.size(); i += 4) {
      const float v = static_cast<float>(random() % 2001) * 1e-5f - 0.01f;
      std::memcpy(out.data() + i, &v, 4);
    }
    return out;
  }
  for (size_t i = 0; i < out.size(); i += 8) {
    const uint64_t word = random();
    std::memcpy(out.data() + i, &word, std::min<size_t>(8, out.size() - i));
  }
  const int size = traits_of(type).bytes;
  const bool late = type == DType::kQ6_K || type == DType::kQ2_K;  // the scale stands at the block's end
  for (size_t block = 0; block < out.size(); block += size) {
    const float v = 0.001f + static_cast<float>(random() % 1000) * 1e-6f;
    const uint16_t scale = type == DType::kBF16 ? kernels::float_to_bfloat16(v) : kernels::float_to_half(v);
    std::memcpy(out.data() + block + (late ? size - (type == DType::kQ2_K ? 4 : 2) : 0), &scale, 2);
    const bool has_second = type == DType::kQ4_1 || type == DType::kQ4_K || type == DType::kQ5_K;
    if (has_second) std::memcpy(out.data() + block + 2, &scale, 2);
    if (type == DType::kQ2_K) std::memcpy(out.data() + block + size - 2, &scale, 2);
  }
  return out;
}

SyntheticModel::SyntheticModel(const Shape& shape, int threads, int max_rows)
    : shape_(shape), norm_(shape.hidden, 1) {
  auto made = kernels::make_backend({.device = "cpu", .threads = threads, .numerics = shape.numerics});
  BATON_CHECK(made.ok());
  backend_ = *std::move(made);
  for (int i = 0; i < shape.layers; ++i) make_layer();
  head_ = linear(*backend_, shape.head_type, {shape.vocabulary}, shape.hidden, 1);
  table_ = random_weights(DType::kQ8_0, 256, shape.hidden);
  embedding_ = backend_->make_embedding({DType::kQ8_0, table_.data(), 256, shape.hidden}).value();
  kernels::RopeSpec rope;
  for (int i = 0; i < shape.head_dim / 2; ++i)
    rope.inv_freq.push_back(std::pow(1e5, -2.0 * i / shape.head_dim));
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  BATON_CHECK(backend_->set_attention({shape.heads, shape.kv_heads, shape.head_dim, scale, 0}, rope).ok());
  geometry_ = {shape.layers, shape.kv_heads,         shape.head_dim,
               kBlockTokens, kernels::KvType::kBF16, kMaxSequences * kContext / kBlockTokens};
  pool_ = std::make_unique_for_overwrite<std::byte[]>(geometry_.pool_bytes());
  BATON_CHECK(backend_->attach_kv(pool(), geometry_).ok());
  for (uint32_t b = 0; b < geometry_.blocks; ++b) blocks_.push_back(BlockId(b));
  x_ = backend_->allocate(max_rows * shape.hidden);
  qkv_ = backend_->allocate(max_rows * (shape.heads + 2 * shape.kv_heads) * shape.head_dim);
  attended_ = backend_->allocate(max_rows * shape.heads * shape.head_dim);
  hidden_ = backend_->allocate(max_rows * shape.ffn);
  logits_ = backend_->allocate(size_t{kMaxSequences} * shape.vocabulary);
}

void SyntheticModel::make_layer() {
  const int q = shape_.heads * shape_.head_dim, kv = shape_.kv_heads * shape_.head_dim;
  Layer layer;
  layer.qkv = linear(*backend_, shape_.layer_type, {q, kv, kv}, shape_.hidden, 1);
  layer.output =
      linear(*backend_, shape_.layer_type, {shape_.hidden}, q, kernels::k_shards_for(shape_.kv_heads, q));
  layer.gate_up = linear(*backend_, shape_.layer_type, {shape_.ffn, shape_.ffn}, shape_.hidden, 1);
  layer.down = linear(*backend_, shape_.layer_type, {shape_.hidden}, shape_.ffn,
                      kernels::k_shards_for(shape_.kv_heads, shape_.ffn));
  layers_.push_back(std::move(layer));
}

size_t SyntheticModel::layer_bytes() const {
  const Layer& l = layers_[0];
  return layers_.size() * (l.qkv->bytes() + l.output->bytes() + l.gate_up->bytes() + l.down->bytes());
}

double SyntheticModel::layer_ops() const {
  const Layer& l = layers_[0];
  double sum = 0;
  for (const kernels::Linear* linear : {l.qkv.get(), l.output.get(), l.gate_up.get(), l.down.get()})
    sum += 2.0 * static_cast<double>(linear->rows() * linear->cols());
  return sum * static_cast<double>(layers_.size());
}

void SyntheticModel::make_batch(int sequences, int rows, int first_position) {
  BATON_CHECK(sequences <= kMaxSequences && first_position + rows <= kContext);
  tokens_.clear();
  positions_.clear();
  logit_rows_.clear();
  sequences_.clear();
  constexpr int kBlocks = kContext / kBlockTokens;
  for (int s = 0; s < sequences; ++s) {
    const std::span<const BlockId> blocks(blocks_.data() + s * kBlocks, kBlocks);
    sequences_.push_back({s * rows, rows, first_position, blocks});
    for (int i = 0; i < rows; ++i) {
      tokens_.push_back((s * 31 + i * 7) % 256);
      positions_.push_back(first_position + i);
    }
    logit_rows_.push_back((s + 1) * rows - 1);
  }
}

void SyntheticModel::step(int sequences, int rows, int first_position) {
  make_batch(sequences, rows, first_position);
  backend_->begin_step({tokens_, positions_, sequences_, logit_rows_});
  backend_->run_together([&] {
    backend_->embed(*embedding_, x_);
    const kernels::NormWeights norm = {norm_, 1e-5f};
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& layer = layers_[i];
      const int index = static_cast<int>(i);
      timed(kQkv, [&] { backend_->norm_linear(norm, *layer.qkv, x_, qkv_); });
      timed(kRope, [&] { backend_->rope_store(index, nullptr, nullptr, qkv_); });
      timed(kAttention, [&] { backend_->attention(index, qkv_, attended_); });
      timed(kOutput, [&] { backend_->linear_add(*layer.output, attended_, x_); });
      timed(kFeedForward, [&] { backend_->feed_forward(norm, *layer.gate_up, *layer.down, x_, hidden_); });
    }
    timed(kHead, [&] { backend_->head(norm, *head_, x_, {.values = logits_}); });
  });
  BATON_CHECK(backend_->finish_step().ok());
}

template <class Work>
void SyntheticModel::timed(Operation operation, const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  if (!backend_->leads()) return;
  seconds_[operation] += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace baton::benchmarks
