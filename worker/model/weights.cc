#include "worker/model/weights.h"

#include <algorithm>
#include <cmath>

#include "absl/container/flat_hash_map.h"
#include "base/cat.h"
#include "kernels/dequantize.h"

namespace baton::worker {
namespace {

// The names of the roles in one container. A layer's tensors are prefix + number + "." + name + ".weight" or
// ".bias".
struct NameTable {
  std::string_view embedding, final_norm, head, layer_prefix;
  std::string_view attention_norm, q, k, v, o, q_norm, k_norm, ffn_norm, gate, up, down;
};
constexpr NameTable kGgufNames = {"token_embd.weight",
                                  "output_norm.weight",
                                  "output.weight",
                                  "blk.",
                                  "attn_norm",
                                  "attn_q",
                                  "attn_k",
                                  "attn_v",
                                  "attn_output",
                                  "attn_q_norm",
                                  "attn_k_norm",
                                  "ffn_norm",
                                  "ffn_gate",
                                  "ffn_up",
                                  "ffn_down"};
constexpr NameTable kHuggingFaceNames = {"model.embed_tokens.weight",
                                         "model.norm.weight",
                                         "lm_head.weight",
                                         "model.layers.",
                                         "input_layernorm",
                                         "self_attn.q_proj",
                                         "self_attn.k_proj",
                                         "self_attn.v_proj",
                                         "self_attn.o_proj",
                                         "self_attn.q_norm",
                                         "self_attn.k_norm",
                                         "post_attention_layernorm",
                                         "mlp.gate_proj",
                                         "mlp.up_proj",
                                         "mlp.down_proj"};

// Tensors that files carry although they are computed or taken elsewhere.
bool may_be_left_over(const ModelSpec& spec, WeightNames names, std::string_view name) {
  if (names == WeightNames::kGguf) return name == "rope_freqs.weight";  // read by spec_from_gguf
  return name.ends_with(".rotary_emb.inv_freq") || (spec.tied_head && name == kHuggingFaceNames.head);
}

class Binder {
 public:
  Binder(const std::string& file, std::span<const StoredTensor> tensors) : file_(file), tensors_(tensors) {
    for (size_t i = 0; i < tensors.size(); ++i) index_.emplace(std::string(tensors[i].name), i);
    used_.resize(tensors.size(), false);
  }

  absl::Status refuse(std::string_view tensor, std::string_view what) const {
    return absl::InvalidArgumentError(cat(file_, ": ", tensor, ": ", what));
  }

  absl::Status matrix(const std::string& name, int64_t rows, int64_t cols, kernels::WeightView& out) {
    ASSIGN_OR_RETURN(const StoredTensor* tensor, take(name, {rows, cols}));
    out = {.type = *tensor->type,
           .data = tensor->data,
           .rows = rows,
           .cols = cols,
           .block_scales = tensor->block_scales};
    if (absl::Status status = kernels::check_weight(out); !status.ok())
      return refuse(name, std::string_view(status.message().data(), status.message().size()));
    return absl::OkStatus();
  }

  // Appends, so that the biases of stacked matrices land in one vector.
  absl::Status vector(const std::string& name, int64_t size, std::vector<float>& out) {
    ASSIGN_OR_RETURN(const StoredTensor* tensor, take(name, {size}));
    if (traits_of(*tensor->type).elements != 1 || *tensor->type == DType::kF8E4M3)
      return refuse(name, "want F32, F16 or BF16 for a norm or bias");
    const size_t start = out.size();
    out.resize(start + size);
    const auto values = std::span(out).subspan(start);
    kernels::dequantize_row(*tensor->type, tensor->data, values);
    if (!std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }))
      return refuse(name, "a value is infinite or not a number: the file is damaged");
    return absl::OkStatus();
  }

