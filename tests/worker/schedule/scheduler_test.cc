#include <algorithm>
#include <set>

#include "base/rng.h"
#include "tests/worker/schedule/scheduler_world.h"

namespace baton::worker {
namespace {

TEST_F(SchedulerTest, WithoutDecodesAPromptIsOneChunk) {
  make(64);
  const Sequence& s = add(request(1, 50, 3));
  ASSERT_TRUE(plan());
  EXPECT_EQ(rows_of(s)->row_count, 50);
  EXPECT_TRUE(rows_of(s)->sample);
  run();
  ASSERT_TRUE(plan());
  EXPECT_EQ(rows_of(s)->row_count, 1);
  EXPECT_EQ(rows_of(s)->first_position, 50);
}

// A burst of prompts with one beginning: the first computes it, the others wait that one step and find it.
TEST_F(SchedulerTest, ASharedPrefixOfABurstIsComputedOnce) {
  make(64);
  const auto burst = [](uint64_t id, int shared) {
    GenerateRequest r = request(id, shared, 3);
    for (int i = 0; i < 8; ++i) r.prompt.push_back(static_cast<TokenId>(500 + 20 * id + i));
    return r;
  };
  const Sequence& first = add(burst(1, 20));
  const Sequence& second = add(burst(2, 20));
  const Sequence& third = add(burst(3, 20));
  ASSERT_TRUE(step());
  EXPECT_EQ(first.state, SequenceState::kDecoding);
  EXPECT_EQ(second.state, SequenceState::kWaiting);
  ASSERT_TRUE(plan());
  EXPECT_EQ(rows_of(second)->first_position, 20);
  EXPECT_EQ(rows_of(second)->row_count, 8);
  EXPECT_EQ(rows_of(third)->row_count, 8);  // what they do not share is computed together
  run();
  while (step()) {
  }
  EXPECT_EQ(finished_.size(), 3u);
}

TEST_F(SchedulerTest, PromptsWithOtherBeginningsDoNotWait) {
  make(64);
  const Sequence& first = add(request(1, 28, 3));
  const Sequence& second = add(request(2, 28, 3, 100));
  ASSERT_TRUE(plan());
  EXPECT_EQ(rows_of(first)->row_count, 28);
  EXPECT_EQ(rows_of(second)->row_count, 28);
}

// Whom it waited for is gone: it computes the rest itself.
TEST_F(SchedulerTest, WhoWaitsForABeginningOutlivesItsMaker) {
  make(64);
  Sequence& first = add(request(1, 100, 3));
  const Sequence& second = add(request(2, 100, 3));
  ASSERT_TRUE(step());  // 64 tokens of the first
  scheduler_->remove(first);
  ASSERT_TRUE(plan());
  EXPECT_EQ(rows_of(second)->first_position, 64);
  EXPECT_EQ(rows_of(second)->row_count, 36);
}

TEST_F(SchedulerTest, WithDecodesTheChunkMeetsTheObjective) {
  auto options = small_options();
  options.itl_objective = from_seconds(0.0032);  // base 1 ms + one decode 0.1 ms + 21 tokens
  make(64, options);
  const Sequence& first = add(request(1, 4, 40));
  ASSERT_TRUE(step());
  const Sequence& second = add(request(2, 60, 2, 100));
  ASSERT_TRUE(plan());
  EXPECT_EQ(plan_.rows[0].sequence, &first) << "decodes come first";
  ASSERT_NE(rows_of(second), nullptr);
  EXPECT_EQ(rows_of(second)->row_count, 21);
  EXPECT_FALSE(rows_of(second)->sample);
}

// Its second token would otherwise wait for a step as long as one that nobody watches.
TEST_F(SchedulerTest, WithALandingTheChunkMeetsTheObjective) {
  auto options = small_options();
  options.itl_objective = from_seconds(0.0032);  // base 1 ms + 22 tokens
  make(64, options);
  const Sequence& leg = add(request(1, 20, 8), Leg::kDecode);
  EXPECT_FALSE(plan());
  EXPECT_EQ(leg.state, SequenceState::kLanding);
  const Sequence& prefill = add(request(2, 60, 2, 100));
  ASSERT_TRUE(plan());
  ASSERT_NE(rows_of(prefill), nullptr);
  EXPECT_EQ(rows_of(prefill)->row_count, 22);
}

TEST_F(SchedulerTest, TheOldestPrefillAlwaysAdvances) {
  auto options = small_options();
  options.itl_objective = from_seconds(0.0001);  // cannot be met
  make(64, options);
  add(request(1, 4, 60));
  ASSERT_TRUE(step());
  const Sequence& second = add(request(2, 40, 2, 100));
  const Sequence& third = add(request(3, 40, 2, 300));
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(plan());
    EXPECT_EQ(rows_of(second)->row_count, 4) << "min_chunk";
    EXPECT_EQ(rows_of(third), nullptr);
    run();
  }
}

TEST_F(SchedulerTest, TheBudgetIsKept) {
  make(1000);
  for (uint64_t i = 0; i < 30; ++i)
    add(request(i + 1, 20 + static_cast<int>(i), 10, static_cast<TokenId>(31 * i)));
  int most = 0;
  while (plan()) {
    int rows = 0;
    for (const auto& r : plan_.rows) rows += r.row_count;
    EXPECT_EQ(rows, plan_.total_rows);
    EXPECT_LE(rows, 64);
    EXPECT_LE(plan_.rows.size(), 16u) << "max_running";
    most = std::max(most, rows);
    run();
  }
  EXPECT_EQ(finished_.size(), 30u);
  EXPECT_GT(most, 50);
}

TEST_F(SchedulerTest, AdmitsInOrderAndOnlyWhatFits) {
  make(12);
  const Sequence& big = add(request(1, 30, 10));       // 30 + 4 tokens: 9 blocks
  const Sequence& next = add(request(2, 14, 4, 100));  // 5 blocks: has to wait
  const Sequence& tiny = add(request(3, 2, 2, 200));   // would fit, but is younger
  ASSERT_TRUE(plan());
  EXPECT_NE(rows_of(big), nullptr);
  EXPECT_EQ(next.state, SequenceState::kWaiting);
  EXPECT_EQ(tiny.state, SequenceState::kWaiting);
  run();
  while (step()) {
  }
  EXPECT_EQ(listener_.admitted, (std::vector{SequenceId(1), SequenceId(2), SequenceId(3)}));
}

TEST_F(SchedulerTest, PrefixHitIsNotComputedAgain) {
  make(64);
  add(request(1, 33, 2));
  while (step()) {
  }
  const Sequence& again = add(request(2, 33, 2));
  ASSERT_TRUE(plan());
  EXPECT_EQ(rows_of(again)->first_position, 32);
  EXPECT_EQ(rows_of(again)->row_count, 1);
  EXPECT_EQ(again.cached_tokens, 32);
  run();
  while (step()) {
  }
  EXPECT_EQ(outputs_[RequestId(1)], outputs_[RequestId(2)]);
  const Sequence& full = add(request(3, 32, 2));  // all of it is cached: one token is left all the same
  ASSERT_TRUE(plan());
  EXPECT_EQ(rows_of(full)->first_position, 28);
}

TEST_F(SchedulerTest, TenantsDoNotShare) {
  make(64);
  add(request(1, 33, 2));
  while (step()) {
  }
  auto other = request(2, 33, 2);
  other.tenant_salt = "another";
  const Sequence& s = add(other);
  ASSERT_TRUE(plan());
  EXPECT_EQ(rows_of(s)->first_position, 0);
}

TEST_F(SchedulerTest, PromptLogprobsComputeTheWholePrompt) {
  make(64);
  add(request(1, 33, 2));
  while (step()) {
  }
  auto wanted = request(2, 33, 2);
  wanted.sampling.prompt_logprobs = 0;
  const Sequence& s = add(wanted);
  ASSERT_TRUE(plan());
  EXPECT_EQ(rows_of(s)->first_position, 0);
  EXPECT_TRUE(rows_of(s)->prompt_logits);
  run();
  ASSERT_TRUE(plan());
  EXPECT_FALSE(rows_of(s)->prompt_logits);
}

TEST_F(SchedulerTest, PreemptionIsExactAndTakesTheYoungest) {
  make(10);
  const auto a = request(1, 12, 25);
  const auto b = request(2, 12, 25, 400);
  add(a);
  add(b);
  std::vector<uint64_t> preempted;
  while (step()) {
  }
  EXPECT_GT(scheduler_->preemptions(), 0u);
  EXPECT_EQ(finished_, (std::vector{RequestId(1), RequestId(2)})) << "the older is never the victim";
  EXPECT_EQ(outputs_[RequestId(1)], baton::support::kvhash_reference(a, 1, model_));
  EXPECT_EQ(outputs_[RequestId(2)], baton::support::kvhash_reference(b, 1, model_));
}

TEST_F(SchedulerTest, PolicyRejectEndsTheYoungest) {
  auto options = small_options();
  options.preemption = PreemptionPolicy::kReject;
  make(10, options);
  add(request(1, 12, 25));
  add(request(2, 12, 25, 400));
  while (step()) {
  }
  EXPECT_EQ(listener_.dropped, std::vector{SequenceId(2)});
  EXPECT_EQ(listener_.last_why.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(finished_, std::vector{RequestId(1)});
}

TEST_F(SchedulerTest, APrefillLegIsNeverPreempted) {
  make(12);
  add(request(1, 12, 30));
  ASSERT_TRUE(step());
  Sequence& leg = add(request(2, 20, 4, 300), Leg::kPrefill);  // 5 blocks, leased until drained
  ASSERT_TRUE(step());
  EXPECT_EQ(leg.state, SequenceState::kSending);
  while (step()) {
    ASSERT_EQ(leg.state, SequenceState::kSending);
    if (scheduler_->preemptions() > 0) break;  // the decoding one had to give way to itself
  }
  EXPECT_EQ(scheduler_->preemptions(), 1u);
  EXPECT_FALSE(plan()) << "nothing fits while the transfer reads";
  scheduler_->remove(leg);
  EXPECT_FALSE(plan()) << "the lease still holds the blocks";
  cache_->unlease(TransferId(2));
  while (step()) {
  }
  EXPECT_EQ(finished_, std::vector{RequestId(1)});
  EXPECT_EQ(outputs_[RequestId(1)], baton::support::kvhash_reference(request(1, 12, 30), 1, model_));
}

TEST_F(SchedulerTest, DecodeLegReservesAllOrNothing) {
  make(10);
  const Sequence& leg = add(request(1, 20, 8), Leg::kDecode);  // 20 + 4 head-room: 6 blocks
  EXPECT_FALSE(plan());
  EXPECT_EQ(leg.state, SequenceState::kLanding);
  EXPECT_EQ(cache_->pool().count(BlockState::kInflight), 5);
  EXPECT_EQ(cache_->pool().count(BlockState::kReserved), 1);
  const Sequence& second = add(request(2, 16, 2, 500), Leg::kDecode);  // 5 blocks: 4 are left
  EXPECT_FALSE(plan());
  EXPECT_EQ(second.state, SequenceState::kWaiting);
  EXPECT_TRUE(second.blocks.empty());
  EXPECT_EQ(scheduler_->next_deadline(), now_ + scheduler_->options().grant_wait);
  now_ = scheduler_->next_deadline();
  EXPECT_FALSE(plan());
  EXPECT_EQ(listener_.dropped, std::vector{SequenceId(2)});
  EXPECT_EQ(scheduler_->next_deadline(), kNever);
}

TEST_F(SchedulerTest, DecodeLegAsksOnlyForWhatItLacks) {
  make(64);
  add(request(1, 33, 2));
  while (step()) {
  }
  add(request(2, 40, 4), Leg::kDecode);
  EXPECT_FALSE(plan());
  EXPECT_EQ(listener_.first_blocks.back(), 8) << "32 of its 40 tokens are here";
  EXPECT_EQ(cache_->pool().count(BlockState::kInflight), 2);
}

TEST_F(SchedulerTest, ARefusedExchangeLeavesNothingBehind) {
  make(16);
  listener_.answer = absl::UnavailableError("no such peer");
  add(request(1, 20, 8), Leg::kDecode);
  add(request(2, 20, 8, 100), Leg::kPrefill);
  EXPECT_FALSE(plan());
  EXPECT_EQ(listener_.dropped.size(), 2u);
  EXPECT_EQ(cache_->pool().free(), 16);
  EXPECT_EQ(cache_->pool().open_transfers(), 0u);
  EXPECT_TRUE(scheduler_->sequences().empty());
}

TEST_F(SchedulerTest, AGrantDoesNotWaitForComputingButForOlderBlocks) {
  auto options = small_options();
  options.token_budget = 16;
  make(40, options);
  add(request(1, 60, 2));
  add(request(2, 60, 2, 100));  // waits for the budget
  const Sequence& leg = add(request(3, 20, 4, 200), Leg::kDecode);
  ASSERT_TRUE(plan());
  EXPECT_EQ(leg.state, SequenceState::kLanding);
}

TEST_F(SchedulerTest, RefusesWhatCanNeverRun) {
  make(8);
  const auto check = [&](const Submit& submit) {
    std::string detail;
    const RefuseReason reason = scheduler_->check(submit, detail);
    EXPECT_EQ(reason == RefuseReason::kNone, detail.empty());
    return reason;
  };
  EXPECT_EQ(check({.request = request(1, 0, 1)}), RefuseReason::kInvalid);
  EXPECT_EQ(check({.request = request(1, 1, 0)}), RefuseReason::kInvalid);
  EXPECT_EQ(check({.request = request(1, 1, 1), .leg = Leg::kDecode}), RefuseReason::kInvalid);
  auto negative = request(1, 3, 1);
  negative.prompt[1] = -1;
  EXPECT_EQ(check({.request = negative}), RefuseReason::kInvalid);
  EXPECT_EQ(check({.request = request(1, 250, 7)}), RefuseReason::kTooLong);
  EXPECT_EQ(check({.request = request(1, 250, INT32_MAX)}), RefuseReason::kTooLong);
  EXPECT_EQ(check({.request = request(1, 32, 1)}), RefuseReason::kNone) << "the last token is never fed";
  EXPECT_EQ(check({.request = request(1, 32, 2)}), RefuseReason::kNoBlocks);
  EXPECT_EQ(check({.request = request(1, 32, 100), .leg = Leg::kPrefill, .peer = WorkerRef{}}),
            RefuseReason::kNone);
}

TEST_F(SchedulerTest, BoundaryLengths) {
  const int context = 64;
  auto options = small_options();
  options.context_tokens = context;
  uint64_t id = 1;
  for (int prompt : {1, kBlock - 1, kBlock, kBlock + 1, context - 2, context - 1}) {
    for (int max_tokens : {1, 2, kBlock - 1, kBlock, kBlock + 1, context - prompt}) {
      if (prompt + max_tokens > context) continue;
      make((prompt + max_tokens - 1 + kBlock - 1) / kBlock, options);  // exactly what it needs
      const auto r = request(id++, prompt, max_tokens, 7);
      add(r);
      while (step()) {
      }
      EXPECT_EQ(outputs_[r.id], baton::support::kvhash_reference(r, 1, model_))
          << prompt << " + " << max_tokens;
      EXPECT_EQ(cache_->blocks_active(), 0);
    }
  }
}

// Pools of 8 blocks, random lengths: every sequence ends, with the tokens of an undisturbed run, oldest first
// among those that waited; and something advances in every step.
TEST_F(SchedulerTest, TinyPoolsAlwaysProgress) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Rng rng(seed);
    auto options = small_options();
    options.context_tokens = 8 * kBlock;
    options.headroom_tokens = static_cast<int32_t>(rng.below(6));
    options.min_chunk = 1 + static_cast<int32_t>(rng.below(6));
    options.itl_objective = from_seconds(0.0012);
    make(8, options);
    finished_.clear();
    std::vector<GenerateRequest> requests;
    uint64_t next = 1;
    int idle = 0;
    while (finished_.size() < 60) {
      if (requests.size() < 60 && rng.below(3) == 0) {
        const int prompt = 1 + static_cast<int>(rng.below(30));
        const int most = std::min(8 * kBlock - prompt, 1 + static_cast<int>(rng.below(20)));
        requests.push_back(
            request(1000 * seed + next++, prompt, most, static_cast<TokenId>(50 * rng.below(3))));
        add(requests.back());
      }
      const bool worked = step();
      if (HasFatalFailure()) return;
      ASSERT_TRUE(worked || scheduler_->sequences().empty()) << "work, but no step";
      idle = worked ? 0 : idle + 1;
      ASSERT_LT(idle, 1000);
      ASSERT_LT(steps_, 1'000'000);
    }
    for (const auto& r : requests) EXPECT_EQ(outputs_[r.id], baton::support::kvhash_reference(r, 1, model_));
    EXPECT_EQ(cache_->blocks_active(), 0);
  }
}

TEST_F(SchedulerTest, ALoadSnapshotAddsUp) {
  make(64);
  add(request(1, 10, 20));
  ASSERT_TRUE(step());
  add(request(2, 120, 2, 100));
  ASSERT_TRUE(plan());
  LoadSnapshot load;
  scheduler_->fill(load);
  cache_->fill(load);
  EXPECT_EQ(load.running, 1);
  EXPECT_EQ(load.waiting, 1);
  EXPECT_EQ(load.waiting_prompt_tokens, 120);
  EXPECT_GT(load.prefill_seconds_per_token, 0);
  EXPECT_EQ(load.blocks_free + load.blocks_cached + load.blocks_active + load.blocks_inflight +
                load.blocks_quarantined,
            64);
}

}  // namespace
}  // namespace baton::worker
