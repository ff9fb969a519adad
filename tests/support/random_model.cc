#include "tests/support/random_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/cat.h"
#include "base/check.h"
#include "base/rng.h"
#include "kernels/dequantize.h"
#include "kernels/float16.h"
#include "tests/support/gguf_writer.h"

namespace baton::testing {
namespace {

using kernels::bfloat16_to_float;
using kernels::float_to_bfloat16;
using kernels::float_to_half;
using kernels::half_to_float;

void put_u16(std::string& out, uint16_t v) { out.append(reinterpret_cast<const char*>(&v), 2); }

// Each encoder appends the bytes of 32 values and overwrites them with what the bytes mean.
void encode_q8_0(float* x, std::string& out) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::abs(x[i]));
  const uint16_t scale = float_to_half(largest / 127);
  const float d = half_to_float(scale);
  put_u16(out, scale);
  for (int i = 0; i < 32; ++i) {
    const int q = d == 0 ? 0 : std::clamp(static_cast<int>(std::lround(x[i] / d)), -127, 127);
    out += static_cast<char>(q);
    x[i] = static_cast<float>(q) * d;
  }
}

void put_nibbles(const int* q, std::string& out) {
  for (int i = 0; i < 16; ++i) out += static_cast<char>(q[i] | q[i + 16] << 4);
}

void encode_q4_0(float* x, std::string& out) {
  float extreme = 0;
  for (int i = 0; i < 32; ++i)
    if (std::abs(x[i]) > std::abs(extreme)) extreme = x[i];
  const uint16_t scale = float_to_half(extreme / -8);
  const float d = half_to_float(scale);
  put_u16(out, scale);
  int q[32];
  for (int i = 0; i < 32; ++i) {
    q[i] = d == 0 ? 8 : std::clamp(static_cast<int>(std::lround(x[i] / d)) + 8, 0, 15);
    x[i] = static_cast<float>(q[i] - 8) * d;
  }
  put_nibbles(q, out);
}

void encode_q4_1(float* x, std::string& out) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  const uint16_t minimum = float_to_half(*low);
  const uint16_t scale = float_to_half((*high - *low) / 15);
  const float m = half_to_float(minimum);
  const float d = half_to_float(scale);
  put_u16(out, scale);
  put_u16(out, minimum);
  int q[32];
  for (int i = 0; i < 32; ++i) {
    q[i] = d == 0 ? 0 : std::clamp(static_cast<int>(std::lround((x[i] - m) / d)), 0, 15);
    x[i] = static_cast<float>(q[i]) * d + m;
  }
  put_nibbles(q, out);
}

// Formats that are not quantised here: random blocks whose float16 scales are set to keep values small.
void random_blocks(DType type, int64_t rows, int64_t cols, Rng& rng, double spread, std::string& out,
                   std::vector<float>& values) {
  struct Layout {
    DType type;
    int scale, minimum;  // byte offsets of the float16 fields, -1 when there is none
    double unit;         // a typical |value| at scale 1
  };
  constexpr Layout kLayouts[] = {{DType::kQ2_K, 80, 82, 12},
                                 {DType::kQ4_K, 0, 2, 240},
                                 {DType::kQ5_K, 0, 2, 480},
                                 {DType::kQ6_K, 208, -1, 1200},
                                 {DType::kIQ2_XXS, 0, -1, 60}};
  const Layout* layout =
      std::find_if(std::begin(kLayouts), std::end(kLayouts), [&](auto& l) { return l.type == type; });
  BATON_CHECK(layout != std::end(kLayouts), "a format that cannot be made");
  const DTypeTraits traits = traits_of(type);
  const uint16_t scale = float_to_half(static_cast<float>(spread / layout->unit));
  for (int64_t b = 0; b < rows * cols / traits.elements; ++b) {
    const size_t start = out.size();
    for (int i = 0; i < traits.bytes; ++i) out += static_cast<char>(rng.below(256));
    std::memcpy(out.data() + start + layout->scale, &scale, 2);
    if (layout->minimum >= 0) std::memcpy(out.data() + start + layout->minimum, &scale, 2);
  }
  const size_t row_bytes = cols / traits.elements * traits.bytes;
  for (int64_t r = 0; r < rows; ++r)
    kernels::dequantize_row(type, reinterpret_cast<const std::byte*>(out.data()) + r * row_bytes,
                            std::span(values).subspan(r * cols, cols));
}

