// ModelSpec from GGUF metadata (ggml docs/gguf.md, llama.cpp gguf-py/gguf/constants.py).
#include <cmath>
#include <cstring>

#include "base/cat.h"
#include "kernels/dequantize.h"
#include "worker/model/model_spec.h"

namespace baton::worker {
namespace {

// Reads the keys of one architecture: integer("block_count") is "llama.block_count".
class GgufKeys {
 public:
  GgufKeys(const GgufFile& file, std::string_view architecture)
      : file_(file), prefix_(cat(architecture, ".")) {}

  std::string full(std::string_view key) const { return prefix_ + std::string(key); }
  bool has(std::string_view key) const { return file_.find(full(key)) != nullptr; }
  absl::Status refuse(std::string_view key, std::string_view what) const {
    return absl::InvalidArgumentError(cat(file_.path(), ": ", full(key), ": ", what));
  }

  // Into `out`, which keeps its value when the key is absent; wrongly typed or out of int32 range is refused.
  template <class Int>
  absl::Status integer(std::string_view key, Int& out) const {
    if (!has(key)) return absl::OkStatus();
    const auto value = file_.integer(full(key));
    if (!value) return refuse(key, "want one integer");
    if (*value < 0 || *value > INT32_MAX) return refuse(key, cat(*value, " is out of range"));
    out = static_cast<Int>(*value);
    return absl::OkStatus();
  }
  template <class Int>
  absl::Status required(std::string_view key, Int& out) const {
    if (!has(key)) return refuse(key, "the key is missing");
    return integer(key, out);
  }
  absl::Status number(std::string_view key, double& out) const {
    if (!has(key)) return absl::OkStatus();
    const auto value = file_.number(full(key));
    if (!value || !std::isfinite(*value)) return refuse(key, "want a finite number");
    out = *value;
    return absl::OkStatus();
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

absl::Status read_sizes(const GgufKeys& keys, ModelSpec& spec) {
  RETURN_IF_ERROR(keys.required("block_count", spec.layers));
  RETURN_IF_ERROR(keys.required("embedding_length", spec.hidden));
  RETURN_IF_ERROR(keys.required("feed_forward_length", spec.ffn));
  RETURN_IF_ERROR(keys.required("attention.head_count", spec.heads));
  RETURN_IF_ERROR(keys.required("context_length", spec.context_tokens));
  if (!keys.has("attention.layer_norm_rms_epsilon"))
    return keys.refuse("attention.layer_norm_rms_epsilon", "the key is missing");
  RETURN_IF_ERROR(keys.number("attention.layer_norm_rms_epsilon", spec.norm_eps));
  spec.kv_heads = spec.heads;
  RETURN_IF_ERROR(keys.integer("attention.head_count_kv", spec.kv_heads));
  if (spec.heads < 1) return keys.refuse("attention.head_count", "want at least 1");
  if (!keys.has("attention.key_length") && spec.hidden % spec.heads != 0)
    return keys.refuse("embedding_length", "is no multiple of attention.head_count");
  spec.head_dim = static_cast<int32_t>(spec.hidden / spec.heads);
  RETURN_IF_ERROR(keys.integer("attention.key_length", spec.head_dim));
  int32_t value_length = spec.head_dim;
  RETURN_IF_ERROR(keys.integer("attention.value_length", value_length));
  if (value_length != spec.head_dim)
    return keys.refuse("attention.value_length", "differs from the key length: not supported");
  return keys.integer("attention.sliding_window", spec.window);
}

absl::Status read_scaling(const GgufFile& file, const GgufKeys& keys, RopeSettings& rope) {
  RETURN_IF_ERROR(keys.number("rope.freq_base", rope.base));
  RETURN_IF_ERROR(keys.integer("rope.dimension_count", rope.dims));
  double linear = 0;
  RETURN_IF_ERROR(keys.number("rope.scale_linear", linear));  // before rope.scaling.* existed
  const std::string type_key = keys.full("rope.scaling.type");
  std::string_view type = linear > 0 ? "linear" : "none";
  if (file.find(type_key) != nullptr) {
    const auto stored = file.string(type_key);
    if (!stored) return keys.refuse("rope.scaling.type", "want a string");
    type = *stored;
  }
  if (linear > 0) rope.factor = linear;
  RETURN_IF_ERROR(keys.number("rope.scaling.factor", rope.factor));
  if (type == "none") return absl::OkStatus();
  if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
    return absl::OkStatus();
  }
  if (type != "yarn")
    return absl::UnimplementedError(
        cat(file.path(), ": ", type_key, ": rope scaling of this type is not supported"));
  rope.scaling = RopeScaling::kYarn;
  double attention_factor = 1.0;
  RETURN_IF_ERROR(keys.integer("rope.scaling.original_context_length", rope.original_context));
  RETURN_IF_ERROR(keys.number("rope.scaling.attn_factor", attention_factor));
  RETURN_IF_ERROR(keys.number("rope.scaling.yarn_attn_factor", attention_factor));
  RETURN_IF_ERROR(keys.number("rope.scaling.yarn_beta_fast", rope.beta_fast));
  RETURN_IF_ERROR(keys.number("rope.scaling.yarn_beta_slow", rope.beta_slow));
  // llama.cpp: the key multiplies the paper's 0.1 ln(factor) + 1.
  rope.attention_factor = attention_factor * (rope.factor > 1 ? 1.0 + 0.1 * std::log(rope.factor) : 1.0);
  return absl::OkStatus();
}

absl::Status read_divisors(const GgufFile& file, RopeSettings& rope) {
  const GgufFile::Tensor* tensor = file.tensor("rope_freqs.weight");
  if (tensor == nullptr) return absl::OkStatus();
  if (tensor->type != DType::kF32 || tensor->dims.size() != 1 || tensor->dims[0] > 4096)
    return absl::InvalidArgumentError(cat(file.path(), ": rope_freqs.weight: want a short F32 vector"));
  std::vector<float> values(tensor->dims[0]);
  kernels::dequantize_row(tensor->type, tensor->data, values);
  rope.divisors.assign(values.begin(), values.end());
  return absl::OkStatus();
}

// Keys that change the arithmetic in ways this program does not know.
absl::Status refuse_unknown(const GgufFile& file, const GgufKeys& keys, std::string_view architecture) {
  if (architecture != "llama" && architecture != "qwen2" && architecture != "qwen3")
    return absl::UnimplementedError(cat(file.path(), ": general.architecture: \"",
                                        std::string(architecture.substr(0, 40)),
                                        "\" is not supported (known: llama, qwen2, qwen3)"));
  int64_t experts = 0;
  RETURN_IF_ERROR(keys.integer("expert_count", experts));
  if (experts > 0)
    return absl::UnimplementedError(cat(file.path(), ": ", keys.full("expert_count"), ": ", experts,
                                        ": mixture of experts is not supported"));
  if (file.integer("split.count").value_or(1) > 1)
    return absl::UnimplementedError(
        cat(file.path(), ": split.count: files in several parts are not supported"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelSpec> spec_from_gguf(const GgufFile& file) {
  const auto architecture = file.string("general.architecture");
  if (!architecture)
    return absl::InvalidArgumentError(cat(file.path(), ": general.architecture: missing or not a string"));
  const GgufKeys keys(file, *architecture);
  RETURN_IF_ERROR(refuse_unknown(file, keys, *architecture));
  ModelSpec spec;
  spec.architecture = std::string(*architecture);
  RETURN_IF_ERROR(read_sizes(keys, spec));
  const GgufFile::Tensor* embedding = file.tensor("token_embd.weight");
  if (embedding == nullptr || embedding->dims.size() != 2)
    return absl::InvalidArgumentError(cat(file.path(), ": token_embd.weight: missing or not a matrix"));
  spec.vocab_size = embedding->dims[1];
  int64_t vocab_key = spec.vocab_size;
  RETURN_IF_ERROR(keys.integer("vocab_size", vocab_key));
  if (vocab_key != spec.vocab_size)
    return keys.refuse("vocab_size",
                       cat(vocab_key, ", but token_embd.weight has ", spec.vocab_size, " rows"));
  spec.tied_head = file.tensor("output.weight") == nullptr;
  spec.qk_norm = spec.architecture == "qwen3";
  spec.qkv_bias = spec.architecture == "qwen2" || file.tensor("blk.0.attn_q.bias") != nullptr;
  spec.o_bias = file.tensor("blk.0.attn_output.bias") != nullptr;
  spec.mlp_bias = file.tensor("blk.0.ffn_gate.bias") != nullptr;
  // llama files carry q and k rows permuted for pairs (2i, 2i+1); the qwen families keep the halves apart.
  spec.rope.interleaved = spec.architecture == "llama";
  spec.rope.dims = spec.head_dim;
  spec.rope.original_context = spec.context_tokens;
  RETURN_IF_ERROR(read_scaling(file, keys, spec.rope));
  RETURN_IF_ERROR(read_divisors(file, spec.rope));
  if (spec.window >= spec.context_tokens) spec.window = 0;
  RETURN_IF_ERROR(check_spec(file.path(), spec));
  return spec;
}

}  // namespace baton::worker
