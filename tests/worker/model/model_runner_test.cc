#include "worker/model/model_runner.h"

#include <gmock/gmock.h>

#include <limits>

#include "tests/golden/model_under_test.h"
#include "tests/support/random_model.h"
#include "tests/worker/model/temp_dir.h"

namespace baton::worker {
namespace {

using baton::testing::EngineSetup;
using baton::testing::ModelUnderTest;
using baton::testing::RandomModel;
using baton::testing::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Runner : public ::testing::Test {
 protected:
  Runner() : dir_("runner") {
    EXPECT_TRUE(RandomModel({.layers = 3}).write_gguf(dir_.file("m.gguf")));
    EngineSetup setup;
    setup.blocks = 16;
    setup.max_rows = 64;
    auto engine = ModelUnderTest::open(dir_.file("m.gguf"), setup);
    EXPECT_TRUE(engine.ok()) << engine.status();
    engine_ = std::move(*engine);
  }
  TempDir dir_;
  std::unique_ptr<ModelUnderTest> engine_;
};

TEST_F(Runner, OneStepOfManyKinds) {
  Sequence decode = engine_->make_sequence({1, 2, 3, 4}, 10);
  engine_->run({{&decode, 0, 3, false, false}});
  Sequence chunk = engine_->make_sequence({5, 6, 7, 8, 9});
  Sequence last = engine_->make_sequence({10, 11});
  const StepResult result =
      engine_->run({{&decode, 3, 1, true, false}, {&chunk, 0, 4, false, false}, {&last, 0, 2, true, false}});
  ASSERT_EQ(result.sampled.size(), 2u);
  EXPECT_EQ(result.sampled[0].planned, 0u);
  EXPECT_EQ(result.sampled[1].planned, 2u);
  EXPECT_TRUE(result.sampled[0].token.has_value());
  EXPECT_THAT(engine_->runner().logit_rows(), ElementsAre(0, 6));
  EXPECT_GT(result.duration.count(), 0);
}

TEST_F(Runner, TheListenerHearsEveryLayerOnce) {
  Sequence s = engine_->make_sequence({1, 2, 3});
  std::vector<int> layers;
  engine_->run({{&s, 0, 3, false, false}}, [&](int layer) { layers.push_back(layer); });
  EXPECT_THAT(layers, ElementsAre(0, 1, 2));
}

// What is wrong with one sequence does not stop the others.
TEST_F(Runner, ErrorsNameTheSequence) {
  Sequence good = engine_->make_sequence({1, 2, 3});
  const TokenId expected = engine_->run({{&good, 0, 3, true, false}}).sampled[0].token->token;
  Sequence biased = engine_->make_sequence({1, 2});
  biased.request.trace_id = "trace-7";
  biased.request.sampling.logit_bias = {{100000, 1.0f}};
  Sequence foreign = engine_->make_sequence({1, 9999, 2});
  Sequence negative = engine_->make_sequence({-1});
  Sequence constrained = engine_->make_sequence({1, 2});
  constrained.request.grammar = {GrammarKind::kRegex, "a"};
  const StepResult result = engine_->run({{&biased, 0, 2, true, false},
                                          {&foreign, 0, 3, true, true},
                                          {&negative, 0, 1, true, false},
                                          {&good, 0, 3, true, false},
                                          {&constrained, 0, 2, true, false}});
  ASSERT_EQ(result.sampled.size(), 5u);
  EXPECT_FALSE(result.sampled[4].token.has_value());
  EXPECT_THAT(std::string(result.sampled[4].error.message()), HasSubstr("knows no grammars"));
  EXPECT_FALSE(result.sampled[0].token.has_value());
  EXPECT_THAT(std::string(result.sampled[0].error.message()),
              HasSubstr("sequence " + to_string(biased.id) + " (request trace-7): logit_bias"));
  for (const int i : {1, 2}) {
    EXPECT_FALSE(result.sampled[i].token.has_value());
    EXPECT_THAT(std::string(result.sampled[i].error.message()), HasSubstr("vocabulary"));
  }
  EXPECT_TRUE(result.sampled[3].error.ok());
  EXPECT_EQ(result.sampled[3].token->token, expected);
}

TEST_F(Runner, NotFiniteWeightsBlameTheSequencesThatMeetThem) {
  const RandomModel model({.layers = 3});
  std::string bytes = baton::testing::read_file(dir_.file("m.gguf"));
  const auto& table = model.values("token_embd.weight");
  const std::string row(reinterpret_cast<const char*>(table.data() + 5 * 64), 64 * sizeof(float));
  const size_t at = bytes.find(row);
  ASSERT_NE(at, bytes.npos);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  bytes.replace(at, sizeof(nan), reinterpret_cast<const char*>(&nan), sizeof(nan));
  baton::testing::write_file(dir_.file("nan.gguf"), bytes);
  EngineSetup setup;
  setup.blocks = 4;
  setup.max_rows = 8;
  auto engine = ModelUnderTest::open(dir_.file("nan.gguf"), setup);
  ASSERT_TRUE(engine.ok()) << engine.status();
  Sequence bad = (*engine)->make_sequence({1, 5, 3});
  Sequence good = (*engine)->make_sequence({1, 2, 3});
  const StepResult result = (*engine)->run({{&bad, 0, 3, true, false}, {&good, 0, 3, true, false}});
  ASSERT_EQ(result.sampled.size(), 2u);
  EXPECT_THAT(std::string(result.sampled[0].error.message()), HasSubstr("logits are not finite"));
  EXPECT_TRUE(result.sampled[1].token.has_value()) << result.sampled[1].error;
}

TEST_F(Runner, PromptLogprobsDoNotDependOnChunks) {
  const std::vector<TokenId> prompt = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3};
  std::vector<std::vector<TokenOutput>> results;
  for (const int32_t chunk : {10, 1, 3}) {
    Sequence s = engine_->make_sequence(prompt);
    s.request.sampling.prompt_logprobs = 3;
    s.request.sampling.logprobs = 3;
    std::vector<TokenOutput> scored;
    for (int32_t at = 0; at < 10; at += chunk) {
      const int32_t count = std::min(chunk, 10 - at);
      const StepResult result = engine_->run({{&s, at, count, at + count == 10, true}});
      const SampledRow& row = result.sampled.at(0);
      EXPECT_EQ(row.prompt_tokens.size(), static_cast<size_t>(at + count == 10 ? count - 1 : count));
      scored.insert(scored.end(), row.prompt_tokens.begin(), row.prompt_tokens.end());
      if (row.token) scored.push_back(*row.token);
    }
    ASSERT_EQ(scored.size(), 10u);
    for (int i = 0; i < 9; ++i) EXPECT_EQ(scored[i].token, prompt[i + 1]);
    results.push_back(scored);
    engine_->free_blocks(s);
  }
  EXPECT_EQ(results[1], results[0]);
  EXPECT_EQ(results[2], results[0]);
}

// After the last layer's attention only rows whose logits are wanted go on: the same bits as when all do.
TEST_F(Runner, LogitsDoNotDependOnWhichRowsAreWanted) {
  for (const char* device : {"reference", "cpu"}) {
    EngineSetup setup;
    setup.device = device;
    setup.threads = 2;
    setup.blocks = 16;
    setup.max_rows = 64;
    auto engine = ModelUnderTest::open(dir_.file("m.gguf"), setup);
    ASSERT_TRUE(engine.ok()) << engine.status();
    ModelRunner& runner = (*engine)->runner();
    std::vector<TokenId> prompt(20);
    for (int i = 0; i < 20; ++i) prompt[i] = 3 * i + 1;
    Sequence a = (*engine)->make_sequence(prompt), b = (*engine)->make_sequence({7, 8, 9});
    Sequence c = (*engine)->make_sequence({5, 6});
    a.request.sampling.prompt_logprobs = 0;
    const auto copy = [&](size_t i) {
      return std::vector<float>(runner.logits(i).begin(), runner.logits(i).end());
    };
    (*engine)->run({{&a, 0, 20, true, true}, {&b, 0, 3, true, true}});
    ASSERT_EQ(runner.logit_rows().size(), 23u);
    const auto all_a = copy(19), middle = copy(6), all_b = copy(22);
    (*engine)->run({{&c, 0, 2, false, false}, {&a, 0, 20, true, false}, {&b, 0, 3, true, false}});
    EXPECT_THAT(runner.logit_rows(), ElementsAre(21, 24));
    EXPECT_EQ(copy(0), all_a) << device;
    EXPECT_EQ(copy(1), all_b) << device;
    (*engine)->run({{&a, 0, 7, true, false}, {&c, 0, 2, false, false}});
    EXPECT_EQ(copy(0), middle) << device;
    (*engine)->run({{&c, 0, 2, false, false}});  // nobody asks: no logits, and the next step is as ever
    (*engine)->run({{&b, 0, 3, true, false}});
    EXPECT_EQ(copy(0), all_b) << device;
  }
}

TEST_F(Runner, RefusesImpossibleModels) {
  EngineSetup setup;
  setup.max_rows = 0;
  EXPECT_THAT(std::string(ModelUnderTest::open(dir_.file("m.gguf"), setup).status().message()),
              HasSubstr("max_rows"));
  kernels::BackendOptions options;
  options.device = "reference";
  const auto backend = kernels::make_backend(options);
  ASSERT_TRUE(backend.ok());
  const auto& file = engine_->file();
  EXPECT_FALSE(
      LlamaModel::create(file.spec(), file.weights(), **backend, {.max_rows = 1, .max_positions = 1 << 20})
          .ok());
}

TEST_F(Runner, WeightBytesOfAStep) {
  const baton::testing::RandomModelOptions o;
  const size_t layer = (64 + 2 * 32 + 64) * o.hidden + 3 * o.ffn * o.hidden;
  // The reference backend opens everything to four bytes a weight (and may pad rows).
  EXPECT_GE(engine_->model().weight_bytes(), 4 * (3 * layer + o.vocab * o.hidden));
}

}  // namespace
}  // namespace baton::worker
