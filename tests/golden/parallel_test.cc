// Design I1 over ranks: tokens and logits are the bits of one rank for every split of the model, tensor and
// pipeline, whatever a step holds and however many threads a rank has. Ranks are threads here.
#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>

#include "tests/golden/exactness_jobs.h"
#include "tests/golden/random_file.h"

namespace baton {
namespace {

using testing::EngineSetup;
using testing::Job;
using testing::make_jobs;
using testing::ModelUnderTest;
using testing::Outcome;
using testing::run_jobs;
using testing::Schedule;
using worker::ParallelShape;

std::string name_of(const ParallelShape& shape) {
  return "tensor " + std::to_string(shape.tensor) + " pipeline " + std::to_string(shape.pipeline) + " of " +
         (shape.stage_layers.empty() ? "even" : worker::stages_text(shape.stage_layers)) + " layers";
}

// Ranks send candidates of greedy and top-k rows and draw the others, so there are no logits to compare.
void expect_same_tokens(const std::vector<Outcome>& got, const std::vector<Outcome>& want,
                        const std::string& what) {
  for (size_t j = 0; j < want.size(); ++j) {
    EXPECT_EQ(got[j].tokens, want[j].tokens) << what << ", sequence " << j;
    for (const auto& logits : got[j].logits) EXPECT_TRUE(logits.empty()) << what;
  }
}

void check_shapes(const std::string& path, EngineSetup setup, const std::vector<Job>& jobs,
                  const std::vector<ParallelShape>& shapes) {
  auto alone = ModelUnderTest::open(path, setup);
  ASSERT_TRUE(alone.ok()) << alone.status();
  const std::vector<Outcome> want = run_jobs(**alone, jobs, {.chunk = 512, .together = false});
  alone->reset();
  setup.micro_batch_rows = 5;  // so that small steps are cut too
  for (const ParallelShape& shape : shapes) {
    setup.shape = shape;
    setup.block_seed += 1;
    setup.threads = 1 + shape.tensor % 2;
    setup.full_logits = true;
    auto group = ModelUnderTest::open(path, setup);
    ASSERT_TRUE(group.ok()) << group.status();
    for (const Schedule& schedule : {Schedule{7, true}, Schedule{64, true}, Schedule{512, false}}) {
      const std::string what = name_of(shape) + ", chunks of " + std::to_string(schedule.chunk);
      expect_same_bits(run_jobs(**group, jobs, schedule), want, what);
      if (::testing::Test::HasFatalFailure()) return;
    }
    group->reset();
    setup.full_logits = false;
    group = ModelUnderTest::open(path, setup);
    ASSERT_TRUE(group.ok()) << group.status();
    expect_same_tokens(run_jobs(**group, jobs, {.chunk = 7, .together = true}), want, name_of(shape));
  }
}

const std::vector<ParallelShape> kGrid = {{2, 1}, {4, 1}, {1, 2}, {2, 2}, {4, 2}};

class StoriesRanks : public ::testing::TestWithParam<std::tuple<const char*, kernels::KvType>> {};

// Products of one K shard each: split by outputs.
TEST_P(StoriesRanks, SameBits) {
  const std::string path = testing::shared_model("stories260K-f32.gguf");
  if (path.empty()) GTEST_SKIP() << "shared/models is not here (BATON_SHARED)";
  EngineSetup setup;
  setup.device = std::get<0>(GetParam());
  setup.kv = std::get<1>(GetParam());
  check_shapes(path, setup, make_jobs({1, 16, 17, 33, 100, 257}, 4, 512), kGrid);
  // Wherever the stages are cut.
  check_shapes(path, setup, make_jobs({1, 33, 100}, 4, 512),
               {{1, 2, {1, 4}}, {1, 2, {4, 1}}, {2, 3, {1, 3, 1}}, {1, 5}});
}

INSTANTIATE_TEST_SUITE_P(Devices, StoriesRanks,
                         ::testing::Values(std::tuple{"reference", kernels::KvType::kF32},
                                           std::tuple{"cpu", kernels::KvType::kF32},
                                           std::tuple{"cpu", kernels::KvType::kBF16},
                                           std::tuple{"cpu", kernels::KvType::kInt8}));

class FormatRanks : public ::testing::TestWithParam<std::tuple<DType, const char*, const char*>> {};

// Four KV heads: o and down are four K shards, of whole blocks of 256 for every shape of the grid.
TEST_P(FormatRanks, SameBits) {
  const auto [type, device, architecture] = GetParam();
  const testing::RandomFile model({.architecture = architecture,
                                   .vocab = 500,
                                   .hidden = 256,
                                   .ffn = 1024,
                                   .layers = 3,
                                   .heads = 16,
                                   .kv_heads = 4,
                                   .head_dim = 64,
                                   .matrix = type,
                                   .embedding = type,
                                   .seed = 9});
  EngineSetup setup;
  setup.device = device;
  setup.kv = kernels::KvType::kBF16;
  const auto jobs = make_jobs({1, 2, 16, 33, 70}, 3, 500);
  check_shapes(model.path(), setup, jobs, kGrid);
  setup.numerics = kernels::Numerics::kBrainDots;
  if (type == DType::kBF16 && setup.device == "cpu") check_shapes(model.path(), setup, jobs, kGrid);
}

INSTANTIATE_TEST_SUITE_P(Cpu, FormatRanks,
                         ::testing::Combine(::testing::Values(DType::kF32, DType::kF16, DType::kBF16,
                                                              DType::kQ8_0, DType::kQ4_0, DType::kQ4_1,
                                                              DType::kQ2_K, DType::kQ4_K, DType::kQ5_K,
                                                              DType::kQ6_K, DType::kIQ2_XXS),
                                            ::testing::Values("cpu"), ::testing::Values("llama")));
INSTANTIATE_TEST_SUITE_P(Families, FormatRanks,
                         ::testing::Combine(::testing::Values(DType::kQ4_1),
                                            ::testing::Values("cpu", "reference"),
                                            ::testing::Values("qwen2", "qwen3")));

// More ranks than KV heads: neighbours share one.
TEST(SharedKvHeads, SameBits) {
  const testing::RandomFile model(testing::shared_kv_heads(2));
  EngineSetup setup;
  setup.device = "cpu";
  setup.kv = kernels::KvType::kBF16;
  check_shapes(model.path(), setup, make_jobs({1, 17, 70}, 3, 500), {{2, 1}, {4, 1}, {8, 1}, {4, 2}});
}

TEST(SmolLm2Ranks, SameBits) {
  if (testing::smollm2_path().empty()) GTEST_SKIP() << "the default model is not here (BATON_SMOLLM2)";
  EngineSetup setup;
  setup.device = "cpu";
  setup.kv = kernels::KvType::kBF16;
  check_shapes(testing::smollm2_path(), setup, make_jobs({1, 17, 65}, 3, 49152),
               {{3, 1}, {1, 2, {21, 9}}, {3, 2}});
}

TEST(TinyLlamaRanks, SameBits) {
  const char* path = std::getenv("BATON_TINYLLAMA");
  if (path == nullptr || !std::filesystem::exists(path))
    GTEST_SKIP() << "TinyLlama is not here (BATON_TINYLLAMA)";
  if (!testing::slow_tests()) GTEST_SKIP() << "BATON_SLOW=1 runs it";
  EngineSetup setup;
  setup.device = "cpu";
  setup.kv = kernels::KvType::kBF16;
  setup.blocks = 32;
  check_shapes(path, setup, make_jobs({1, 17, 40}, 3, 32000), {{2, 1}, {4, 1}, {2, 2}});
}

}  // namespace
}  // namespace baton
