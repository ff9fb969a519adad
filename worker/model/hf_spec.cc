// ModelSpec from a Hugging Face config.json (transformers 4 and 5).
#include <boost/json.hpp>
#include <cmath>

#include "base/cat.h"
#include "worker/model/model_spec.h"

namespace baton::worker {
namespace {

namespace json = boost::json;

struct Family {
  std::string_view architecture;  // architectures[0]
  std::string_view name;
  bool qkv_bias;  // fixed by the class, whatever attention_bias says
  bool qk_norm;
};
constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", "llama", false, false},
    {"MistralForCausalLM", "mistral", false, false},
    {"Qwen2ForCausalLM", "qwen2", true, false},
    {"Qwen3ForCausalLM", "qwen3", false, true},
};

// Typed reading of one JSON object. Absent and null are the same: the value in `out` stays.
class ConfigKeys {
 public:
  ConfigKeys(const std::string& file, const json::object& object, std::string prefix = "")
      : file_(file), object_(object), prefix_(std::move(prefix)) {}

  const json::value* find(std::string_view key) const {
    const json::value* value = object_.if_contains(json::string_view(key.data(), key.size()));
    return value == nullptr || value->is_null() ? nullptr : value;
  }
  bool contains(std::string_view key) const {
    return object_.contains(json::string_view(key.data(), key.size()));
  }
  absl::Status refuse(std::string_view key, std::string_view what) const {
    return absl::InvalidArgumentError(cat(file_, ": ", prefix_, key, ": ", what));
  }
  absl::Status unsupported(std::string_view key, std::string_view what) const {
    return absl::UnimplementedError(cat(file_, ": ", prefix_, key, ": ", what));
  }
  template <class Int>
  absl::Status integer(std::string_view key, Int& out) const {
    const json::value* value = find(key);
    if (value == nullptr) return absl::OkStatus();
    if (!value->is_int64()) return refuse(key, "want an integer");
    if (value->get_int64() < 0 || value->get_int64() > INT32_MAX) return refuse(key, "is out of range");
    out = static_cast<Int>(value->get_int64());
    return absl::OkStatus();
  }
  template <class Int>
  absl::Status required(std::string_view key, Int& out) const {
    if (find(key) == nullptr) return refuse(key, "the key is missing");
    return integer(key, out);
  }
  absl::Status number(std::string_view key, double& out) const {
    const json::value* value = find(key);
    if (value == nullptr) return absl::OkStatus();
    if (value->is_double()) {
      out = value->get_double();
    } else if (value->is_int64()) {
      out = static_cast<double>(value->get_int64());
    } else {
      return refuse(key, "want a number");
    }
    return std::isfinite(out) ? absl::OkStatus() : refuse(key, "want a finite number");
  }
  absl::Status boolean(std::string_view key, bool& out) const {
    const json::value* value = find(key);
    if (value == nullptr) return absl::OkStatus();
    if (!value->is_bool()) return refuse(key, "want true or false");
    out = value->get_bool();
    return absl::OkStatus();
  }
  absl::Status text(std::string_view key, std::string& out) const {
    const json::value* value = find(key);
    if (value == nullptr) return absl::OkStatus();
    if (!value->is_string()) return refuse(key, "want a string");
    out = std::string(value->get_string().data(), value->get_string().size());
    return absl::OkStatus();
  }

