#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"

namespace baton::testing {

class GgufWriter;

struct RandomModelOptions {
  std::string architecture = "llama";  // llama, qwen2 (q, k, v biases), qwen3 (QK-norm)
  int64_t vocab = 160;
  int64_t hidden = 64;
  int64_t ffn = 96;
  int32_t layers = 2;
  int32_t heads = 4;
  int32_t kv_heads = 2;
  int32_t head_dim = 16;
  int64_t context = 512;
  double norm_eps = 1e-5;
  double rope_base = 10000.0;
  int32_t window = 0;
  bool tied = false;
  DType matrix = DType::kF32;     // of all attention and feed-forward matrices
  DType embedding = DType::kF32;  // of the table and the head
  std::vector<float> rope_freqs;  // [head_dim / 2] divisors, or empty
  uint64_t seed = 1;
};

// One tensor of such a model, under its GGUF name. Values are uniform: spread is their standard deviation in
// a matrix, their largest distance from the centre in a vector.
struct RandomTensor {
  std::string name;
  int64_t rows = 0;  // 0: a vector
  int64_t cols = 0;
  DType type = DType::kF32;
  double spread = 0;
  float centre = 0;
};
std::vector<RandomTensor> random_tensors(const RandomModelOptions& options);
// A seed of its own for every tensor, so that one tensor does not change when another is added.
uint64_t tensor_seed(uint64_t model_seed, std::string_view name);
// The metadata of the model's GGUF file.
void describe_model(const RandomModelOptions& options, GgufWriter& writer);

// A made-up model of the Llama family with uniform random weights, large enough that logits are not flat. Any
// shape and any weight format: F32, F16, BF16, Q8_0, Q4_0, Q4_1 are quantised here from the random values;
// for the other formats the blocks themselves are random. For tests and benchmarks; needs no file. Thread:
// one.
//   RandomModel model({.architecture = "qwen3", .head_dim = 32});
//   model.write_gguf(path);
//   model.values("blk.0.attn_q.weight");  // as a reader of the file must see them, row-major
class RandomModel {
 public:
  explicit RandomModel(const RandomModelOptions& options);

  const RandomModelOptions& options() const { return options_; }
  // What the stored bytes mean, under the tensor's GGUF name. Q and K rows of a llama model are in GGUF's
  // order (rotation pairs adjacent).
  const std::vector<float>& values(std::string_view name) const;
  bool has(std::string_view name) const { return tensors_.contains(std::string(name)); }

  bool write_gguf(const std::string& path) const;
  // config.json and model.safetensors; `config_extra` is JSON put into the config (", \"rope_scaling\":
  // {...}"). `shards` > 1 writes that many files and an index. Only for F32, F16 and BF16.
  bool write_hugging_face(const std::string& directory, const std::string& config_extra = "",
                          int shards = 1) const;
  std::string config_json(const std::string& extra) const;

 private:
  struct Tensor {
    int64_t rows = 0;  // 0: a vector
    int64_t cols = 0;
    DType type = DType::kF32;
    std::string stored;
    std::vector<float> values;
  };
  void add_matrix(const RandomTensor& matrix);
  void add_vector(const RandomTensor& vector);
  std::string hugging_face_bytes(const std::string& name, const Tensor& tensor) const;

  RandomModelOptions options_;
  std::map<std::string, Tensor> tensors_;  // by GGUF name
};

// The Hugging Face name of a GGUF tensor ("blk.3.attn_q.weight": "model.layers.3.self_attn.q_proj.weight").
std::string hugging_face_name(const std::string& gguf_name);

}  // namespace baton::testing
