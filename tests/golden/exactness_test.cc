// Design I1 at the level of the step runner: logits and tokens of a sequence are the same bits whether it
// runs alone or with others, in whatever chunks, on any number of threads, in any blocks of the pool.
#include <gmock/gmock.h>

#include <iostream>
#include <set>

#include "base/cat.h"
#include "base/rng.h"
#include "tests/golden/exactness_jobs.h"
#include "tests/golden/random_file.h"
#include "tests/support/seed.h"

namespace baton {
namespace {

using testing::EngineSetup;
using testing::Job;
using testing::make_jobs;
using testing::ModelUnderTest;
using testing::Outcome;
using testing::run_jobs;
using testing::Schedule;
using testing::shared_model;
using testing::slow_tests;
using testing::smollm2_path;

struct Variant {
  int threads;
  Schedule schedule;
  uint64_t block_seed;
  std::string isa_limit;
};

void check_grid(const std::string& path, EngineSetup setup, const std::vector<Job>& jobs,
                const std::vector<Variant>& variants) {
  auto baseline = ModelUnderTest::open(path, setup);
  ASSERT_TRUE(baseline.ok()) << baseline.status();
  const std::vector<Outcome> want = run_jobs(**baseline, jobs, {.chunk = 512, .together = false});
  std::set<std::string> ran = {(*baseline)->backend().description()};
  baseline->reset();
  int threads = 0;
  std::unique_ptr<ModelUnderTest> engine;
  for (const Variant& v : variants) {
    if (engine == nullptr || threads != v.threads || setup.block_seed != v.block_seed ||
        setup.isa_limit != v.isa_limit) {
      setup.threads = threads = v.threads;
      setup.isa_limit = v.isa_limit;
      setup.block_seed = v.block_seed;
      engine.reset();
      auto opened = ModelUnderTest::open(path, setup);
      ASSERT_TRUE(opened.ok()) << opened.status();
      engine = std::move(*opened);
      ran.insert(engine->backend().description());
    }
    const std::string what = v.isa_limit + " " + std::to_string(v.threads) + " threads, chunks of " +
                             std::to_string(v.schedule.chunk) +
                             (v.schedule.together ? ", together" : ", alone");
    expect_same_bits(run_jobs(*engine, jobs, v.schedule), want, what);
    if (::testing::Test::HasFatalFailure()) return;
  }
  std::cout << "ran on: " << join(ran, "; ") << "\n";
}

using kernels::Numerics;
class StoriesGrid
    : public ::testing::TestWithParam<std::tuple<const char*, kernels::KvType, kernels::Numerics>> {};

TEST_P(StoriesGrid, SameBits) {
  const std::string path = shared_model("stories260K-f32.gguf");
  if (path.empty()) GTEST_SKIP() << "shared/models is not here (BATON_SHARED)";
  EngineSetup setup;
  setup.device = std::get<0>(GetParam());
  setup.kv = std::get<1>(GetParam());
  setup.numerics = std::get<2>(GetParam());
  setup.blocks = 160;
  const auto jobs = make_jobs({1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 255, 256, 257, 300}, 6, 512);
  // The KV type that is served by default gets the whole grid, the others a few points of it.
  std::vector<Variant> variants = {{1, {7, true}, 31}, {1, {64, false}, 31}};
  if (setup.device == "cpu") variants.push_back({3, {64, true}, 93});
  if (setup.device == "cpu" && setup.kv == kernels::KvType::kBF16) {
    for (const int threads : {1, 2, 3})
      for (const int32_t chunk : {1, 7, 64, 512})
        variants.push_back({threads, {chunk, true}, uint64_t(threads) * 31});
  }
  check_grid(path, setup, jobs, variants);
}

std::string grid_name(const ::testing::TestParamInfo<StoriesGrid::ParamType>& info) {
  const std::string kv[] = {"F32", "BF16", "F16", "Int8"};
  return std::get<0>(info.param) + kv[static_cast<int>(std::get<1>(info.param))] +
         (std::get<2>(info.param) == Numerics::kBrainDots ? "BrainDots" : "");
}

INSTANTIATE_TEST_SUITE_P(Devices, StoriesGrid,
                         ::testing::Values(std::tuple{"reference", kernels::KvType::kF32, Numerics::kFloat},
                                           std::tuple{"cpu", kernels::KvType::kF32, Numerics::kFloat},
                                           std::tuple{"cpu", kernels::KvType::kBF16, Numerics::kFloat},
                                           std::tuple{"cpu", kernels::KvType::kBF16, Numerics::kBrainDots},
                                           std::tuple{"cpu", kernels::KvType::kInt8, Numerics::kFloat},
                                           std::tuple{"cpu", kernels::KvType::kF16, Numerics::kFloat}),
                         grid_name);

// Every weight format, by every instruction set this machine has: one set of bits.
class FormatGrid : public ::testing::TestWithParam<DType> {
 protected:
  const testing::RandomFile model{{.vocab = 160,
                                   .hidden = 256,
                                   .ffn = 512,
                                   .heads = 8,
                                   .kv_heads = 2,
                                   .head_dim = 64,  // o has other columns than q, k, v
                                   .matrix = GetParam(),
                                   .embedding = GetParam(),
                                   .seed = 5}};
};

// Wider batches, in one KV type and one class of numerics each; other ones in every run.
TEST_P(FormatGrid, SameBitsInWideBatches) {
  Rng rng(support::fresh_seed());
  for (const int batch : {8, 17, 33}) {
    EngineSetup setup;
    setup.device = "cpu";
    setup.kv = static_cast<kernels::KvType>(rng.below(4));
    setup.numerics = rng.below(2) == 0 ? Numerics::kFloat : Numerics::kBrainDots;
    std::vector<int> lengths(batch);
    for (int& length : lengths) length = 1 + static_cast<int>(rng.below(12));
    const char* const isa = std::vector{"", "avx512-vnni", "avx512", "avx2-vnni", "avx2"}[rng.below(5)];
    const int threads = 1 + static_cast<int>(rng.below(3));
    const int32_t chunk = 1 + static_cast<int32_t>(rng.below(16));
    SCOPED_TRACE(cat(batch, " sequences, KV type ", static_cast<int>(setup.kv)));
    check_grid(model.path(), setup, make_jobs(lengths, 3, 160), {{threads, {chunk, true}, 31, isa}});
  }
}

TEST_P(FormatGrid, SameBits) {
  EngineSetup setup;
  setup.device = "cpu";
  setup.kv = kernels::KvType::kBF16;
  const auto jobs = make_jobs({1, 2, 16, 17, 33, 70, 130}, 4, 160);
  std::vector<Variant> variants = {
      {1, {1, true}, 31}, {2, {7, true}, 62}, {3, {64, true}, 93}, {2, {512, true}, 62}};
  for (const char* isa : {"avx512-vnni", "avx512", "avx2-vnni", "avx2", "scalar"}) {
    variants.push_back({1, {64, true}, 31, isa});
    variants.push_back({3, {7, true}, 93, isa});
  }
  check_grid(model.path(), setup, jobs, variants);
  setup.numerics = Numerics::kBrainDots;
  if (GetParam() == DType::kBF16) check_grid(model.path(), setup, jobs, variants);
}

INSTANTIATE_TEST_SUITE_P(Formats, FormatGrid,
                         ::testing::Values(DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0,
                                           DType::kQ4_1, DType::kQ2_K, DType::kQ4_K, DType::kQ5_K,
                                           DType::kQ6_K, DType::kIQ2_XXS),
                         [](const auto& info) { return std::string(traits_of(info.param).name); });

class SmolLm2Grid : public ::testing::TestWithParam<Numerics> {};
INSTANTIATE_TEST_SUITE_P(Classes, SmolLm2Grid, ::testing::Values(Numerics::kFloat, Numerics::kBrainDots));

TEST_P(SmolLm2Grid, SameBits) {
  if (smollm2_path().empty()) GTEST_SKIP() << "the default model is not here (BATON_SMOLLM2)";
  EngineSetup setup;
  setup.device = "cpu";
  setup.kv = kernels::KvType::kBF16;
  setup.numerics = GetParam();
  const auto jobs = slow_tests() ? make_jobs({1, 15, 16, 17, 63, 64, 65, 130, 255, 256, 257, 600}, 4, 49152)
                                 : make_jobs({1, 16, 17, 65, 257}, 3, 49152);
  std::vector<Variant> variants = {
      {1, {7, true}, 2}, {2, {1, true}, 3}, {2, {64, true}, 3}, {2, {512, false}, 3}, {3, {64, true}, 4}};
  if (slow_tests()) {
    for (const int threads : {1, 2, 3})
      for (const int32_t chunk : {1, 7, 64, 512})
        variants.push_back({threads, {chunk, true}, uint64_t(threads) * 7});
  } else {
    std::cout << "5 prompts, 5 variants (12 and 17 with BATON_SLOW=1)\n";
  }
  check_grid(smollm2_path(), setup, jobs, variants);
}

}  // namespace
}  // namespace baton