 private:
  const std::string& file_;
  const json::object& object_;
  std::string prefix_;
};

absl::StatusOr<const Family*> find_family(const ConfigKeys& keys) {
  const json::value* list = keys.find("architectures");
  if (list == nullptr || !list->is_array() || list->get_array().empty() || !list->get_array()[0].is_string())
    return keys.refuse("architectures", "missing, or not a list of names");
  const auto& name = list->get_array()[0].get_string();
  const std::string_view wanted(name.data(), name.size());
  for (const Family& family : kFamilies)
    if (family.architecture == wanted) return &family;
  return keys.unsupported("architectures",
                          cat("\"", wanted.substr(0, 60),
                              "\" is not supported (known: LlamaForCausalLM, MistralForCausalLM, "
                              "Qwen2ForCausalLM, Qwen3ForCausalLM)"));
}

absl::Status read_sizes(const ConfigKeys& keys, const Family& family, ModelSpec& spec) {
  RETURN_IF_ERROR(keys.required("vocab_size", spec.vocab_size));
  RETURN_IF_ERROR(keys.required("hidden_size", spec.hidden));
  RETURN_IF_ERROR(keys.required("intermediate_size", spec.ffn));
  RETURN_IF_ERROR(keys.required("num_hidden_layers", spec.layers));
  RETURN_IF_ERROR(keys.required("num_attention_heads", spec.heads));
  RETURN_IF_ERROR(keys.required("max_position_embeddings", spec.context_tokens));
  if (keys.find("rms_norm_eps") == nullptr) return keys.refuse("rms_norm_eps", "the key is missing");
  RETURN_IF_ERROR(keys.number("rms_norm_eps", spec.norm_eps));
  spec.kv_heads = spec.heads;
  // The classes' defaults differ (Mistral 8, Qwen2 32): only Llama's is the number of heads.
  RETURN_IF_ERROR(family.name == "llama" ? keys.integer("num_key_value_heads", spec.kv_heads)
                                         : keys.required("num_key_value_heads", spec.kv_heads));
  if (spec.heads < 1) return keys.refuse("num_attention_heads", "want at least 1");
  if (family.qk_norm && keys.find("head_dim") == nullptr)
    return keys.refuse("head_dim", "the key is missing");
  if (keys.find("head_dim") == nullptr && spec.hidden % spec.heads != 0)
    return keys.refuse("hidden_size", "is no multiple of num_attention_heads, and there is no head_dim");
  spec.head_dim = static_cast<int32_t>(spec.hidden / spec.heads);
  RETURN_IF_ERROR(keys.integer("head_dim", spec.head_dim));
  return keys.boolean("tie_word_embeddings", spec.tied_head);
}

absl::Status read_flags(const ConfigKeys& keys, const Family& family, ModelSpec& spec) {
  std::string activation = "silu";
  RETURN_IF_ERROR(keys.text("hidden_act", activation));
  if (activation != "silu")
    return keys.unsupported("hidden_act", cat("\"", activation.substr(0, 40), "\": want silu"));
  for (const char* key : {"num_experts", "num_local_experts"}) {
    int64_t experts = 0;
    RETURN_IF_ERROR(keys.integer(key, experts));
    if (experts > 0) return keys.unsupported(key, "mixture of experts is not supported");
  }
  double partial = 1.0;
  RETURN_IF_ERROR(keys.number("partial_rotary_factor", partial));
  if (partial != 1.0) return keys.unsupported("partial_rotary_factor", "want 1");
  bool attention_bias = false;
  RETURN_IF_ERROR(keys.boolean("attention_bias", attention_bias));
  RETURN_IF_ERROR(keys.boolean("mlp_bias", spec.mlp_bias));
  spec.qkv_bias = family.qkv_bias || attention_bias;
  spec.o_bias = !family.qkv_bias && attention_bias;  // Qwen2 has no bias on the output projection
  return absl::OkStatus();
}

// Only what fp8_checkpoint.h opens.
absl::Status read_quantisation(const std::string& file, const ConfigKeys& keys) {
  const json::value* value = keys.find("quantization_config");
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_object()) return keys.refuse("quantization_config", "want an object");
  const ConfigKeys inner(file, value->get_object(), "quantization_config.");
  std::string method, format = "e4m3";
  RETURN_IF_ERROR(inner.text("quant_method", method));
  RETURN_IF_ERROR(inner.text("fmt", format));
  if (method != "fp8" || format != "e4m3")
    return inner.unsupported("quant_method", cat("\"", method.substr(0, 40),
                                                 "\": of quantised checkpoints only fp8 (e4m3) is supported; "
                                                 "others: use GGUF"));
  const json::value* block = inner.find("weight_block_size");
  if (block == nullptr || !block->is_array() || json::serialize(*block) != "[128,128]")
    return inner.unsupported("weight_block_size", "want [128, 128]");
  return absl::OkStatus();
}

// A window holds for all layers or for none: models that mix are refused.
absl::Status read_window(const ConfigKeys& keys, const Family& family, ModelSpec& spec) {
  if (family.name == "llama") return absl::OkStatus();
  if (family.name == "mistral" && !keys.contains("sliding_window"))
    return keys.refuse("sliding_window", "the key is missing (a number, or null for none)");
  RETURN_IF_ERROR(keys.integer("sliding_window", spec.window));
  const bool qwen = family.qkv_bias || family.qk_norm;
  bool used = !qwen;  // Qwen configs carry a window that is only used when told
  RETURN_IF_ERROR(keys.boolean("use_sliding_window", used));
  if (!used) spec.window = 0;
  if (spec.window == 0) return absl::OkStatus();
  size_t sliding = 0;
  const json::value* types = keys.find("layer_types");
  if (types != nullptr) {
    if (!types->is_array()) return keys.refuse("layer_types", "want a list");
    for (const json::value& type : types->get_array()) sliding += type == "sliding_attention" ? 1 : 0;
    if (sliding == 0) spec.window = 0;
    if (sliding != 0 && sliding != types->get_array().size())
      return keys.unsupported("layer_types",
                              "layers with and without a window in one model are not supported");
  } else if (qwen) {
    int32_t first_full_layers = spec.layers;  // layers below max_window_layers see everything
    RETURN_IF_ERROR(keys.integer("max_window_layers", first_full_layers));
    if (first_full_layers >= spec.layers) spec.window = 0;
    if (spec.window != 0 && first_full_layers > 0)
      return keys.unsupported("max_window_layers",
                              "layers with and without a window in one model are not supported");
  }
  if (spec.window >= spec.context_tokens) spec.window = 0;
  return absl::OkStatus();
}

