#include "worker/engine/engine.h"

#include "tests/worker/engine/engine_fixture.h"

namespace baton::worker {
namespace {

using namespace std::chrono_literals;

class EngineTest : public EngineFixture {};

TEST_F(EngineTest, GivesTheTokensOfAnUndisturbedRun) {
  make();
  std::vector<GenerateRequest> requests;
  for (uint64_t i = 1; i <= 6; ++i) {
    requests.push_back(request(i, 7 * static_cast<int>(i), 9, static_cast<TokenId>(100 * i)));
    world().submit(0, requests.back());
  }
  world().run();
  for (const auto& r : requests) {
    EXPECT_EQ(world().leg(0, r.id).tokens, reference(r));
    EXPECT_EQ(world().leg(0, r.id).finish, FinishReason::kLength);
  }
  world().expect_clean();
}

// What another worker has answered is in the prompt: limits, seeds and ends count from the answer's start.
TEST_F(EngineTest, AnAnswerGoesOnWhereverItWas) {
  make(defaults(), 2);
  uint64_t id = 1;
  for (const bool split : {false, true}) {
    for (int answered = 0; answered < 9; ++answered) {
      GenerateRequest r = request(id, 18, 9, static_cast<TokenId>(40 * id));
      r.sampling.temperature = 1;
      r.sampling.seed = 5;
      r.sampling.prompt_logprobs = 0;
      r.stop.min_tokens = 4;
      for (TokenId end = 0; end < 300; ++end) r.stop.end_token_ids.push_back(end);
      const std::vector<TokenId> all = reference(r);
      if (answered >= static_cast<int>(all.size())) continue;
      r.prompt.insert(r.prompt.end(), all.begin(), all.begin() + answered);
      r.answered = answered;
      split ? world().submit_split(0, 1, r) : world().submit(0, r);
      world().run();
      const std::vector<TokenId> rest(all.begin() + answered, all.end());
      EXPECT_EQ(split ? world().split_tokens(0, 1, r.id) : world().leg(0, r.id).tokens, rest) << answered;
      const auto& first = world().leg(0, r.id, split ? Leg::kPrefill : Leg::kWhole);
      EXPECT_EQ(first.prompt_tokens.empty(), answered > 0);
      world().expect_clean();
      ++id;
    }
  }
  EXPECT_GT(id, 9u);
}

TEST_F(EngineTest, OneSequenceThatCannotBeSampledEndsAlone) {
  for (int sick_at : {0, 3}) {
    auto options = defaults();
    options.model.sick = RequestId(2);
    options.model.sick_at = sick_at;
    make(options, 2);
    for (uint64_t i = 1; i <= 3; ++i) world().submit(0, request(i, 20, 8, static_cast<TokenId>(100 * i)));
    world().submit_split(0, 1, request(4, 20, 8, 400));
    world().run();
    EXPECT_EQ(world().leg(0, RequestId(2)).finish, FinishReason::kError);
    EXPECT_EQ(world().leg(0, RequestId(2)).error, "logits are not finite");
    EXPECT_EQ(world().leg(0, RequestId(2)).tokens.size(), static_cast<size_t>(sick_at));
    for (uint64_t i : {1, 3})
      EXPECT_EQ(world().leg(0, RequestId(i)).tokens,
                reference(request(i, 20, 8, static_cast<TokenId>(100 * i))));
    EXPECT_EQ(world().split_tokens(0, 1, RequestId(4)), reference(request(4, 20, 8, 400)));
    world().expect_clean();
  }
}

TEST_F(EngineTest, APrefillLegThatCannotBeSampledCancelsItsTransfer) {
  auto options = defaults();
  options.model.sick = RequestId(1);
  make(options, 2);
  world().submit_split(0, 1, request(1, 20, 8));
  world().run_for(100ms);
  EXPECT_EQ(world().leg(0, RequestId(1), Leg::kPrefill).finish, FinishReason::kError);
  world().release(0, RequestId(1));
  world().release(1, RequestId(1));
  world().run();
  world().expect_clean();
}

TEST_F(EngineTest, SeededSamplingDependsOnTheSeedOnly) {
  make();
  for (uint64_t i = 1; i <= 3; ++i) {
    auto r = request(i, 20, 8);
    r.sampling.temperature = 1;
    r.sampling.seed = i == 3 ? 1 : i;
    world().submit(0, r);
  }
  world().run();
  EXPECT_EQ(world().leg(0, RequestId(1)).tokens, world().leg(0, RequestId(3)).tokens);
  EXPECT_NE(world().leg(0, RequestId(1)).tokens, world().leg(0, RequestId(2)).tokens);
}

TEST_F(EngineTest, StopConditions) {
  make();
  const auto plain = request(1, 10, 12);
  const auto tokens = reference(plain);
  auto end = request(2, 10, 12);
  end.stop.end_token_ids = {5000, tokens[4]};
  auto stop = request(3, 10, 12);
  stop.stop.stop_token_ids = {tokens[2]};
  auto late = request(4, 10, 12);
  late.stop.end_token_ids = {tokens[2]};
  late.stop.min_tokens = 6;
  auto one = request(5, 10, 1);
  for (const auto& r : {plain, end, stop, late, one}) world().submit(0, r);
  world().run();
  const auto finish = [&](uint64_t id) { return world().leg(0, RequestId(id)).finish; };
  const auto count = [&](uint64_t id) { return world().leg(0, RequestId(id)).tokens.size(); };
  EXPECT_EQ(finish(1), FinishReason::kLength);
  EXPECT_EQ(count(1), 12u);
  EXPECT_EQ(finish(2), FinishReason::kEndToken);
  EXPECT_EQ(count(2), 5u);
  EXPECT_EQ(finish(3), FinishReason::kStopToken);
  EXPECT_EQ(count(3), 3u);
  EXPECT_GT(count(4), 6u);
  EXPECT_EQ(world().leg(0, RequestId(4)).tokens, reference(late));
  EXPECT_EQ(count(5), 1u);
  world().expect_clean();
}

TEST_F(EngineTest, RefusesWithAReason) {
  auto options = defaults();
  options.engine.blocks = 10;
  options.engine.scheduler.max_waiting = 2;
  options.engine.scheduler.vocab_size = 950;
  make(options);
  world().submit(0, request(1, 199, 2));
  world().submit(0, request(2, 60, 2));
  world().submit(0, request(3, 0, 2));
  auto foreign = request(4, 5, 2);
  foreign.prompt[0] = 950;
  world().submit(0, foreign);
  world().submit(0, request(5, 5, 2), Leg::kPrefill);
  for (uint64_t i = 10; i < 14; ++i) world().submit(0, request(i, 5, 2));
  world().run();
  const auto refused = [&](uint64_t id, Leg leg = Leg::kWhole) {
    return world().leg(0, RequestId(id), leg).refused;
  };
  EXPECT_EQ(refused(1), RefuseReason::kTooLong);
  EXPECT_EQ(refused(2), RefuseReason::kNoBlocks);
  EXPECT_EQ(refused(3), RefuseReason::kInvalid);
  EXPECT_EQ(refused(4), RefuseReason::kInvalid);
  EXPECT_EQ(refused(5, Leg::kPrefill), RefuseReason::kInvalid);
  EXPECT_EQ(refused(11), RefuseReason::kNone);
  EXPECT_EQ(refused(12), RefuseReason::kOverloaded);
  world().engine(0).set_draining(true);
  world().submit(0, request(20, 5, 2));
  world().run();
  EXPECT_EQ(refused(20), RefuseReason::kDraining);
  EXPECT_GE(world().engine(0).counters().refused, 7u);
  world().expect_clean();
}

TEST_F(EngineTest, WithoutAHashKeyNothingIsAccepted) {
  ManualClock clock;
  support::FakeKvFabric fabric({}, clock);
  support::KvHashPool pool(2, 8, kBlock);
  Engine engine({.blocks = 8, .block_tokens = kBlock},
                fabric.join({"w", Incarnation(1)}, pool, [](const KvEvent&) { FAIL(); }));
  std::vector<WorkerMessage> out;
  engine.on_message(Submit{.request = request(1, 5, 2)}, {});
  engine.drain_messages(out);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(std::get<SubmitReply>(out[0]).reason, RefuseReason::kInvalid);
  engine.on_message(CoordinatorHello{.hash_key = {1, 2}}, {});
  engine.on_message(Submit{.request = request(1, 5, 2)}, {});
  engine.on_message(Submit{.request = request(1, 5, 2)}, {});
  out.clear();
  engine.drain_messages(out);
  EXPECT_TRUE(std::get<SubmitReply>(out[0]).accepted);
  EXPECT_FALSE(std::get<SubmitReply>(out[1]).accepted) << "the same request twice";
  engine.on_message(Release{RequestId(77)}, {});
  out.clear();
  engine.drain_messages(out);
  EXPECT_TRUE(out.empty()) << "unknown requests are ignored";
}

// The engine itself looks at min_tokens, whatever the sampler does.
TEST_F(EngineTest, AnEndTokenBeforeMinTokensDoesNotEnd) {
  ManualClock clock;
  support::FakeKvFabric fabric({}, clock);
  support::KvHashPool pool(2, 8, kBlock);
  Engine engine({.blocks = 8, .block_tokens = kBlock},
                fabric.join({"w", Incarnation(1)}, pool, [](const KvEvent&) { FAIL(); }));
  engine.set_hash_key({1, 2});
  auto r = request(1, 5, 9);
  r.stop.end_token_ids = {7};
  r.stop.min_tokens = 3;
  engine.on_message(Submit{.request = r}, {});
  int steps = 0;
  while (const StepPlan* plan = engine.plan({})) {
    StepResult result{.id = plan->id, .sampled = {{.planned = 0, .token = TokenOutput{.token = 7}}}};
    engine.on_step_done(result, {});
    ++steps;
  }
  EXPECT_EQ(steps, 4) << "3 tokens, then one that may end it";
  EXPECT_TRUE(engine.idle());
}

TEST_F(EngineTest, ReleaseAtEveryMomentFreesWithinOneStep) {
  // The moments are the turns of an undisturbed run.
  for (int moment = 0; moment < 80; ++moment) {
    SCOPED_TRACE(moment);
    make();
    const auto victim = request(1, 30, 10);
    const auto other = request(2, 12, 20, 300);
    world().submit(0, other);
    world().submit(0, victim);
    for (int i = 0; i < moment; ++i) world().turn();
    world().release(0, victim.id);
    const uint64_t steps = world().engine(0).counters().steps;
    while (world().leg(0, victim.id).released == 0) ASSERT_TRUE(world().turn());
    EXPECT_LE(world().engine(0).counters().steps, steps + 1);
    // Nothing is said about it any more, unless the step that ran made its last token.
    const auto& leg = world().leg(0, victim.id);
    EXPECT_EQ(leg.finish, leg.tokens.size() == 10 ? FinishReason::kLength : FinishReason::kNone);
    world().run();
    EXPECT_EQ(world().leg(0, other.id).tokens, reference(other));
    world().expect_clean();
  }
}

TEST_F(EngineTest, ARequestIdMayComeAgainAfterItsRelease) {
  make();
  world().submit(0, request(1, 30, 10));
  world().turn();
  world().release(0, RequestId(1));
  world().run();
  world().submit(0, request(1, 30, 10));
  world().run();
  EXPECT_EQ(world().leg(0, RequestId(1)).tokens, reference(request(1, 30, 10)));
  world().expect_clean();
}

TEST_F(EngineTest, DeadlinesFireWithoutTraffic) {
  auto options = defaults();
  options.engine.blocks = 12;
  make(options, 2);
  // A decode leg whose sender never speaks holds most of the pool; another one waits behind it; both end in
  // time.
  auto landing = request(1, 36, 8);
  landing.time_left = 2s;
  world().submit(0, landing, Leg::kDecode, TransferId(1), 1);
  auto waiting = request(2, 36, 8, 100);
  waiting.time_left = 1s;
  world().submit(0, waiting);
  world().run_for(900ms);
  EXPECT_EQ(world().leg(0, waiting.id).finish, FinishReason::kNone);
  EXPECT_EQ(world().engine(0).next_deadline(), Instant{} + 1s);
  world().run_for(200ms);
  EXPECT_EQ(world().leg(0, waiting.id).finish, FinishReason::kError);
  EXPECT_EQ(world().leg(0, waiting.id).error, "deadline exceeded");
  world().run_for(1s);
  EXPECT_EQ(world().leg(0, landing.id, Leg::kDecode).finish, FinishReason::kError);
  EXPECT_EQ(world().engine(0).counters().deadline_expired, 2u);
  EXPECT_EQ(world().engine(0).next_deadline(), kNever);
  world().expect_clean();
}

TEST_F(EngineTest, ADeadlineEndsADecodingSequence) {
  make();
  auto r = request(1, 10, 150);
  r.time_left = 20ms;
  world().submit(0, r);
  auto none = request(2, 10, 3, 50);
  none.time_left = Duration::max();
  world().submit(0, none);
  world().run();
  const auto& leg = world().leg(0, r.id);
  EXPECT_EQ(leg.finish, FinishReason::kError);
  EXPECT_GT(leg.tokens.size(), 2u);
  EXPECT_LT(leg.tokens.size(), 40u);
  EXPECT_EQ(world().leg(0, none.id).finish, FinishReason::kLength);
  world().expect_clean();
}

TEST_F(EngineTest, PromptLogprobsComeWholeWithTheFirstToken) {
  auto options = defaults();
  options.engine.scheduler.token_budget = 32;  // several chunks
  make(options);
  auto r = request(1, 90, 3);
  world().submit(0, r);  // fills the prefix cache
  world().run();
  auto wanted = request(2, 90, 3);
  wanted.sampling.prompt_logprobs = 0;
  world().submit(0, wanted);
  world().run();
  EXPECT_EQ(world().leg(0, wanted.id).prompt_tokens,
            support::kvhash_prompt_reference(wanted, options.kv.layers));
  EXPECT_EQ(world().leg(0, wanted.id).tokens, reference(wanted));
  EXPECT_EQ(world().leg(0, wanted.id).cached_tokens, 0);
  EXPECT_TRUE(world().leg(0, r.id).prompt_tokens.empty());
  world().expect_clean();
}

// A message has a largest size, whatever the length of a prompt.
TEST_F(EngineTest, PromptLogprobsComeInReportsOfABoundedSize) {
  auto options = defaults();
  options.engine.prompt_values = 16;
  make(options);
  auto wanted = request(1, 90, 3);
  wanted.sampling.prompt_logprobs = 0;
  world().submit(0, wanted);
  world().run();
  EXPECT_EQ(world().leg(0, wanted.id).prompt_tokens,
            support::kvhash_prompt_reference(wanted, options.kv.layers));
  EXPECT_LE(world().leg(0, wanted.id).most_prompt_tokens, 16u);
  EXPECT_EQ(world().leg(0, wanted.id).tokens, reference(wanted));
  world().expect_clean();
}

TEST_F(EngineTest, PromptLogprobsSurvivePreemption) {
  auto options = defaults();
  options.engine.blocks = 20;
  options.engine.scheduler.token_budget = 32;
  options.engine.scheduler.itl_objective = 1ms;
  make(options);
  world().submit(0, request(1, 20, 50));
  auto wanted = request(2, 40, 3, 100);
  wanted.sampling.prompt_logprobs = 0;
  for (int i = 0; i < 6; ++i) world().turn();
  world().submit(0, wanted);
  world().run();
  EXPECT_EQ(world().leg(0, wanted.id).prompt_tokens,
            support::kvhash_prompt_reference(wanted, options.kv.layers));
  world().expect_clean();
}

TEST_F(EngineTest, CachedTokensAreReportedAndCounted) {
  make();
  world().submit(0, request(1, 41, 2));
  world().run();
  world().submit(0, request(2, 41, 2));
  world().run();
  EXPECT_EQ(world().leg(0, RequestId(1)).cached_tokens, 0);
  EXPECT_EQ(world().leg(0, RequestId(2)).cached_tokens, 40);
  const EngineCounters counters = world().engine(0).counters();
  EXPECT_EQ(counters.prefix_query_tokens, 82u);
  EXPECT_EQ(counters.prefix_hit_tokens, 40u);
  EXPECT_EQ(counters.accepted, 2u);
  EXPECT_EQ(counters.finished, 2u);
  EXPECT_EQ(counters.prefill_tokens, 42u);
  EXPECT_GT(counters.step_seconds, 0);
}

TEST_F(EngineTest, GeneratedBlocksServeTheNextTurnOfAChat) {
  make();
  const auto first = request(1, 10, 20);
  world().submit(0, first);
  world().run();
  auto second = request(2, 10, 4);
  for (TokenId t : world().leg(0, first.id).tokens) second.prompt.push_back(t);
  second.prompt.push_back(7);
  world().submit(0, second);
  world().run();
  EXPECT_EQ(world().leg(0, second.id).cached_tokens, 28)
      << "29 positions of the first were computed: 7 full blocks";
  EXPECT_EQ(world().leg(0, second.id).tokens, reference(second));
}

TEST_F(EngineTest, GivingUpEndsEverything) {
  make(defaults(), 2);
  world().submit(0, request(1, 30, 10));
  world().submit(0, request(2, 30, 10, 200), Leg::kDecode, TransferId(1), 1);
  for (int i = 0; i < 2; ++i) world().turn();
  world().run_for(3ms);
  while (world().engine(0).next_deadline() == kNever) world().turn();
  // Between steps only: go on until the running step is over.
  const uint64_t steps = world().engine(0).counters().steps;
  while (world().engine(0).counters().steps == steps) world().turn();
  world().engine(0).give_up("a rank is gone");
  world().run();
  EXPECT_EQ(world().leg(0, RequestId(1)).error, "a rank is gone");
  EXPECT_EQ(world().leg(0, RequestId(1)).finish, FinishReason::kWorkerEnds);
  EXPECT_EQ(world().leg(0, RequestId(2), Leg::kDecode).error, "a rank is gone");
  world().expect_clean();
}

TEST_F(EngineTest, PreemptedUnderPressureAndExact) {
  auto options = defaults();
  options.engine.blocks = 24;
  make(options);
  std::vector<GenerateRequest> requests;
  for (uint64_t i = 1; i <= 8; ++i) {
    requests.push_back(request(i, 8, 40, static_cast<TokenId>(60 * i)));
    world().submit(0, requests.back());
  }
  world().run();
  EXPECT_GT(world().engine(0).counters().preemptions, 0u);
  for (const auto& r : requests) EXPECT_EQ(world().leg(0, r.id).tokens, reference(r));
  world().expect_clean();
}

}  // namespace
}  // namespace baton::worker