  absl::Status nothing_left(const ModelSpec& spec, WeightNames names) const {
    for (size_t i = 0; i < tensors_.size(); ++i)
      if (!used_[i] && !may_be_left_over(spec, names, tensors_[i].name))
        return refuse(tensors_[i].name.substr(0, 100),
                      cat("is no part of a ", spec.architecture, " model of ", spec.layers, " layers"));
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<const StoredTensor*> take(const std::string& name, const std::vector<int64_t>& shape) {
    const auto it = index_.find(name);
    if (it == index_.end()) return refuse(name, "the tensor is missing");
    used_[it->second] = true;
    const StoredTensor& tensor = tensors_[it->second];
    if (!tensor.type) return refuse(name, "its element type is not supported for weights");
    if (tensor.shape != shape)
      return refuse(name, cat("shape [", dims(tensor.shape), "], want [", dims(shape), "]"));
    return &tensor;
  }
  static std::string dims(const std::vector<int64_t>& shape) {
    std::string out;
    for (const int64_t dim : shape) out += (out.empty() ? "" : ", ") + std::to_string(dim);
    return out;
  }

  const std::string& file_;
  std::span<const StoredTensor> tensors_;
  absl::flat_hash_map<std::string, size_t> index_;
  std::vector<bool> used_;
};

absl::Status bind_layer_matrices(Binder& binder, const ModelSpec& spec, const NameTable& names,
                                 const std::string& prefix, LayerWeights& layer) {
  struct Entry {
    std::string_view name;
    int64_t rows, cols;
    kernels::WeightView* out;
  };
  const Entry entries[] = {
      {names.q, spec.q_width(), spec.hidden, &layer.q},  {names.k, spec.kv_width(), spec.hidden, &layer.k},
      {names.v, spec.kv_width(), spec.hidden, &layer.v}, {names.o, spec.hidden, spec.q_width(), &layer.o},
      {names.gate, spec.ffn, spec.hidden, &layer.gate},  {names.up, spec.ffn, spec.hidden, &layer.up},
      {names.down, spec.hidden, spec.ffn, &layer.down},
  };
  for (const Entry& e : entries)
    RETURN_IF_ERROR(binder.matrix(cat(prefix, e.name, ".weight"), e.rows, e.cols, *e.out));
  return absl::OkStatus();
}

absl::Status bind_layer_vectors(Binder& binder, const ModelSpec& spec, const NameTable& names,
                                const std::string& prefix, LayerWeights& layer) {
  const auto norm = [&](std::string_view name, int64_t size, std::vector<float>& out) {
    return binder.vector(cat(prefix, name, ".weight"), size, out);
  };
  const auto bias = [&](bool present, std::string_view name, int64_t size, std::vector<float>& out) {
    return present ? binder.vector(cat(prefix, name, ".bias"), size, out) : absl::OkStatus();
  };
  RETURN_IF_ERROR(norm(names.attention_norm, spec.hidden, layer.attention_norm));
  RETURN_IF_ERROR(norm(names.ffn_norm, spec.hidden, layer.ffn_norm));
  if (spec.qk_norm) {
    RETURN_IF_ERROR(norm(names.q_norm, spec.head_dim, layer.q_norm));
    RETURN_IF_ERROR(norm(names.k_norm, spec.head_dim, layer.k_norm));
  }
  RETURN_IF_ERROR(bias(spec.qkv_bias, names.q, spec.q_width(), layer.qkv_bias));
  RETURN_IF_ERROR(bias(spec.qkv_bias, names.k, spec.kv_width(), layer.qkv_bias));
  RETURN_IF_ERROR(bias(spec.qkv_bias, names.v, spec.kv_width(), layer.qkv_bias));
  RETURN_IF_ERROR(bias(spec.o_bias, names.o, spec.hidden, layer.o_bias));
  RETURN_IF_ERROR(bias(spec.mlp_bias, names.gate, spec.ffn, layer.gate_up_bias));
  RETURN_IF_ERROR(bias(spec.mlp_bias, names.up, spec.ffn, layer.gate_up_bias));
  return bias(spec.mlp_bias, names.down, spec.hidden, layer.down_bias);
}

}  // namespace

absl::StatusOr<ModelWeights> bind_weights(const ModelSpec& spec, const std::string& file, WeightNames names,
                                          std::span<const StoredTensor> tensors) {
  const NameTable& table = names == WeightNames::kGguf ? kGgufNames : kHuggingFaceNames;
  Binder binder(file, tensors);
  ModelWeights weights;
  RETURN_IF_ERROR(
      binder.matrix(std::string(table.embedding), spec.vocab_size, spec.hidden, weights.embedding));
  weights.head = weights.embedding;
  if (!spec.tied_head)
    RETURN_IF_ERROR(binder.matrix(std::string(table.head), spec.vocab_size, spec.hidden, weights.head));
  RETURN_IF_ERROR(binder.vector(std::string(table.final_norm), spec.hidden, weights.final_norm));
  weights.layers.resize(spec.layers);
  for (int32_t i = 0; i < spec.layers; ++i) {
    const std::string prefix = cat(table.layer_prefix, i, ".");
    RETURN_IF_ERROR(bind_layer_matrices(binder, spec, table, prefix, weights.layers[i]));
    RETURN_IF_ERROR(bind_layer_vectors(binder, spec, table, prefix, weights.layers[i]));
  }
  RETURN_IF_ERROR(binder.nothing_left(spec, names));
  return weights;
}

}  // namespace baton::worker
