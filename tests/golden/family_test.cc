// Every member of the Llama family as a small random model, from GGUF and from a Hugging Face directory,
// against an independent float64 forward pass: biases, QK-norm, head sizes, windows, rope scaling, weight
// formats, shards.
#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>

#include "base/rng.h"
#include "tests/golden/forward_f64.h"
#include "tests/golden/model_under_test.h"
#include "tests/support/random_model.h"
#include "tests/support/temp_dir.h"

namespace baton {
namespace {

using testing::EngineSetup;
using testing::forward_f64;
using testing::ModelUnderTest;
using testing::plain_frequencies;
using testing::RandomModel;
using testing::RandomModelOptions;

class Family : public ::testing::Test {
 protected:
  std::string gguf() const { return directory_.file("model.gguf"); }
  std::string hf() const { return directory_.file("hf"); }

  static std::vector<TokenId> some_tokens(const RandomModel& model, int count) {
    Rng rng(99);
    std::vector<TokenId> tokens;
    for (int i = 0; i < count; ++i) tokens.push_back(static_cast<TokenId>(rng.below(model.options().vocab)));
    return tokens;
  }

  // Largest difference to the float64 logits, over all positions, relative to their spread.
  static double error(const std::string& path, const std::vector<TokenId>& tokens,
                      const std::vector<std::vector<double>>& want, const std::string& device = "reference") {
    EngineSetup setup;
    setup.device = device;
    setup.blocks = 12;
    setup.max_rows = 64;
    auto engine = ModelUnderTest::open(path, setup);
    EXPECT_TRUE(engine.ok()) << engine.status();
    if (!engine.ok()) return INFINITY;
    std::vector<int32_t> all(tokens.size());
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
    double worst = 0;
    double square = 0;
    (*engine)->forward(tokens, all, [&](int32_t position, std::span<const float> logits) {
      for (size_t i = 0; i < logits.size(); ++i) {
        worst = std::max(worst, std::abs(logits[i] - want[position][i]));
        square += want[position][i] * want[position][i] / static_cast<double>(logits.size() * tokens.size());
      }
    });
    EXPECT_GT(square, 0.05) << "flat logits prove nothing";
    return worst / std::sqrt(square);
  }

  void expect_both_forms(const RandomModelOptions& options, const std::vector<double>& inv_freq,
                         const std::string& config_extra = "", double magnitude = 1.0) {
    const RandomModel model(options);
    const auto tokens = some_tokens(model, 48);
    const auto want = forward_f64(model, tokens, inv_freq, magnitude);
    ASSERT_TRUE(model.write_gguf(gguf()));
    ASSERT_TRUE(model.write_hugging_face(hf(), config_extra));
    if (config_extra.empty()) {
      EXPECT_LT(error(gguf(), tokens, want), 2e-5);
    }
    EXPECT_LT(error(hf(), tokens, want), 2e-5);
  }

  const support::TempDir directory_{"family"};
};

TEST_F(Family, Llama) { expect_both_forms({}, plain_frequencies(10000, 16)); }

TEST_F(Family, LlamaTied) { expect_both_forms({.tied = true, .seed = 2}, plain_frequencies(10000, 16)); }

TEST_F(Family, Qwen2HasBiases) {
  expect_both_forms({.architecture = "qwen2", .rope_base = 1e6, .tied = true}, plain_frequencies(1e6, 16));
}

TEST_F(Family, Qwen3NormsQAndKAndHasItsOwnHeadSize) {
  expect_both_forms({.architecture = "qwen3", .head_dim = 32, .norm_eps = 1e-6, .rope_base = 1e6},
                    plain_frequencies(1e6, 32));
}

TEST_F(Family, OddHeadSizesAndOneKvHead) {
  expect_both_forms({.hidden = 96, .heads = 6, .kv_heads = 1, .head_dim = 48}, plain_frequencies(10000, 48));
}

TEST_F(Family, SlidingWindowOfAGgufFile) {
  const RandomModel model({.window = 7});
  const auto tokens = some_tokens(model, 40);
  const auto want = forward_f64(model, tokens, plain_frequencies(10000, 16));
  ASSERT_TRUE(model.write_gguf(gguf()));
  EXPECT_LT(error(gguf(), tokens, want), 2e-5);
}

TEST_F(Family, RopeFrequencyFactorsDivide) {
  const std::vector<float> divisors = {1, 1, 1, 1.5, 2, 4, 8, 8};
  const RandomModel model({.rope_freqs = divisors});
  const auto tokens = some_tokens(model, 40);
  auto inv_freq = plain_frequencies(10000, 16);
  for (size_t i = 0; i < inv_freq.size(); ++i) inv_freq[i] /= divisors[i];
  ASSERT_TRUE(model.write_gguf(gguf()));
  EXPECT_LT(error(gguf(), tokens, forward_f64(model, tokens, inv_freq)), 2e-5);
}

TEST_F(Family, Llama3Scaling) {
  expect_both_forms({.context = 4096}, testing::llama3_frequencies(10000, 16, 8, 1, 4, 64),
                    R"(, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 64})");
}

TEST_F(Family, LinearScalingInTheSpellingOfTransformers5) {
  auto inv_freq = plain_frequencies(500000, 16);
  for (double& f : inv_freq) f /= 4;
  expect_both_forms({}, inv_freq,
                    R"(, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0})");
}

TEST_F(Family, YarnScaling) {
  expect_both_forms(
      {.architecture = "qwen2"}, testing::yarn_frequencies(10000, 16, 4, 32, 1, 128),
      R"(, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128})",
      0.1 * std::log(4.0) + 1.0);
}

TEST_F(Family, ShardsAndHalfPrecision) {
  for (const DType type : {DType::kF16, DType::kBF16}) {
    const RandomModel model({.matrix = type, .embedding = type});
    const auto tokens = some_tokens(model, 24);
    const auto want = forward_f64(model, tokens, plain_frequencies(10000, 16));
    std::filesystem::remove_all(hf());
    ASSERT_TRUE(model.write_hugging_face(hf(), "", 3));
    EXPECT_LT(error(hf(), tokens, want), 2e-5);
  }
}

TEST_F(Family, EveryWeightFormat) {
  for (const DType type : {DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ2_K,
                           DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kIQ2_XXS}) {
    const bool super_blocks = traits_of(type).elements == 256;
    RandomModelOptions options{.matrix = type};
    if (super_blocks)
      options = {.vocab = 64, .hidden = 256, .ffn = 256, .heads = 4, .head_dim = 64, .matrix = type};
    const RandomModel model(options);
    const auto tokens = some_tokens(model, 20);
    const auto want = forward_f64(model, tokens, plain_frequencies(10000, model.options().head_dim));
    ASSERT_TRUE(model.write_gguf(gguf()));
    EXPECT_LT(error(gguf(), tokens, want), 2e-5) << traits_of(type).name;
    // int8 activations for quantised weights; a wrong format or order would be off by the size of the logits.
    EXPECT_LT(error(gguf(), tokens, want, "cpu"), 0.25) << traits_of(type).name;
  }
}

TEST_F(Family, CpuBackendInFloat) {
  for (const char* architecture : {"llama", "qwen2", "qwen3"}) {
    const RandomModel model({.architecture = architecture});
    const auto tokens = some_tokens(model, 40);
    const auto want = forward_f64(model, tokens, plain_frequencies(10000, 16));
    ASSERT_TRUE(model.write_gguf(gguf()));
    EXPECT_LT(error(gguf(), tokens, want, "cpu"), 1e-4) << architecture;
  }
}

}  // namespace
}  // namespace baton