void encode(DType type, std::vector<float>& values, std::string& out) {
  if (type == DType::kF32) {
    out.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  } else if (type == DType::kF16 || type == DType::kBF16) {
    for (float& v : values) {
      const uint16_t bits = type == DType::kF16 ? float_to_half(v) : float_to_bfloat16(v);
      put_u16(out, bits);
      v = type == DType::kF16 ? half_to_float(bits) : bfloat16_to_float(bits);
    }
  } else {
    const auto block = type == DType::kQ8_0 ? encode_q8_0 : type == DType::kQ4_0 ? encode_q4_0 : encode_q4_1;
    for (size_t i = 0; i < values.size(); i += 32) block(values.data() + i, out);
  }
}

bool quantised_here(DType type) {
  constexpr DType kTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16,
                              DType::kQ8_0, DType::kQ4_0, DType::kQ4_1};
  return std::find(std::begin(kTypes), std::end(kTypes), type) != std::end(kTypes);
}

}  // namespace

uint64_t tensor_seed(uint64_t model_seed, std::string_view name) {
  uint64_t h = model_seed * 0x9E3779B97F4A7C15u;
  for (const unsigned char c : name) h = (h ^ c) * 0x100000001B3u;
  return h;
}

std::vector<RandomTensor> random_tensors(const RandomModelOptions& o) {
  const int64_t q = int64_t{o.heads} * o.head_dim;
  const int64_t kv = int64_t{o.kv_heads} * o.head_dim;
  std::vector<RandomTensor> out;
  const auto matrix = [&](std::string name, int64_t rows, int64_t cols, DType type, double spread) {
    BATON_CHECK(cols % traits_of(type).elements == 0, "columns do not fill the format's blocks");
    out.push_back({.name = std::move(name), .rows = rows, .cols = cols, .type = type, .spread = spread});
  };
  const auto vector = [&](std::string name, int64_t size, float centre, float spread) {
    out.push_back({.name = std::move(name), .cols = size, .spread = spread, .centre = centre});
  };
  matrix("token_embd.weight", o.vocab, o.hidden, o.embedding, 1.0);
  if (!o.tied) matrix("output.weight", o.vocab, o.hidden, o.embedding, 3.0 / std::sqrt(o.hidden));
  vector("output_norm.weight", o.hidden, 1.0f, 0.3f);
  for (int32_t i = 0; i < o.layers; ++i) {
    const std::string p = cat("blk.", i, ".");
    const double in = 1.0 / std::sqrt(o.hidden);
    vector(p + "attn_norm.weight", o.hidden, 1.0f, 0.3f);
    vector(p + "ffn_norm.weight", o.hidden, 1.0f, 0.3f);
    matrix(p + "attn_q.weight", q, o.hidden, o.matrix, 1.5 * in);
    matrix(p + "attn_k.weight", kv, o.hidden, o.matrix, 1.5 * in);
    matrix(p + "attn_v.weight", kv, o.hidden, o.matrix, in);
    matrix(p + "attn_output.weight", o.hidden, q, o.matrix, 1.0 / std::sqrt(q));
    matrix(p + "ffn_gate.weight", o.ffn, o.hidden, o.matrix, in);
    matrix(p + "ffn_up.weight", o.ffn, o.hidden, o.matrix, in);
    matrix(p + "ffn_down.weight", o.hidden, o.ffn, o.matrix, 1.0 / std::sqrt(o.ffn));
    if (o.architecture == "qwen2") {
      vector(p + "attn_q.bias", q, 0.0f, 0.5f);
      vector(p + "attn_k.bias", kv, 0.0f, 0.5f);
      vector(p + "attn_v.bias", kv, 0.0f, 0.5f);
    }
    if (o.architecture == "qwen3") {
      vector(p + "attn_q_norm.weight", o.head_dim, 1.0f, 0.5f);
      vector(p + "attn_k_norm.weight", o.head_dim, 1.0f, 0.5f);
    }
  }
  return out;
}

