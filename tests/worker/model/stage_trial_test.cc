#include "worker/model/stage_trial.h"

#include <gmock/gmock.h>

#include <thread>

#include "base/cat.h"
#include "tests/golden/model_under_test.h"
#include "tests/golden/random_file.h"
#include "transport/collectives/thread_ranks.h"
#include "worker/model/model_file.h"

namespace baton::worker {
namespace {

using namespace std::chrono_literals;
using testing::RandomFile;

// Each look at it is a millisecond later: what is timed are looks.
class TickingClock final : public Clock {
 public:
  Instant now() const override { return now_ += 1ms; }

 private:
  mutable Instant now_{1s};
};

struct Trial {
  std::string device = "cpu";
  int threads = 1;
  int32_t max_rows = 512;
  int64_t max_positions = 0;  // 0: the model's
  int block_tokens = 16;
  kernels::KvType kv = kernels::KvType::kBF16;
};

absl::StatusOr<StageTimes> run(const ModelFile& file, const ParallelShape& shape, int rank, const Trial& t,
                               const Clock& clock, RankLinks* links = nullptr) {
  ASSIGN_OR_RETURN(const auto backend, kernels::make_backend({.device = t.device, .threads = t.threads}));
  ASSIGN_OR_RETURN(const ModelShard shard, shard_of(file.spec(), file.weights(), shape, rank));
  return measure_stage(shard, *backend,
                       {.max_rows = t.max_rows,
                        .max_positions = t.max_positions > 0 ? t.max_positions : file.spec().context_tokens,
                        .block_tokens = t.block_tokens,
                        .kv = t.kv,
                        .clock = clock,
                        .links = links});
}

// What every rank of the shape measures; ranks are threads.
std::vector<absl::StatusOr<StageTimes>> run_all(const ModelFile& file, const ParallelShape& shape,
                                                const Trial& t) {
  std::vector<absl::StatusOr<StageTimes>> out(shape.ranks(), absl::UnknownError("did not run"));
  std::vector<std::vector<std::unique_ptr<Communicator>>> stages;
  for (int stage = 0; stage < shape.pipeline; ++stage) stages.push_back(thread_ranks(shape.tensor).value());
  const SteadyClock clock;
  std::vector<std::jthread> ranks;
  for (int rank = 0; rank < shape.ranks(); ++rank)
    ranks.emplace_back([&, rank] {
      Communicator& stage = *stages[rank / shape.tensor][rank % shape.tensor];
      RankLinks links({stage, stage, clock, 60s}, {.tensor = shape.tensor});
      out[rank] = run(file, shape, rank, t, clock, shape.tensor == 1 ? nullptr : &links);
    });
  ranks.clear();
  return out;
}

testing::RandomModelOptions small(int32_t layers) {
  return {.vocab = 500,
          .hidden = 256,
          .ffn = 1024,
          .layers = layers,
          .heads = 16,
          .kv_heads = 4,
          .head_dim = 64,
          .matrix = DType::kQ4_1,
          .embedding = DType::kQ8_0,
          .seed = 9};
}

// The first stage counts its embedding, the last one its head, a decode step and a chunk alike; who is
// between has nothing beside layers.
TEST(StageTrial, CountsWhatAStageDoes) {
  const RandomFile random(small(9));
  const auto file = ModelFile::open(random.path()).value();
  const TickingClock clock;
  const ParallelShape shape{.tensor = 1, .pipeline = 3};
  for (int rank = 0; rank < 3; ++rank) {
    SCOPED_TRACE(rank);
    const auto times = run(*file, shape, rank, {}, clock);
    ASSERT_TRUE(times.ok()) << times.status();
    EXPECT_EQ(times->layers, 3);
    EXPECT_EQ(times->decode.rows, 8);
    EXPECT_EQ(times->chunk.rows, 32);
    EXPECT_EQ(times->decode.layer, Duration(1ms));
    EXPECT_EQ(times->chunk.layer, Duration(1ms));
    EXPECT_EQ(times->decode.rest, Duration(rank == 1 ? 0ms : 1ms));
    EXPECT_EQ(times->chunk.rest, Duration(rank == 0 ? 1ms : 0ms));
  }
}

// A head that is not taken whole counts as whole: 16 of 21 MiB of Q8_0, repacked.
TEST(StageTrial, TakesAPartOfALargeHead) {
  auto options = small(2);
  options.vocab = 80'000;
  options.matrix = DType::kF32;
  const RandomFile random(options);
  const auto file = ModelFile::open(random.path()).value();
  const TickingClock clock;
  const auto times = run(*file, {1, 2}, 1, {}, clock);
  ASSERT_TRUE(times.ok()) << times.status();
  EXPECT_GT(times->decode.rest, Duration(1100us));
  EXPECT_LT(times->decode.rest, Duration(1700us));
}

TEST(StageTrial, EveryRankOfEveryShapeMeasures) {
  const RandomFile random(small(5));
  const auto file = ModelFile::open(random.path()).value();
  const std::vector<Trial> trials = {{},
                                     {.threads = 2},
                                     {.max_rows = 1},
                                     {.max_rows = 5, .max_positions = 7},
                                     {.max_positions = 1},
                                     {.block_tokens = 256, .kv = kernels::KvType::kInt8},
                                     {.device = "reference", .max_rows = 9, .kv = kernels::KvType::kF32}};
  for (const Trial& trial : trials)
    for (const ParallelShape& shape : std::vector<ParallelShape>{{1, 2}, {1, 5}, {2, 2}, {4, 2}}) {
      if (&trial != &trials[0] && shape.ranks() != 4) continue;
      SCOPED_TRACE(cat(trial.device, " ", trial.threads, " threads, ", trial.max_rows, " rows, ",
                       shape.tensor, "x", shape.pipeline));
      std::vector<StageCost> costs;
      for (const auto& times : run_all(*file, shape, trial)) {
        ASSERT_TRUE(times.ok()) << times.status();
        EXPECT_GE(times->layers, 2);
        EXPECT_LE(times->decode.rows, trial.max_rows);
        EXPECT_LE(times->chunk.rows, trial.max_rows);
        costs.push_back(cost_of_row(times->decode, times->chunk, kDecodedByAny));
      }
      const auto stages = stage_costs(costs, shape.tensor);
      ASSERT_TRUE(stages.ok()) << stages.status();
      const ParallelShape split{shape.tensor, shape.pipeline, split_layers(*stages, file->spec().layers)};
      EXPECT_TRUE(shard_of(file->spec(), file->weights(), split, 0).ok());
    }
}

// Stories: products that are split by outputs, whose ranks meet twice as often.
TEST(StageTrial, SplitByOutputs) {
  const std::string path = testing::shared_model("stories260K-f32.gguf");
  if (path.empty()) GTEST_SKIP() << "shared/models is not here (BATON_SHARED)";
  const auto file = ModelFile::open(path).value();
  for (const auto& times : run_all(*file, {4, 2}, {})) EXPECT_TRUE(times.ok()) << times.status();
}

// Loading is over by then, and no step was run.
TEST(StageTrial, WaitsForTheOthersOnce) {
  const RandomFile random(small(2));
  const auto file = ModelFile::open(random.path()).value();
  const TickingClock clock;
  const auto backend = kernels::make_backend({}).value();
  int waited = 0, packed = 0;
  const auto refused = measure_stage(shard_of(file->spec(), file->weights(), {1, 2}, 0).value(), *backend,
                                     {.max_rows = 8,
                                      .max_positions = 64,
                                      .clock = clock,
                                      .on_packed = [&](const auto&) { ++packed; },
                                      .wait_for_others =
                                          [&] {
                                            ++waited;
                                            EXPECT_GT(packed, 8);
                                            return absl::DeadlineExceededError("they do not come");
                                          }});
  EXPECT_EQ(refused.status().message(), "they do not come");
  EXPECT_EQ(waited, 1);
}

// Who waits for a rank that is gone is told so.
TEST(StageTrial, ARankThatIsGoneEndsIt) {
  const RandomFile random(small(4));
  const auto file = ModelFile::open(random.path()).value();
  auto ranks = thread_ranks(2).value();
  ranks[1].reset();
  const SteadyClock clock;
  RankLinks links({*ranks[0], *ranks[0], clock, 60s}, {.tensor = 2});
  const auto times = run(*file, {2, 2}, 0, {}, clock, &links);
  EXPECT_TRUE(absl::IsUnavailable(times.status())) << times.status();
}

}  // namespace
}  // namespace baton::worker