absl::Status read_yarn(const ConfigKeys& keys, RopeSettings& rope) {
  RETURN_IF_ERROR(keys.number("beta_fast", rope.beta_fast));
  RETURN_IF_ERROR(keys.number("beta_slow", rope.beta_slow));
  bool truncate = true;
  RETURN_IF_ERROR(keys.boolean("truncate", truncate));
  if (!truncate) return keys.unsupported("truncate", "want true");
  double mscale = 0;
  double mscale_all = 0;
  RETURN_IF_ERROR(keys.number("mscale", mscale));
  RETURN_IF_ERROR(keys.number("mscale_all_dim", mscale_all));
  const auto scale = [&](double m) { return rope.factor <= 1 ? 1.0 : 0.1 * m * std::log(rope.factor) + 1.0; };
  rope.attention_factor = mscale != 0 && mscale_all != 0 ? scale(mscale) / scale(mscale_all) : scale(1.0);
  return keys.number("attention_factor", rope.attention_factor);
}

absl::Status read_scaling(const ConfigKeys& keys, RopeSettings& rope) {
  std::string type = "default";
  RETURN_IF_ERROR(keys.text("type", type));
  RETURN_IF_ERROR(keys.text("rope_type", type));
  if (type == "default") return absl::OkStatus();
  if (keys.find("factor") == nullptr) return keys.refuse("factor", "the key is missing");
  RETURN_IF_ERROR(keys.number("factor", rope.factor));
  RETURN_IF_ERROR(keys.integer("original_max_position_embeddings", rope.original_context));
  if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
    return absl::OkStatus();
  }
  if (type == "llama3") {
    rope.scaling = RopeScaling::kLlama3;
    for (const char* key : {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"})
      if (keys.find(key) == nullptr) return keys.refuse(key, "the key is missing");
    RETURN_IF_ERROR(keys.number("low_freq_factor", rope.low_freq_factor));
    return keys.number("high_freq_factor", rope.high_freq_factor);
  }
  if (type == "yarn") {
    rope.scaling = RopeScaling::kYarn;
    return read_yarn(keys, rope);
  }
  return keys.unsupported(
      "rope_type", cat("\"", type.substr(0, 40), "\" is not supported (default, linear, llama3, yarn)"));
}

absl::Status read_rope(const std::string& file, const ConfigKeys& keys, ModelSpec& spec) {
  spec.rope.dims = spec.head_dim;
  spec.rope.interleaved = false;
  spec.rope.original_context = spec.context_tokens;
  RETURN_IF_ERROR(keys.number("rope_theta", spec.rope.base));
  // transformers 5 says rope_parameters, with rope_theta inside; 4 says rope_scaling.
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json::value* value = keys.find(key);
    if (value == nullptr) continue;
    if (!value->is_object()) return keys.refuse(key, "want an object");
    for (const auto& entry : value->get_object())
      if (entry.value().is_object())
        return keys.unsupported(key, "one entry per layer type is not supported");
    const ConfigKeys inner(file, value->get_object(), cat(key, "."));
    double partial = 1.0;
    RETURN_IF_ERROR(inner.number("partial_rotary_factor", partial));
    if (partial != 1.0) return inner.unsupported("partial_rotary_factor", "want 1");
    RETURN_IF_ERROR(inner.number("rope_theta", spec.rope.base));
    RETURN_IF_ERROR(read_scaling(inner, spec.rope));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelSpec> spec_from_config(const std::string& file, std::string_view text) {
  json::parse_options options;
  options.max_depth = 16;
  json::error_code error;
  const json::value root = json::parse(json::string_view(text.data(), text.size()), error, {}, options);
  if (error) return absl::InvalidArgumentError(cat(file, ": not valid JSON: ", error.message()));
  if (!root.is_object()) return absl::InvalidArgumentError(cat(file, ": the JSON is not an object"));
  const ConfigKeys keys(file, root.get_object());
  ASSIGN_OR_RETURN(const Family* family, find_family(keys));
  ModelSpec spec;
  spec.architecture = std::string(family->name);
  spec.qk_norm = family->qk_norm;
  RETURN_IF_ERROR(read_sizes(keys, *family, spec));
  RETURN_IF_ERROR(read_flags(keys, *family, spec));
  RETURN_IF_ERROR(read_quantisation(file, keys));
  RETURN_IF_ERROR(read_window(keys, *family, spec));
  RETURN_IF_ERROR(read_rope(file, keys, spec));
  RETURN_IF_ERROR(check_spec(file, spec));
  return spec;
}

}  // namespace baton::worker