void describe_model(const RandomModelOptions& o, GgufWriter& w) {
  const std::string p = o.architecture + ".";
  w.add("general.architecture", o.architecture).add("general.name", "random");
  w.add_u32(p + "block_count", o.layers).add_u32(p + "embedding_length", static_cast<uint32_t>(o.hidden));
  w.add_u32(p + "feed_forward_length", static_cast<uint32_t>(o.ffn))
      .add_u32(p + "attention.head_count", o.heads);
  w.add_u32(p + "attention.head_count_kv", o.kv_heads).add_u32(p + "attention.key_length", o.head_dim);
  w.add_u32(p + "attention.value_length", o.head_dim)
      .add_u32(p + "context_length", static_cast<uint32_t>(o.context));
  w.add_f32(p + "attention.layer_norm_rms_epsilon", static_cast<float>(o.norm_eps));
  w.add_f32(p + "rope.freq_base", static_cast<float>(o.rope_base));
  if (o.window > 0) w.add_u32(p + "attention.sliding_window", o.window);
}

RandomModel::RandomModel(const RandomModelOptions& options) : options_(options) {
  for (const RandomTensor& tensor : random_tensors(options)) {
    if (tensor.rows > 0) {
      add_matrix(tensor);
    } else {
      add_vector(tensor);
    }
  }
  if (options.rope_freqs.empty()) return;
  Tensor& t = tensors_["rope_freqs.weight"];
  t.cols = static_cast<int64_t>(options.rope_freqs.size());
  t.values = options.rope_freqs;
  encode(DType::kF32, t.values, t.stored);
}

void RandomModel::add_matrix(const RandomTensor& m) {
  Tensor& t = tensors_[m.name];
  t.rows = m.rows;
  t.cols = m.cols;
  t.type = m.type;
  t.values.resize(m.rows * m.cols);
  Rng rng(tensor_seed(options_.seed, m.name));
  if (!quantised_here(m.type))
    return random_blocks(m.type, m.rows, m.cols, rng, m.spread, t.stored, t.values);
  for (float& v : t.values) v = static_cast<float>((2 * rng.next_double() - 1) * m.spread * std::sqrt(3.0));
  encode(m.type, t.values, t.stored);
}

void RandomModel::add_vector(const RandomTensor& v) {
  Tensor& t = tensors_[v.name];
  t.cols = v.cols;
  t.values.resize(v.cols);
  Rng rng(tensor_seed(options_.seed, v.name));
  for (float& x : t.values) x = v.centre + static_cast<float>((2 * rng.next_double() - 1) * v.spread);
  encode(DType::kF32, t.values, t.stored);
}

const std::vector<float>& RandomModel::values(std::string_view name) const {
  const auto it = tensors_.find(std::string(name));
  BATON_CHECK(it != tensors_.end(), "no such tensor");
  return it->second.values;
}

bool RandomModel::write_gguf(const std::string& path) const {
  GgufWriter w;
  describe_model(options_, w);
  for (const auto& [name, t] : tensors_) {
    std::vector<uint64_t> dims = {static_cast<uint64_t>(t.cols)};
    if (t.rows > 0) dims.push_back(static_cast<uint64_t>(t.rows));
    w.add_tensor(name, dims, t.type, t.stored);
  }
  return w.save(path);
}

std::string hugging_face_name(const std::string& gguf_name) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"attn_norm.", "input_layernorm."},    {"ffn_norm.", "post_attention_layernorm."},
      {"attn_q.", "self_attn.q_proj."},      {"attn_k.", "self_attn.k_proj."},
      {"attn_v.", "self_attn.v_proj."},      {"attn_output.", "self_attn.o_proj."},
      {"attn_q_norm.", "self_attn.q_norm."}, {"attn_k_norm.", "self_attn.k_norm."},
      {"ffn_gate.", "mlp.gate_proj."},       {"ffn_up.", "mlp.up_proj."},
      {"ffn_down.", "mlp.down_proj."}};
  if (gguf_name == "token_embd.weight") return "model.embed_tokens.weight";
  if (gguf_name == "output.weight") return "lm_head.weight";
  if (gguf_name == "output_norm.weight") return "model.norm.weight";
  const size_t dot = gguf_name.find('.', 4);
  const std::string rest = gguf_name.substr(dot + 1);
  for (const auto& [from, to] : kNames)
    if (rest.starts_with(from))
      return cat("model.layers.", gguf_name.substr(4, dot - 4), ".", to, rest.substr(from.size()));
  return gguf_name;
}

