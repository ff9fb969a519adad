#pragma once

#include <array>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/backend.h"

namespace baton::benchmarks {

// The shape of a Llama-family model.
struct Shape {
  int layers = 30;
  int hidden = 576;
  int heads = 9;
  int kv_heads = 3;
  int head_dim = 64;
  int ffn = 1536;
  int vocabulary = 49152;
  DType layer_type = DType::kQ4_1;
  DType head_type = DType::kQ8_0;
  kernels::Numerics numerics = kernels::Numerics::kFloat;
  bool operator==(const Shape&) const = default;
};
inline constexpr Shape kSmolLm2 = {};  // SmolLM2-135M as its Q4_1 file is

// Random weights (never zeros) of `rows` x `cols`.
std::vector<std::byte> random_weights(DType type, int64_t rows, int64_t cols);

enum Operation : uint8_t { kQkv, kRope, kAttention, kOutput, kFeedForward, kHead, kOperations };
inline constexpr std::string_view kOperationNames[] = {"qkv",    "rope",         "attention",
                                                       "output", "feed_forward", "head"};

// A model of random weights that does the operations of a step in their order. Every layer has memory of its
// own.
class SyntheticModel {
 public:
  SyntheticModel(const Shape& shape, int threads, int max_rows);

  // One step: `sequences` sequences of `rows` rows each at position `first_position`; logits of each one's
  // last row.
  void step(int sequences, int rows, int first_position);

  kernels::Backend& backend() { return *backend_; }
  const kernels::KvGeometry& geometry() const { return geometry_; }
  std::span<std::byte> pool() const { return {pool_.get(), geometry_.pool_bytes()}; }
  size_t layer_bytes() const;  // of the linears of all layers
  size_t head_bytes() const { return head_->bytes(); }
  // Multiply and add counted apart.
  double layer_ops() const;
  double head_ops() const { return 2.0 * shape_.vocabulary * shape_.hidden; }
  // Wall time spent in each operation by all steps so far, all layers together.
  const std::array<double, kOperations>& seconds() const { return seconds_; }

 private:
  struct Layer {
    std::unique_ptr<kernels::Linear> qkv, output, gate_up, down;
  };
  void make_layer();
  void make_batch(int sequences, int rows, int first_position);

  template <class Work>
  void timed(Operation operation, const Work& work);

  Shape shape_;
  std::array<double, kOperations> seconds_{};
  std::unique_ptr<kernels::Backend> backend_;
  std::vector<Layer> layers_;
  std::unique_ptr<kernels::Linear> head_;
  std::unique_ptr<kernels::Embedding> embedding_;
  std::vector<std::byte> table_;
  std::vector<float> norm_;
  kernels::KvGeometry geometry_;
  std::unique_ptr<std::byte[]> pool_;
  float *x_, *qkv_, *attended_, *hidden_, *logits_;
  std::vector<BlockId> blocks_;
  std::vector<TokenId> tokens_;
  std::vector<int32_t> positions_, logit_rows_;
  std::vector<kernels::SequenceRows> sequences_;
};

}  // namespace baton::benchmarks
