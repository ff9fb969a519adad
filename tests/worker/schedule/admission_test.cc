#include "tests/worker/schedule/scheduler_world.h"

// Who is admitted when, where somebody else stands in the way.
namespace baton::worker {
namespace {

using std::chrono::milliseconds;

// A plan without rows while there would be some: the engine's thread sleeps then.
TEST_F(SchedulerTest, WhoStoodBehindAnExpiredGrantIsAdmittedInTheSamePlan) {
  SchedulerOptions options = small_options();
  options.grant_wait = milliseconds(500);
  make(32, options);
  add(request(1, 80, 2, 100), Leg::kDecode);  // 20 blocks and head-room: lands for long
  plan();
  const Sequence& waits = add(request(2, 60, 2, 300), Leg::kDecode);
  const Sequence& small = add(request(3, 8, 2, 500));
  EXPECT_FALSE(plan());
  now_ += milliseconds(500);
  const SequenceId expired = waits.id;
  ASSERT_TRUE(plan());
  EXPECT_EQ(listener_.dropped, std::vector<SequenceId>{expired});
  EXPECT_NE(rows_of(small), nullptr);
}

// The draft had rows of the first prompt only; with it gone the second one has work to do at once.
TEST_F(SchedulerTest, ADraftThatLosesItsChunkIsMadeAnew) {
  SchedulerOptions options = small_options();
  options.step_objective = milliseconds(2);  // ten tokens
  make(64, options);
  Sequence& first = add(request(1, 40, 2, 100));
  const Sequence& second = add(request(2, 40, 2, 300));
  ASSERT_TRUE(step());
  ASSERT_TRUE(plan());
  EXPECT_EQ(rows_of(second), nullptr);
  scheduler_->prepare();
  run();
  scheduler_->remove(first);
  ASSERT_TRUE(plan());
  EXPECT_NE(rows_of(second), nullptr);
}

// A prompt that waits for blocks keeps them from younger ones in steps that have no tokens left for it, too.
TEST_F(SchedulerTest, NobodyYoungerTakesBlocksInAFullStep) {
  SchedulerOptions options = small_options();
  options.itl_objective = milliseconds(1);  // beside a decode the first prompt advances, and nobody else
  options.prompt_logit_rows = 4;
  make(32, options);
  add(request(1, 12, 20, 100));
  GenerateRequest slow = request(2, 60, 2, 200);
  slow.sampling.prompt_logprobs = 0;
  add(slow);
  const Sequence& big = add(request(3, 100, 2, 300));  // 26 of the 12 blocks that are left
  ASSERT_TRUE(step());
  const Sequence& young = add(request(4, 8, 2, 500), Leg::kDecode);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(step());
    EXPECT_EQ(big.state, SequenceState::kWaiting);
    EXPECT_EQ(young.state, SequenceState::kWaiting);
  }
}

TEST_F(SchedulerTest, RowsWhoseLogitsAreWantedAreBoundedInAStep) {
  SchedulerOptions options = small_options();
  options.prompt_logit_rows = 16;
  make(128, options);
  for (uint64_t id = 1; id <= 3; ++id) {
    GenerateRequest r = request(id, 30, 2, static_cast<TokenId>(100 * id));
    r.sampling.prompt_logprobs = 0;
    add(r);
  }
  add(request(4, 30, 2, 700));
  while (plan()) {
    int32_t rows = 0;
    for (const PlannedRows& planned : plan_.rows) rows += planned.prompt_logits ? planned.row_count : 0;
    EXPECT_LE(rows, 16);
    run();
  }
  EXPECT_EQ(finished_.size(), 4u);
}

// The other leg computes them: this one takes what it has.
TEST_F(SchedulerTest, ADecodeLegKeepsItsPrefixWithPromptLogprobs) {
  make(64);
  add(request(1, 24, 2));
  while (step()) {
  }
  GenerateRequest r = request(2, 24, 2);
  r.sampling.prompt_logprobs = 0;
  const Sequence& leg = add(r, Leg::kDecode);
  plan();
  EXPECT_EQ(leg.cached_tokens, 20);
}

}  // namespace
}  // namespace baton::worker
