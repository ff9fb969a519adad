#include "worker/model/model_spec.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/support/gguf_writer.h"

namespace baton::worker {
namespace {

using baton::testing::GgufWriter;
using ::testing::HasSubstr;

std::string config(const std::string& architecture, const std::string& extra) {
  return R"({"architectures": [")" + architecture +
         R"("], "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
         "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6)" +
         extra + "}";
}

ModelSpec accepted(const std::string& json) {
  const auto spec = spec_from_config("config.json", json);
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.ok() ? *spec : ModelSpec{};
}

std::string refused(const std::string& json) {
  const auto spec = spec_from_config("config.json", json);
  return spec.ok() ? "accepted" : std::string(spec.status().message());
}

TEST(ConfigSpec, Llama) {
  const ModelSpec spec = accepted(config("LlamaForCausalLM", R"(, "head_dim": null, "rope_scaling": null)"));
  EXPECT_EQ(spec.architecture, "llama");
  EXPECT_EQ(spec.head_dim, 8);
  EXPECT_EQ(spec.kv_heads, 2);
  EXPECT_EQ(spec.norm_eps, 1e-6);
  EXPECT_EQ(spec.rope.base, 10000.0);
  EXPECT_FALSE(spec.rope.interleaved);
  EXPECT_FALSE(spec.tied_head);
  EXPECT_FALSE(spec.qkv_bias);
  EXPECT_EQ(spec.qkv_width(), 64 + 2 * 16);
}

TEST(ConfigSpec, LlamaWithBiases) {
  const ModelSpec spec =
      accepted(config("LlamaForCausalLM", R"(, "attention_bias": true, "mlp_bias": true)"));
  EXPECT_TRUE(spec.qkv_bias && spec.o_bias && spec.mlp_bias);
}

TEST(ConfigSpec, MistralHasAWindow) {
  EXPECT_EQ(accepted(config("MistralForCausalLM", R"(, "sliding_window": 512)")).window, 512);
  EXPECT_EQ(accepted(config("MistralForCausalLM", R"(, "sliding_window": null)")).window, 0);
  EXPECT_EQ(accepted(config("MistralForCausalLM", R"(, "sliding_window": 4096)")).window, 0)
      << "wider than the context";
  EXPECT_THAT(refused(config("MistralForCausalLM", "")), HasSubstr("sliding_window: the key is missing"));
}

TEST(ConfigSpec, Qwen) {
  const ModelSpec qwen2 =
      accepted(config("Qwen2ForCausalLM", R"(, "sliding_window": 32, "use_sliding_window": false,
      "max_window_layers": 2, "tie_word_embeddings": true, "rope_theta": 1000000.0)"));
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.o_bias);
  EXPECT_TRUE(qwen2.tied_head);
  EXPECT_EQ(qwen2.window, 0);
  EXPECT_EQ(qwen2.rope.base, 1e6);
  const ModelSpec qwen3 = accepted(config("Qwen3ForCausalLM", R"(, "head_dim": 32)"));
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias);
  EXPECT_EQ(qwen3.head_dim, 32);
  EXPECT_THAT(refused(config("Qwen3ForCausalLM", "")), HasSubstr("head_dim: the key is missing"));
  EXPECT_THAT(
      refused(config("Qwen2ForCausalLM",
                     R"(, "sliding_window": 32, "use_sliding_window": true, "max_window_layers": 2)")),
      HasSubstr("max_window_layers"));
  EXPECT_THAT(refused(config("Qwen2ForCausalLM", R"(, "sliding_window": 32, "use_sliding_window": true,
      "layer_types": ["full_attention", "sliding_attention"])")),
              HasSubstr("layer_types"));
}

