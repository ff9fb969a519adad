#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "worker/model/model_spec.h"

namespace baton::worker {

// A tensor as a model file holds it, whichever the container. Borrowed from the mapped file.
struct StoredTensor {
  std::string_view name;
  std::optional<DType> type;   // empty: an element type that weights cannot have
  std::vector<int64_t> shape;  // slowest first: {rows, cols} or {size}
  const std::byte* data = nullptr;
  size_t bytes = 0;
  const float* block_scales = nullptr;  // of F8_E4M3 (kernels::WeightView)
};

// Matrices stay in the file (borrowed); norms and biases are small and kept as floats.
struct LayerWeights {
  kernels::WeightView q, k, v, o, gate, up, down;
  std::vector<float> attention_norm, ffn_norm;  // [hidden]
  std::vector<float> q_norm, k_norm;            // [head_dim], Qwen3
  std::vector<float> qkv_bias;                  // [qkv_width], or empty
  std::vector<float> o_bias, down_bias;         // [hidden], or empty
  std::vector<float> gate_up_bias;              // [2 ffn], or empty
};

struct ModelWeights {
  kernels::WeightView embedding;  // [vocab][hidden]
  kernels::WeightView head;       // the same view when tied
  std::vector<float> final_norm;  // [hidden]
  std::vector<LayerWeights> layers;
};

enum class WeightNames : uint8_t { kGguf, kHuggingFace };

// Gives every tensor its role by name and checks it against the spec: shapes, element types, nothing missing,
// nothing left over. Errors: "file: tensor: what".
absl::StatusOr<ModelWeights> bind_weights(const ModelSpec& spec, const std::string& file, WeightNames names,
                                          std::span<const StoredTensor> tensors);

}  // namespace baton::worker
