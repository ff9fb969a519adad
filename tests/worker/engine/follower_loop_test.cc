#include "worker/engine/follower_loop.h"

#include <gmock/gmock.h>

#include <thread>
#include <tuple>
#include <vector>

#include "base/timers.h"
#include "tests/support/random_model.h"
#include "tests/support/temp_dir.h"
#include "transport/collectives/thread_ranks.h"
#include "worker/model/model_file.h"
#include "worker/model/model_runner.h"

namespace baton::worker {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kBlocks = 16;
constexpr ParallelShape kShape{2, 1};

// One rank of two, with its part of a small model.
struct Rank {
  SteadyClock clock;
  std::unique_ptr<Communicator> world;
  std::unique_ptr<RankLinks> links;
  std::vector<std::byte> pool;
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<LlamaModel> model;
};

// Writes down which layers of which transfer were said to be ready.
class ReadyLayers final : public KvExchange {
 public:
  absl::Status expect(const KvGrant&) override { return absl::UnimplementedError("rank 0 does"); }
  void abandon(TransferId) override {}
  absl::Status send(const KvSend&) override { return absl::UnimplementedError("rank 0 does"); }
  void layer_ready(TransferId transfer, int layer, int32_t tokens, int32_t) override {
    ready.push_back({transfer, layer, tokens});
  }
  void finish(TransferId, const TokenOutput&, FinishReason) override {}
  void cancel(TransferId) override {}
  int open_transfers() const override { return 0; }

  std::vector<std::tuple<TransferId, int, int32_t>> ready;  // written by the follower's thread
};

class FollowerLoopTest : public ::testing::Test {
 protected:
  FollowerLoopTest() {
    const support::TempDir directory("follower");
    const std::string path = directory.file("m.gguf");
    EXPECT_TRUE(testing::RandomModel({.layers = 1}).write_gguf(path));
    file_ = ModelFile::open(path).value();
    auto world = thread_ranks(2).value();
    for (int rank = 0; rank < 2; ++rank) load(rank, std::move(world[rank]));
    limits_ = {.max_rows = 8, .max_positions = 256, .blocks = kBlocks, .vocab = file_->spec().vocab_size};
    plans_ = std::make_unique<PlanSender>(*ranks_[0].links, limits_, ranks_[0].clock);
    runner_ = std::make_unique<ModelRunner>(*ranks_[0].model, ranks_[0].clock,
                                            ModelRunner::Group{ranks_[0].links.get(), plans_.get()});
  }
  void load(int index, std::unique_ptr<Communicator> world) {
    Rank& rank = ranks_[index];
    rank.world = std::move(world);
    rank.links = std::make_unique<RankLinks>(
        RankLinks::Parts{*rank.world, *rank.world, rank.clock, std::chrono::seconds(5)}, kShape);
    rank.backend = kernels::make_backend({.device = "cpu"}).value();
    ModelShard shard = shard_of(file_->spec(), file_->weights(), kShape, index).value();
    const auto geometry = kv_geometry(shard.spec, 16, kernels::KvType::kF32, kBlocks);
    LlamaModelOptions options{.max_rows = 8, .max_positions = 256};
    options.links = rank.links.get();
    rank.model = LlamaModel::create(std::move(shard), *rank.backend, options).value();
    rank.pool.resize(geometry.pool_bytes());
    EXPECT_TRUE(rank.backend->attach_kv(rank.pool, geometry).ok());
  }
  void start(Duration start) {
    loop_ = std::make_unique<FollowerLoop>(
        FollowerLoop::Parts{*ranks_[1].model, *ranks_[1].links, ranks_[1].clock, &exchange_, start}, limits_);
    thread_ = std::jthread([this](const std::stop_token& stop) { end_ = loop_->run(stop); });
  }
  absl::Status step(Leg leg = Leg::kWhole) {
    Sequence s;
    s.leg = leg;
    s.transfer = TransferId(uint64_t{7} << 40 | 5);
    s.id = SequenceId(next_++);
    s.request.sampling.temperature = 0;
    s.tokens = {1, 2, 3};
    s.prompt_tokens = 3;
    s.blocks = {BlockId(1)};
    StepPlan plan{.id = StepId(next_), .rows = {{&s, 0, 3, true, false}}, .total_rows = 3};
    StepResult result;
    return runner_->run(plan, nullptr, result);
  }

  std::unique_ptr<ModelFile> file_;
  Rank ranks_[2];
  PlanLimits limits_;
  std::unique_ptr<PlanSender> plans_;
  std::unique_ptr<ModelRunner> runner_;
  std::unique_ptr<FollowerLoop> loop_;
  ReadyLayers exchange_;
  absl::Status end_;
  uint64_t next_ = 1;
  std::jthread thread_;
};

TEST_F(FollowerLoopTest, FollowsStepsAndBeatsUntilToldToStop) {
  start(std::chrono::seconds(5));
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(step().ok());
  ASSERT_TRUE(step(Leg::kPrefill).ok());
  // Nothing to say yet; then a beat is due.
  EXPECT_TRUE(runner_->on_tick(ranks_[0].clock.now()).ok());
  EXPECT_LE(runner_->next_deadline(), ranks_[0].clock.now() + timers::kHeartbeat);
  EXPECT_TRUE(runner_->on_tick(runner_->next_deadline()).ok());
  EXPECT_TRUE(plans_->stop().ok());
  thread_.join();
  EXPECT_TRUE(end_.ok()) << end_;
  EXPECT_EQ(loop_->status().steps, 3u);
  EXPECT_EQ(loop_->status().beats, 1u);
  // Only the prompt that goes to another worker: its one layer, up to its third token.
  EXPECT_THAT(exchange_.ready, ::testing::ElementsAre(std::tuple(TransferId(uint64_t{7} << 40 | 5), 0, 3)));
  EXPECT_GT(loop_->status().time.steps, loop_->status().time.links);
  EXPECT_GT(loop_->status().time.links.count(), 0);
}

TEST_F(FollowerLoopTest, SilenceOfRankZeroIsItsEnd) {
  start(Duration::zero());
  ASSERT_TRUE(step().ok());
  const Instant begun = ranks_[0].clock.now();
  thread_.join();  // no beats: nobody ticks
  EXPECT_GE(ranks_[0].clock.now() - begun, timers::kHeartbeat);
  EXPECT_EQ(end_.code(), absl::StatusCode::kDeadlineExceeded) << end_;
}

TEST_F(FollowerLoopTest, ARankThatIsGoneEndsTheStepOfTheOthers) {
  start(std::chrono::seconds(5));
  ASSERT_TRUE(step().ok());
  ranks_[0].links.reset();
  ranks_[0].world.reset();
  thread_.join();
  EXPECT_EQ(end_.code(), absl::StatusCode::kUnavailable) << end_;
}

TEST_F(FollowerLoopTest, AFollowerThatIsGoneEndsTheStepOfRankZero) {
  ranks_[1].links.reset();
  ranks_[1].world.reset();
  const absl::Status status = step();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(step(), status);  // for good
}

}  // namespace
}  // namespace baton::worker