TEST(ConfigSpec, RopeScaling) {
  const ModelSpec llama3 = accepted(config("LlamaForCausalLM", R"(, "rope_theta": 500000.0, "rope_scaling":
      {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
       "original_max_position_embeddings": 512})"));
  EXPECT_EQ(llama3.rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(llama3.rope.original_context, 512);
  const kernels::RopeSpec rope = rope_spec(llama3, 100);
  ASSERT_EQ(rope.inv_freq.size(), 4u);
  EXPECT_EQ(rope.inv_freq[0], 1.0);  // the fastest turns are kept, the slowest stretched
  EXPECT_NEAR(rope.inv_freq[3], std::pow(500000.0, -0.75) / 8, 1e-18);
  EXPECT_EQ(rope.max_positions, 100);

  const ModelSpec v5 = accepted(
      config("LlamaForCausalLM", R"(, "rope_parameters": {"rope_type": "default", "rope_theta": 77.0})"));
  EXPECT_EQ(v5.rope.base, 77.0);
  const ModelSpec yarn =
      accepted(config("Qwen2ForCausalLM", R"(, "rope_scaling": {"type": "yarn", "factor": 4.0,
      "original_max_position_embeddings": 512, "attention_factor": 1.25})"));
  EXPECT_EQ(yarn.rope.attention_factor, 1.25);
  EXPECT_EQ(rope_spec(yarn, 10).magnitude, 1.25);

  const auto scaling = [](const std::string& s) {
    return refused(config("LlamaForCausalLM", ", \"rope_scaling\": " + s));
  };
  EXPECT_THAT(scaling(R"({"rope_type": "dynamic", "factor": 2})"),
              HasSubstr("rope_scaling.rope_type: \"dynamic\""));
  EXPECT_THAT(scaling(R"({"rope_type": "linear"})"), HasSubstr("rope_scaling.factor: the key is missing"));
  EXPECT_THAT(scaling(R"({"rope_type": "linear", "factor": 0})"), HasSubstr("positive"));
  EXPECT_THAT(scaling(R"({"rope_type": "llama3", "factor": 8})"), HasSubstr("low_freq_factor"));
  EXPECT_THAT(scaling(R"({"full_attention": {"rope_type": "linear"}})"), HasSubstr("per layer type"));
  EXPECT_THAT(scaling("[]"), HasSubstr("rope_scaling: want an object"));
}

TEST(ConfigSpec, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(refused(config("MixtralForCausalLM", "")),
              HasSubstr("config.json: architectures: \"MixtralForCausalLM\""));
  EXPECT_THAT(refused(config("Gemma2ForCausalLM", "")), HasSubstr("not supported"));
  EXPECT_EQ(spec_from_config("c", config("GemmaForCausalLM", "")).status().code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_THAT(refused(config("LlamaForCausalLM", R"(, "hidden_act": "gelu")")), HasSubstr("hidden_act"));
  EXPECT_THAT(refused(config("LlamaForCausalLM", R"(, "num_local_experts": 8)")), HasSubstr("experts"));
  EXPECT_THAT(refused(config("LlamaForCausalLM", R"(, "quantization_config": {})")),
              HasSubstr("quantization_config"));
  EXPECT_THAT(refused(config("LlamaForCausalLM", R"(, "quantization_config": {"quant_method": "awq"})")),
              HasSubstr("only fp8 (e4m3) is supported"));
  EXPECT_THAT(refused(config("LlamaForCausalLM", R"(, "quantization_config": {"quant_method": "fp8"})")),
              HasSubstr("weight_block_size"));
  EXPECT_THAT(refused(config("LlamaForCausalLM", R"(, "partial_rotary_factor": 0.5)")),
              HasSubstr("partial_rotary"));
}

TEST(ConfigSpec, RefusesBadValues) {
  const auto with = [](const std::string& from, const std::string& to) {
    std::string json = config("LlamaForCausalLM", "");
    json.replace(json.find(from), from.size(), to);
    return refused(json);
  };
  EXPECT_THAT(with("\"hidden_size\": 64", "\"hidden_size\": 0"), HasSubstr("hidden size 0"));
  EXPECT_THAT(with("\"hidden_size\": 64", "\"hidden_size\": -64"), HasSubstr("hidden_size: is out of range"));
  EXPECT_THAT(with("\"hidden_size\": 64", "\"hidden_size\": 64.5"),
              HasSubstr("hidden_size: want an integer"));
  EXPECT_THAT(with("\"hidden_size\": 64", "\"hidden_size\": 65"), HasSubstr("no multiple"));
  EXPECT_THAT(with("\"hidden_size\": 64,", ""), HasSubstr("hidden_size: the key is missing"));
  EXPECT_THAT(with("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"),
              HasSubstr("no multiple of the KV heads"));
  EXPECT_THAT(with("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 0"), HasSubstr("KV heads 0"));
  EXPECT_THAT(with("\"num_attention_heads\": 8", "\"num_attention_heads\": 0"),
              HasSubstr("num_attention_heads"));
  EXPECT_THAT(with("\"vocab_size\": 320", "\"vocab_size\": 99999999"), HasSubstr("vocabulary size"));
  EXPECT_THAT(with("1e-6", "-1"), HasSubstr("norm epsilon"));
  EXPECT_THAT(with("1e-6", "\"x\""), HasSubstr("rms_norm_eps: want a number"));
  EXPECT_THAT(refused("{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(refused("[]"), HasSubstr("not an object"));
  EXPECT_THAT(refused("{}"), HasSubstr("architectures"));
}

GgufWriter gguf(const std::string& architecture) {
  GgufWriter w;
  const std::string p = architecture + ".";
  w.add("general.architecture", architecture)
      .add_u32(p + "block_count", 2)
      .add_u32(p + "embedding_length", 64);
  w.add_u32(p + "feed_forward_length", 96).add_u32(p + "attention.head_count", 8);
  w.add_u32(p + "attention.head_count_kv", 4).add_u32(p + "context_length", 256);
  w.add_f32(p + "attention.layer_norm_rms_epsilon", 1e-5f);
  w.add_floats("token_embd.weight", {64, 10}, std::vector<float>(640));
  return w;
}

absl::StatusOr<ModelSpec> spec_of(const GgufWriter& w) {
  auto file = GgufFile::from_bytes("m.gguf", w.bytes());
  EXPECT_TRUE(file.ok()) << file.status();
  return spec_from_gguf(**file);
}
std::string refused(const GgufWriter& w) {
  const auto spec = spec_of(w);
  return spec.ok() ? "accepted" : std::string(spec.status().message());
}

TEST(GgufSpec, LlamaIsInterleavedQwenIsNot) {
  const auto llama = spec_of(gguf("llama"));
  ASSERT_TRUE(llama.ok()) << llama.status();
  EXPECT_TRUE(llama->rope.interleaved);
  EXPECT_EQ(llama->vocab_size, 10);
  EXPECT_EQ(llama->head_dim, 8);
  EXPECT_TRUE(llama->tied_head);
  EXPECT_FALSE(llama->qkv_bias);
  const auto qwen2 = spec_of(gguf("qwen2"));
  ASSERT_TRUE(qwen2.ok());
  EXPECT_FALSE(qwen2->rope.interleaved);
  EXPECT_TRUE(qwen2->qkv_bias);
  EXPECT_TRUE(
      spec_of(
          gguf("qwen3").add_u32("qwen3.attention.key_length", 16).add_u32("qwen3.attention.value_length", 16))
          ->qk_norm);
}

TEST(GgufSpec, RopeScaling) {
  auto w = gguf("llama");
  w.add("llama.rope.scaling.type", "yarn").add_f32("llama.rope.scaling.factor", 4.0f);
  w.add_u32("llama.rope.scaling.original_context_length", 64);
  const auto spec = spec_of(w);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->rope.scaling, RopeScaling::kYarn);
  EXPECT_NEAR(spec->rope.attention_factor, 1 + 0.1 * std::log(4.0), 1e-12);
  const auto old = spec_of(gguf("llama").add_f32("llama.rope.scale_linear", 2.0f));
  ASSERT_TRUE(old.ok());
  EXPECT_EQ(old->rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(rope_spec(*old, 10).inv_freq[0], 0.5);
  EXPECT_THAT(refused(gguf("llama").add("llama.rope.scaling.type", "longrope")),
              HasSubstr("llama.rope.scaling.type"));
  const std::vector<float> bad = {1, 0, 1, 1};
  EXPECT_THAT(refused(gguf("llama").add_floats("rope_freqs.weight", {4}, bad)), HasSubstr("rope_freqs"));
  EXPECT_THAT(refused(gguf("llama").add_floats("rope_freqs.weight", {3}, std::span(bad).first(3))),
              HasSubstr("want 4"));
}

TEST(GgufSpec, RefusesByKey) {
  EXPECT_THAT(refused(gguf("gemma3")),
              HasSubstr("m.gguf: general.architecture: \"gemma3\" is not supported"));
  EXPECT_THAT(refused(gguf("llama").add_u32("llama.expert_count", 8)), HasSubstr("llama.expert_count: 8"));
  EXPECT_THAT(refused(gguf("llama").add_u32("llama.vocab_size", 11)), HasSubstr("llama.vocab_size: 11"));
  EXPECT_THAT(refused(gguf("llama").add_u32("split.count", 2)), HasSubstr("split.count"));
  EXPECT_THAT(refused(gguf("llama").add_u32("llama.rope.dimension_count", 7)),
              HasSubstr("rope dimensions 7"));
  EXPECT_THAT(refused(gguf("llama").add_u32("llama.attention.value_length", 4)), HasSubstr("value_length"));
  const std::vector<int32_t> per_layer = {4, 2};
  GgufWriter w;
  w.add("general.architecture", "llama")
      .add_u32("llama.block_count", 2)
      .add_u32("llama.embedding_length", 64);
  EXPECT_THAT(refused(w), HasSubstr("llama.feed_forward_length: the key is missing"));
  w.add_i32s("llama.feed_forward_length", per_layer);
  EXPECT_THAT(refused(w), HasSubstr("llama.feed_forward_length: want one integer"));
  EXPECT_THAT(refused(GgufWriter().add_u32("x", 1)), HasSubstr("general.architecture: missing"));
}

TEST(ModelSpecText, DiffersWithEveryField) {
  const ModelSpec base = accepted(config("LlamaForCausalLM", ""));
  ModelSpec other = base;
  EXPECT_EQ(spec_text(base), spec_text(other));
  other.rope.base = std::nextafter(other.rope.base, 1e9);
  EXPECT_NE(spec_text(base), spec_text(other));
  other = base;
  other.window = 3;
  EXPECT_NE(spec_text(base), spec_text(other));
}

TEST(KvGeometry, OfSmolLm2) {
  ModelSpec spec;
  spec.layers = 30;
  spec.kv_heads = 3;
  spec.head_dim = 64;
  const auto geometry = kv_geometry(spec, 16, kernels::KvType::kBF16, 100);
  EXPECT_EQ(geometry.piece_bytes(), 12288u);
  EXPECT_EQ(geometry.pool_bytes(), 100u * 360 * 1024);
}

}  // namespace
}  // namespace baton::worker
