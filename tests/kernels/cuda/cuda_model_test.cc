// Whole models over make_backend("cuda"): close to the reference, the same bits in every batch, chunk and
// graph. Built twice: for the emulated device (cuda_model_test, everywhere), and for a real one
// (cuda_gpu_test, label gpu), where it skips with the reason when there is none.
#include <gmock/gmock.h>

#include <cmath>
#include <cstring>

#include "tests/golden/model_under_test.h"
#include "tests/support/random_model.h"
#include "tests/worker/model/temp_dir.h"

namespace baton::kernels::cuda {
namespace {

using baton::testing::EngineSetup;
using baton::testing::ModelUnderTest;
using baton::testing::RandomModel;
using baton::testing::RandomModelOptions;
using baton::testing::TempDir;
using ::testing::HasSubstr;
using worker::Sequence;

EngineSetup cuda_setup() {
  EngineSetup setup;
  setup.device = "cuda";
  setup.numerics = Numerics::kBrainDots;
  setup.kv = KvType::kBF16;
  setup.blocks = 40;
  setup.max_rows = 100;
  return setup;
}

std::unique_ptr<ModelUnderTest> open(const TempDir& dir, const RandomModelOptions& options,
                                     const EngineSetup& setup) {
  EXPECT_TRUE(RandomModel(options).write_gguf(dir.file("m.gguf")));
  auto engine = ModelUnderTest::open(dir.file("m.gguf"), setup);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return engine.ok() ? std::move(*engine) : nullptr;
}

std::vector<TokenId> prompt_of(int length, int salt) {
  std::vector<TokenId> out;
  for (int i = 0; i < length; ++i) out.push_back((i * 31 + salt * 17 + i * i) % 160);
  return out;
}

std::vector<float> copy_of(std::span<const float> logits) { return {logits.begin(), logits.end()}; }

struct Case {
  RandomModelOptions model;
  bool wgmma = true;  // where the device has it
  bool fp8 = false;
};

class CudaModel : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!GetParam().wgmma) ::setenv("BATON_CUDA_WGMMA", "0", 1);
    const auto backend =
        make_device_backend({.device = "cuda", .numerics = Numerics::kBrainDots}, setup().device_options);
    if (absl::IsUnavailable(backend.status())) GTEST_SKIP() << backend.status().message();
    ASSERT_TRUE(backend.ok()) << backend.status();
  }
  static EngineSetup setup() {
    EngineSetup out = cuda_setup();
    if (GetParam().fp8) out.device_options.quantization = Quantization::kFp8;
    return out;
  }
  void TearDown() override { ::unsetenv("BATON_CUDA_WGMMA"); }
};

TEST_P(CudaModel, FollowsTheReference) {
  const TempDir dir("cuda");
  const auto cuda = open(dir, GetParam().model, setup());
  ASSERT_NE(cuda, nullptr);
  const auto reference = ModelUnderTest::open(dir.file("m.gguf"), {.blocks = 40});
  ASSERT_TRUE(reference.ok());
  const std::vector<TokenId> tokens = prompt_of(70, 1);
  const std::vector<int32_t> wanted = {0, 1, 20, 68, 69};
  std::vector<std::vector<float>> want;
  (*reference)->forward(tokens, wanted, [&](int32_t, auto logits) { want.push_back(copy_of(logits)); });
  size_t i = 0;
  double worst = 0, spread = 0;
  cuda->forward(tokens, wanted, [&](int32_t, auto logits) {
    for (size_t v = 0; v < logits.size(); ++v) {
      worst = std::max(worst, std::abs(double{logits[v]} - want[i][v]));
      spread = std::max(spread, std::abs(double{want[i][v]}));
    }
    ++i;
  });
  EXPECT_EQ(i, wanted.size());
  // bf16 has 8 bits: a wrong formula is off by the spread of the logits, rounding by a few hundredths of it;
  // e4m3 has 4.
  EXPECT_LT(worst, (GetParam().fp8 ? 0.3 : 0.06) * spread) << "of " << spread;
  EXPECT_GT(worst, 0);
}

// Logits of one sequence's last prompt row and of greedy tokens after it, by chunks of `chunk`, with `others`
// decoding beside it.
struct Generated {
  std::vector<TokenId> tokens;
  std::vector<std::vector<float>> logits;
};
Generated generate(ModelUnderTest& engine, int chunk, int others) {
  constexpr int kPrompt = 30, kNew = 4;
  engine.free_all_blocks();
  std::vector<Sequence> beside;
  for (int i = 0; i < others; ++i) {
    beside.push_back(engine.make_sequence(prompt_of(3 + 5 * i, i + 7), 80));
    engine.run({{&beside.back(), 0, static_cast<int32_t>(beside.back().tokens.size()) - 1, false, false}});
  }
  Sequence s = engine.make_sequence(prompt_of(kPrompt, 1), kPrompt + kNew);
  Generated out;
  int32_t computed = 0;
  while (static_cast<int>(out.tokens.size()) < kNew) {
    const auto have = static_cast<int32_t>(s.tokens.size());
    const int32_t rows = std::min<int32_t>(chunk, have - computed);
    const bool sample = computed + rows == have;
    std::vector<worker::PlannedRows> plan;
    for (Sequence& b : beside)
      plan.push_back({&b, static_cast<int32_t>(b.tokens.size()) - 1, 1, true, false});
    plan.push_back({&s, computed, rows, sample, false});
    const worker::StepResult result = engine.run(plan);
    for (size_t b = 0; b < beside.size(); ++b) beside[b].tokens.push_back(result.sampled[b].token->token);
    computed += rows;
    if (!sample) continue;
    out.logits.push_back(copy_of(engine.runner().logits(beside.size())));
    out.tokens.push_back(result.sampled.back().token->token);
    s.tokens.push_back(out.tokens.back());
  }
  return out;
}

