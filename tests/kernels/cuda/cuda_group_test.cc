// Design I1 over ranks with a GPU each, emulated: tokens and logits are the bits of one GPU for every split
// of the model. Ranks are threads, and what they say goes through the memory that the emulated device has:
// NCCL is not in this test (tests/transport/collectives/nccl_communicator_test.cc).
#include <gmock/gmock.h>

#include "tests/golden/exactness_jobs.h"
#include "tests/support/random_model.h"
#include "tests/worker/model/temp_dir.h"

namespace baton::kernels::cuda {
namespace {

using baton::testing::EngineSetup;
using baton::testing::ModelUnderTest;
using baton::testing::Outcome;

struct Case {
  worker::ParallelShape shape;
  const char* architecture;
};

class CudaGroup : public ::testing::TestWithParam<Case> {};

TEST_P(CudaGroup, HasTheBitsOfOneGpu) {
  const baton::testing::TempDir dir("cuda_group");
  const auto [shape, architecture] = GetParam();
  const baton::testing::RandomModel model({.architecture = architecture,
                                           .vocab = 200,
                                           .hidden = 128,
                                           .ffn = 192,
                                           .layers = 2,
                                           .heads = 4,
                                           .kv_heads = 2,
                                           .head_dim = 64,
                                           .matrix = DType::kBF16,
                                           .seed = 4});
  ASSERT_TRUE(model.write_gguf(dir.file("m.gguf")));
  EngineSetup setup;
  setup.device = "cuda";
  setup.numerics = Numerics::kBrainDots;
  setup.kv = KvType::kBF16;
  setup.blocks = 40;
  setup.max_rows = 100;
  setup.full_logits = true;
  const auto jobs = baton::testing::make_jobs({1, 18, 40}, 3, model.options().vocab);
  auto alone = ModelUnderTest::open(dir.file("m.gguf"), setup);
  ASSERT_TRUE(alone.ok()) << alone.status();
  const std::vector<Outcome> want = run_jobs(**alone, jobs, {.chunk = 64, .together = false});
  alone->reset();
  setup.shape = shape;
  setup.block_seed += 1;
  auto group = ModelUnderTest::open(dir.file("m.gguf"), setup);
  ASSERT_TRUE(group.ok()) << group.status();
  for (const baton::testing::Schedule& schedule : {baton::testing::Schedule{7, true}, {64, false}})
    expect_same_bits(run_jobs(**group, jobs, schedule), want, "chunks of " + std::to_string(schedule.chunk));
  group->reset();
  // Candidates, and tokens that the ranks draw together.
  setup.full_logits = false;
  group = ModelUnderTest::open(dir.file("m.gguf"), setup);
  ASSERT_TRUE(group.ok()) << group.status();
  const std::vector<Outcome> drawn = run_jobs(**group, jobs, {7, true});
  for (size_t j = 0; j < want.size(); ++j) EXPECT_EQ(drawn[j].tokens, want[j].tokens) << "sequence " << j;
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaGroup,
                         ::testing::Values(Case{{2, 1}, "llama"}, Case{{2, 1}, "qwen2"},
                                           Case{{4, 1}, "qwen3"}, Case{{1, 2}, "llama"},
                                           Case{{2, 2}, "llama"}));

}  // namespace
}  // namespace baton::kernels::cuda
