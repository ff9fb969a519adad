// An engine whose device feeds tokens back: a step is launched before the tokens of the one before are known.
#include "tests/worker/engine/engine_fixture.h"

namespace baton::worker {
namespace {

using namespace std::chrono_literals;

class EngineFeedTest : public EngineFixture {
 protected:
  static support::EngineWorldOptions fed_back() {
    auto options = defaults();
    options.model.feeds_back = true;
    options.engine.scheduler.plans_in_flight = 2;
    options.engine.scheduler.feeds_back = [](const GenerateRequest& r) { return r.sampling.logprobs < 0; };
    return options;
  }
  ManualClock clock_;
};

TEST_F(EngineFeedTest, EveryTokenButTheFirstOfARunIsFed) {
  make(fed_back());
  const auto r = request(1, 10, 12);
  world().submit(0, r);
  world().run();
  EXPECT_EQ(world().leg(0, r.id).tokens, reference(r));
  EXPECT_EQ(world().executor(0).rows_fed(), 11u);
  EXPECT_EQ(world().executor(0).rows_run(), 10u + 11) << "none beyond max_tokens";
  world().expect_clean();
}

// The surplus row of whoever stops is computed and thrown away, whichever step it is.
TEST_F(EngineFeedTest, StopsAtAnyStep) {
  const auto plain = request(1, 10, 12);
  make(fed_back());
  const auto tokens = reference(plain);
  for (size_t at = 0; at < 11; ++at) {
    if (std::ranges::count(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(at), tokens[at]) > 0)
      continue;
    make(fed_back());
    auto stops = plain;
    (at % 2 == 0 ? stops.stop.end_token_ids : stops.stop.stop_token_ids) = {tokens[at]};
    const auto beside = request(2, 6, 14, 500);
    world().submit(0, stops);
    world().submit(0, beside);
    world().run();
    EXPECT_EQ(world().leg(0, plain.id).tokens, reference(stops));
    EXPECT_EQ(world().leg(0, plain.id).tokens.size(), at + 1);
    EXPECT_EQ(world().leg(0, plain.id).finish,
              at % 2 == 0 ? FinishReason::kEndToken : FinishReason::kStopToken);
    EXPECT_EQ(world().leg(0, beside.id).tokens, reference(beside));
    world().expect_clean();
  }
}

// A row that cannot be sampled: what was fed to the next step is nobody's token.
TEST_F(EngineFeedTest, ARowThatFailsEndsAlone) {
  for (int sick_at : {0, 1, 5}) {
    auto options = fed_back();
    options.model.sick = RequestId(2);
    options.model.sick_at = sick_at;
    make(options);
    for (uint64_t i = 1; i <= 3; ++i) world().submit(0, request(i, 20, 8, static_cast<TokenId>(100 * i)));
    world().run();
    EXPECT_EQ(world().leg(0, RequestId(2)).tokens.size(), static_cast<size_t>(sick_at));
    EXPECT_EQ(world().leg(0, RequestId(2)).error, "logits are not finite");
    for (uint64_t i : {1, 3})
      EXPECT_EQ(world().leg(0, RequestId(i)).tokens,
                reference(request(i, 20, 8, static_cast<TokenId>(100 * i))));
    world().expect_clean();
  }
}

// Whose token only the host can draw is in every second step, the others are in all of them.
TEST_F(EngineFeedTest, WhoIsNotFedWaitsForItsToken) {
  make(fed_back());
  const auto fed = request(1, 10, 20);
  auto waits = request(2, 10, 20, 300);
  waits.sampling.logprobs = 1;
  world().submit(0, fed);
  world().submit(0, waits);
  world().run();
  for (const auto& r : {fed, waits}) EXPECT_EQ(world().leg(0, r.id).tokens, reference(r));
  EXPECT_EQ(world().executor(0).rows_fed(), 19u);
  world().expect_clean();
}

// I2: a stopped row's blocks are nobody else's while the step that was launched with them runs.
TEST_F(EngineFeedTest, BlocksOfAStoppedRowStayUntilItsStepIsOver) {
  const auto options = fed_back();
  support::FakeKvFabric fabric({}, clock_);
  support::KvHashPool pool(2, 64, kBlock);
  support::KvHashExecutor executor(pool, options.model);
  Engine engine(options.engine, fabric.join({"w", Incarnation(1)}, pool, [](const KvEvent&) {}));
  engine.set_hash_key({1, 2});
  make(options);
  auto r = request(1, 10, 12);
  r.stop.end_token_ids = {reference(r)[0]};
  engine.on_message(CoordinatorMessage(Submit{.request = r}), clock_.now());
  const auto released = [&] {
    std::vector<WorkerMessage> out;
    engine.drain_messages(out);
    return std::ranges::any_of(out, [](const auto& m) { return std::holds_alternative<Released>(m); });
  };
  StepResult results[2];
  const StepPlan* first = engine.plan(clock_.now());
  ASSERT_TRUE(executor.start(*first, nullptr, results[0]).ok());
  const StepPlan* second = engine.plan(clock_.now());
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(second->rows.at(0).fed_by, 0);
  EXPECT_EQ(second->rows.at(0).first_position, 10) << "of a token that nobody knows yet";
  ASSERT_TRUE(executor.start(*second, nullptr, results[1]).ok());
  EXPECT_TRUE(engine.full());
  ASSERT_TRUE(executor.finish(*first, nullptr, results[0]).ok());
  engine.on_step_done(results[0], clock_.now());
  EXPECT_FALSE(released());
  EXPECT_EQ(engine.cache().blocks_active(), 4) << "the prompt's and its head-room";
  EXPECT_EQ(engine.plan(clock_.now()), nullptr);
  ASSERT_TRUE(executor.finish(*second, nullptr, results[1]).ok());
  engine.on_step_done(results[1], clock_.now());
  EXPECT_TRUE(released());
  EXPECT_TRUE(engine.idle());
}

// Two equal streams publish equal blocks: the second's goes, once no launched step reads it.
TEST_F(EngineFeedTest, EqualBlocksAreSharedWhileStepsRun) {
  make(fed_back());
  for (uint64_t i = 1; i <= 3; ++i) world().submit(0, request(i, 3, 60));
  world().run_for(30ms);
  EXPECT_LT(world().engine(0).cache().blocks_active(), 3 * 8) << "shared";
  world().run();
  for (uint64_t i = 1; i <= 3; ++i)
    EXPECT_EQ(world().leg(0, RequestId(i)).tokens, reference(request(1, 3, 60)));
  world().expect_clean();
}

TEST_F(EngineFeedTest, PromptsJoinAndLeaveForOtherWorkers) {
  make(fed_back(), 2);
  for (uint64_t i = 1; i <= 12; ++i) {
    const auto r = request(i, 10 + 7 * static_cast<int>(i % 5), 6, static_cast<TokenId>(70 * i));
    if (i % 3 == 0) {
      world().submit(0, r);
    } else {
      world().submit_split(i % 2, 1 - i % 2, r);
    }
    world().run_for(3ms);
  }
  world().run();
  for (uint64_t i = 1; i <= 12; ++i) {
    const auto r = request(i, 10 + 7 * static_cast<int>(i % 5), 6, static_cast<TokenId>(70 * i));
    EXPECT_EQ(i % 3 == 0 ? world().leg(0, r.id).tokens : world().split_tokens(i % 2, 1 - i % 2, r.id),
              reference(r));
  }
  world().expect_clean();
}

}  // namespace
}  // namespace baton::worker
