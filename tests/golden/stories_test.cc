// stories260K (float32 weights) as GGUF and as a Hugging Face directory against float64 goldens.
#include <gmock/gmock.h>

#include <cmath>

#include "tests/golden/golden_check.h"

namespace baton {
namespace {

using testing::check_case;
using testing::Deviation;
using testing::EngineSetup;
using testing::GoldenCase;
using testing::ModelUnderTest;
using testing::shared_model;

struct Form {
  const char* name;
  const char* path;
  const char* device;
};

class Stories : public ::testing::TestWithParam<Form> {
 protected:
  void SetUp() override {
    const std::string golden = shared_model("golden/stories260K.json");
    if (golden.empty()) GTEST_SKIP() << "shared/models is not here (BATON_SHARED)";
    cases_ = testing::read_golden_cases(golden);
    EngineSetup setup;
    setup.device = GetParam().device;
    setup.blocks = 40;
    auto engine = ModelUnderTest::open(shared_model(GetParam().path), setup);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = std::move(*engine);
  }
  std::vector<GoldenCase> cases_;
  std::unique_ptr<ModelUnderTest> engine_;
};

TEST_P(Stories, AllLogitsAtTheLastPromptToken) {
  for (const GoldenCase& c : cases_) {
    ASSERT_EQ(c.logits.size(), 512u);
    double worst = 0;
    const int32_t last = static_cast<int32_t>(c.prompt.size()) - 1;
    engine_->forward(c.prompt, std::vector<int32_t>{last}, [&](int32_t, std::span<const float> logits) {
      ASSERT_EQ(logits.size(), c.logits.size());
      for (size_t i = 0; i < logits.size(); ++i) worst = std::max(worst, std::abs(logits[i] - c.logits[i]));
    });
    EXPECT_LT(worst, 1e-4) << "prompt of " << c.prompt.size() << " tokens";
  }
}

TEST_P(Stories, EveryStepAndEveryGreedyToken) {
  for (const GoldenCase& c : cases_) {
    const Deviation d = check_case(*engine_, c, {});
    EXPECT_EQ(d.steps, 48);
    EXPECT_LT(d.logit, 1e-4);
    EXPECT_LT(d.logsumexp, 1e-4);
    EXPECT_EQ(d.flips, 0);
    EXPECT_EQ(engine_->greedy(c.prompt, 48), c.greedy);
  }
}

TEST_P(Stories, PromptLogprobsAreTheGoldenOnes) {
  for (const GoldenCase& c : cases_) {
    if (c.prompt_nll.empty()) continue;
    worker::Sequence sequence = engine_->make_sequence(c.prompt);
    sequence.request.sampling.prompt_logprobs = 2;
    sequence.request.sampling.logprobs = 0;
    const int32_t size = sequence.prompt_tokens;
    const int32_t half = size / 2;
    std::vector<TokenOutput> scored;
    for (const auto& [first, count] : {std::pair{0, half}, std::pair{half, size - half}}) {
      const auto result = engine_->run({{&sequence, first, count, first + count == size, true}});
      ASSERT_EQ(result.sampled.size(), 1u);
      EXPECT_TRUE(result.sampled[0].error.ok());
      EXPECT_EQ(result.sampled[0].token.has_value(), first + count == size);
      for (const auto& t : result.sampled[0].prompt_tokens) scored.push_back(t);
    }
    ASSERT_EQ(scored.size(), c.prompt_nll.size());
    for (size_t i = 0; i < scored.size(); ++i) {
      EXPECT_EQ(scored[i].token, c.prompt[i + 1]);
      EXPECT_NEAR(-scored[i].logprob, c.prompt_nll[i], 1e-4);
      ASSERT_EQ(scored[i].top.size(), 2u);
      EXPECT_GE(scored[i].top[0].logprob, scored[i].top[1].logprob);
    }
    engine_->free_blocks(sequence);
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, Stories,
                         ::testing::Values(Form{"GgufReference", "stories260K-f32.gguf", "reference"},
                                           Form{"HuggingFaceReference", "stories260K-hf", "reference"},
                                           Form{"GgufCpu", "stories260K-f32.gguf", "cpu"},
                                           Form{"HuggingFaceCpu", "stories260K-hf", "cpu"}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace baton