void expect_same(const Generated& want, const Generated& got) {
  EXPECT_EQ(want.tokens, got.tokens);
  ASSERT_EQ(want.logits.size(), got.logits.size());
  for (size_t i = 0; i < want.logits.size(); ++i)
    EXPECT_EQ(std::memcmp(want.logits[i].data(), got.logits[i].data(), want.logits[i].size() * sizeof(float)),
              0)
        << "logits " << i;
}

TEST_P(CudaModel, GivesTheSameBitsInEveryBatchChunkAndGraph) {
  const TempDir dir("cuda");
  ::setenv("BATON_CUDA_GRAPHS", "0", 1);
  const auto eager = open(dir, GetParam().model, setup());
  ::unsetenv("BATON_CUDA_GRAPHS");
  ASSERT_NE(eager, nullptr);
  const Generated want = generate(*eager, 100, 0);
  for (const int chunk : {4, 20}) expect_same(want, generate(*eager, chunk, 2));
  EngineSetup changed = setup();
  changed.block_tokens = 64;
  changed.blocks = 10;
  const auto graphs = open(dir, GetParam().model, changed);
  for (const int others : {0, 3, 2, 0}) expect_same(want, generate(*graphs, 25, others));
  ::setenv("BATON_CUDA_PDL", "1", 1);
  const auto overlapping = open(dir, GetParam().model, setup());
  ::unsetenv("BATON_CUDA_PDL");
  for (const int others : {0, 2}) expect_same(want, generate(*overlapping, 100, others));
}

// Tokens drawn on the device are those that the host draws from the logits, and log-probabilities those that
// it finds.
TEST_P(CudaModel, DrawsTheTokensOfTheHost) {
  const TempDir dir("cuda");
  std::vector<std::vector<TokenId>> all;
  std::vector<TokenOutput> told;  // with logprobs
  for (const bool full_logits : {true, false}) {
    EngineSetup changed = setup();
    changed.full_logits = full_logits;
    const auto engine = open(dir, GetParam().model, changed);
    ASSERT_NE(engine, nullptr);
    std::vector<Sequence> sequences;
    for (int i = 0; i < 4; ++i) {
      Sequence& s = sequences.emplace_back(engine->make_sequence(prompt_of(5 + i, i), 40));
      SamplingParams& sampling = s.request.sampling;
      sampling.temperature = i == 0 ? 0.0f : 1.5f;
      sampling.top_p = i == 2 ? 0.9f : 1.0f;
      sampling.frequency_penalty = i == 1 ? 0.5f : 0.0f;
      sampling.logprobs = i == 3 ? 2 : -1;
      if (i == 3) sampling.logit_bias = {{7, 2.5f}};
      sampling.seed = static_cast<uint64_t>(i);
    }
    for (int step = 0; step < 6; ++step) {
      std::vector<worker::PlannedRows> plan;
      for (Sequence& s : sequences) {
        const auto rows = static_cast<int32_t>(s.tokens.size());
        plan.push_back(step == 0 ? worker::PlannedRows{&s, 0, rows, true, false}
                                 : worker::PlannedRows{&s, rows - 1, 1, true, false});
      }
      const worker::StepResult result = engine->run(plan);
      for (size_t i = 0; i < sequences.size(); ++i) {
        ASSERT_TRUE(result.sampled[i].token.has_value()) << result.sampled[i].error;
        sequences[i].tokens.push_back(result.sampled[i].token->token);
      }
      told.push_back(*result.sampled[3].token);
    }
    for (const Sequence& s : sequences) all.emplace_back(s.tokens.begin(), s.tokens.end());
  }
  for (int i = 0; i < 4; ++i) EXPECT_EQ(all[i], all[4 + i]) << i;
  for (size_t step = 0; step < 6; ++step) {
    const TokenOutput &host = told[step], &device = told[6 + step];
    EXPECT_NEAR(device.logprob, host.logprob, 1e-6);
    ASSERT_EQ(host.top.size(), 2u);
    ASSERT_EQ(device.top.size(), 2u);
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(device.top[i].token, host.top[i].token);
      EXPECT_NEAR(device.top[i].logprob, host.top[i].logprob, 1e-6);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Families, CudaModel,
    ::testing::Values(
        Case{{.ffn = 172}},  // as the model of 1 MB that benchmarks/gpu/run.sh serves
        Case{
            {.hidden = 128, .heads = 4, .kv_heads = 1, .head_dim = 64, .tied = true, .matrix = DType::kQ8_0}},
        Case{{.architecture = "qwen2", .head_dim = 64, .window = 20, .matrix = DType::kBF16}},
        Case{{.architecture = "qwen2", .ffn = 172, .head_dim = 64, .window = 20, .matrix = DType::kBF16},
             false},
        Case{{.architecture = "qwen3", .ffn = 104, .head_dim = 128, .matrix = DType::kF16}},
        Case{{.hidden = 136, .ffn = 128, .head_dim = 64, .tied = true, .matrix = DType::kBF16}, true, true}));

}  // namespace
}  // namespace baton::kernels::cuda