// Q and K rows of a llama model go back from adjacent pairs to halves: row 2i + j of a head is row i + j *
// d/2.
std::string RandomModel::hugging_face_bytes(const std::string& name, const Tensor& tensor) const {
  const bool permuted = options_.architecture == "llama" &&
                        (name.find("attn_q.weight") != name.npos || name.find("attn_k.weight") != name.npos);
  if (!permuted) return tensor.stored;
  std::string out = tensor.stored;
  const size_t row_bytes = tensor.stored.size() / tensor.rows;
  const int64_t d = options_.head_dim;
  for (int64_t row = 0; row < tensor.rows; ++row) {
    const int64_t in_head = row % d;
    const int64_t to = row - in_head + in_head / 2 + in_head % 2 * (d / 2);
    std::memcpy(out.data() + to * row_bytes, tensor.stored.data() + row * row_bytes, row_bytes);
  }
  return out;
}

std::string RandomModel::config_json(const std::string& extra) const {
  const auto& o = options_;
  const std::string name = o.architecture == "qwen2"   ? "Qwen2ForCausalLM"
                           : o.architecture == "qwen3" ? "Qwen3ForCausalLM"
                                                       : "LlamaForCausalLM";
  char eps[64];
  std::snprintf(eps, sizeof(eps), "%.17g", o.norm_eps);
  return cat("{\"architectures\": [\"", name, "\"], \"vocab_size\": ", o.vocab,
             ", \"hidden_size\": ", o.hidden, ", \"intermediate_size\": ", o.ffn,
             ", \"num_hidden_layers\": ", o.layers, ", \"num_attention_heads\": ", o.heads,
             ", \"num_key_value_heads\": ", o.kv_heads, ", \"head_dim\": ", o.head_dim,
             ", \"max_position_embeddings\": ", o.context, ", \"rms_norm_eps\": ", eps,
             ", \"rope_theta\": ", o.rope_base,
             ", \"hidden_act\": \"silu\", \"tie_word_embeddings\": ", o.tied ? "true" : "false", extra, "}");
}

bool RandomModel::write_hugging_face(const std::string& directory, const std::string& config_extra,
                                     int shards) const {
  std::filesystem::create_directories(directory);
  std::ofstream(directory + "/config.json") << config_json(config_extra);
  std::vector<std::string> headers(shards);
  std::vector<std::string> data(shards);
  std::string map;
  size_t count = 0;
  const auto file_name = [&](size_t shard) {
    return shards == 1 ? std::string("model.safetensors") : cat("part-", shard, ".safetensors");
  };
  for (const auto& [name, t] : tensors_) {
    if (name == "rope_freqs.weight") continue;
    const size_t shard = count++ % shards;
    const std::string bytes = hugging_face_bytes(name, t);
    const std::string shape = t.rows > 0 ? cat(t.rows, ", ", t.cols) : std::to_string(t.cols);
    headers[shard] +=
        cat(headers[shard].empty() ? "{" : ", ", "\"", hugging_face_name(name), "\": {\"dtype\": \"",
            traits_of(t.type).name, "\", \"shape\": [", shape, "], \"data_offsets\": [", data[shard].size(),
            ", ", data[shard].size() + bytes.size(), "]}");
    data[shard] += bytes;
    map += cat(map.empty() ? "" : ", ", "\"", hugging_face_name(name), "\": \"", file_name(shard), "\"");
  }
  bool good = true;
  for (int s = 0; s < shards; ++s) {
    const std::string header = headers[s] + "}";
    const uint64_t size = header.size();
    std::ofstream out(directory + "/" + file_name(s), std::ios::binary);
    out.write(reinterpret_cast<const char*>(&size), 8);
    out << header << data[s];
    good = good && out.good();
  }
  if (shards > 1)
    std::ofstream(directory + "/model.safetensors.index.json") << "{\"weight_map\": {" << map << "}}";
  return good;
}

}  // namespace baton::testing
