#include "tests/worker/engine/engine_fixture.h"

// Sequences whose KV is in host memory: what they find there, how long they wait, and who does not.
namespace baton::worker {
namespace {

using namespace std::chrono_literals;

class EngineHostTest : public EngineFixture {
 protected:
  static support::EngineWorldOptions with_host(int64_t blocks = 24) {
    auto options = defaults();
    options.engine.blocks = blocks;
    options.engine.host.slots = 1000;
    options.engine.scheduler.context_tokens = 400;
    options.engine.scheduler.least_fetch = kBlock;
    options.engine.scheduler.fetch_wait = 50ms;
    options.host.block_delay = 50us;
    return options;
  }
  void run(const GenerateRequest& r, size_t at = 0) {
    world().submit(at, r);
    world().run();
    EXPECT_EQ(world().leg(at, r.id).tokens, reference(r));
  }
  // A request that takes every block of the pool.
  void push_everything_out(uint64_t id) {
    run(request(id, static_cast<int>(options_.engine.blocks) * kBlock - 4, 4, static_cast<TokenId>(id * 7)));
  }
  EngineCounters counters(size_t at = 0) { return world().engine(at).counters(); }
};

TEST_F(EngineHostTest, WhatThePoolHadToGiveUpIsFoundAgain) {
  make(with_host());
  run(request(1, 40, 4));
  push_everything_out(2);
  const uint64_t rows = counters().prefill_tokens;
  run(request(3, 40, 4));
  EXPECT_EQ(world().leg(0, RequestId(3)).cached_tokens, 36) << "the coordinator is told at once";
  EXPECT_EQ(counters().prefill_tokens - rows, 4u);
  EXPECT_EQ(counters().host_hit_tokens, 36u);
  EXPECT_GT(counters().host_wait_seconds, 0);
  EXPECT_EQ(counters().host_fetches_failed, 0u);
  world().expect_clean();
}

TEST_F(EngineHostTest, WithoutATierItIsComputed) {
  auto options = with_host();
  options.engine.host.slots = 0;
  make(options);
  run(request(1, 40, 4));
  push_everything_out(2);
  run(request(3, 40, 4));
  EXPECT_EQ(world().leg(0, RequestId(3)).cached_tokens, 0);
  world().expect_clean();
}

TEST_F(EngineHostTest, ThePartThatIsStillInThePoolIsNotCopied) {
  make(with_host(32));
  run(request(1, 80, 4));
  run(request(2, 60, 4, 500));  // takes the place of the end of the first
  const uint64_t in = counters().host.blocks_in;
  run(request(3, 80, 4));
  EXPECT_EQ(world().leg(0, RequestId(3)).cached_tokens, 76);
  EXPECT_GT(counters().host.blocks_in, in);
  EXPECT_LT(counters().host.blocks_in, in + 19) << "the rest was still there";
  world().expect_clean();
}

// Slow copies: the others go on, step after step, while one waits for its blocks.
TEST_F(EngineHostTest, NoStepWaitsForACopy) {
  auto options = with_host(40);
  options.host.block_delay = 2ms;
  make(options);
  run(request(1, 40, 4));
  push_everything_out(2);
  world().submit(0, request(3, 8, 40, 300));
  world().run_for(3ms);
  world().submit(0, request(4, 40, 4));
  const uint64_t steps = counters().steps;
  world().run_for(15ms);
  EXPECT_TRUE(world().leg(0, RequestId(4)).tokens.empty()) << "9 blocks of 2 ms are not here yet";
  EXPECT_GT(counters().steps, steps + 5);
  EXPECT_GT(world().leg(0, RequestId(3)).tokens.size(), 5u);
  world().run();
  EXPECT_EQ(world().leg(0, RequestId(4)).cached_tokens, 36);
  EXPECT_EQ(world().leg(0, RequestId(4)).tokens, reference(request(4, 40, 4)));
  world().expect_clean();
}

TEST_F(EngineHostTest, WhoWaitedTooLongComputes) {
  auto options = with_host();
  make(options);
  run(request(1, 40, 4));
  push_everything_out(2);
  world().host(0).stall(200ms);
  const Instant begun = world().clock().now();
  const uint64_t rows = counters().prefill_tokens;
  world().submit(0, request(3, 40, 4));
  world().run_for(100ms);
  EXPECT_EQ(world().leg(0, RequestId(3)).tokens, reference(request(3, 40, 4)));
  EXPECT_EQ(counters().prefill_tokens - rows, 40u);
  EXPECT_EQ(counters().host_fetches_failed, 1u);
  EXPECT_NEAR(counters().host_wait_seconds, 0.05, 1e-3);
  // While that copy is late nobody else is made to wait for another.
  push_everything_out(4);
  EXPECT_EQ(counters().host_fetches_failed, 1u);
  EXPECT_GE(world().clock().now() - begun, 200ms);
  push_everything_out(5);
  run(request(6, 40, 4));
  EXPECT_EQ(counters().host_hit_tokens, 36u);
  world().expect_clean();
}

TEST_F(EngineHostTest, AFailedCopyIsComputedAndEndsTheTier) {
  auto options = with_host();
  options.host.fails = [](const HostCopy& copy) { return !copy.out; };
  make(options);
  run(request(1, 40, 4));
  push_everything_out(2);
  run(request(3, 40, 4));
  EXPECT_EQ(counters().host_fetches_failed, 1u);
  push_everything_out(4);
  run(request(5, 40, 4));
  EXPECT_EQ(world().leg(0, RequestId(5)).cached_tokens, 0);
  EXPECT_EQ(counters().host_blocks, 0);
  world().expect_clean();
}

TEST_F(EngineHostTest, ABurstWithOneBeginningFetchesItOnce) {
  make(with_host(80));
  run(request(1, 40, 4));
  push_everything_out(2);
  for (uint64_t id = 3; id < 8; ++id) {
    auto r = request(id, 40, 4);
    r.prompt.back() = static_cast<TokenId>(id);
    world().submit(0, r);
  }
  world().run();
  for (uint64_t id = 3; id < 8; ++id) EXPECT_EQ(world().leg(0, RequestId(id)).cached_tokens, 36) << id;
  EXPECT_EQ(counters().host.blocks_in, 9u);
  world().expect_clean();
}

TEST_F(EngineHostTest, ReleasedWhileItsBlocksAreComing) {
  make(with_host());
  run(request(1, 40, 4));
  push_everything_out(2);
  world().submit(0, request(3, 40, 4));
  world().run_for(100us);
  EXPECT_EQ(world().engine(0).cache().pool().copying_count(), 9);
  world().release(0, RequestId(3));
  world().run();
  EXPECT_EQ(world().leg(0, RequestId(3)).released, 1);
  world().expect_clean();
}

TEST_F(EngineHostTest, ItsOwnDeadlineEndsARequestThatWaits) {
  make(with_host());
  run(request(1, 40, 4));
  push_everything_out(2);
  world().host(0).stall(200ms);
  auto r = request(3, 40, 4);
  r.time_left = 10ms;
  world().submit(0, r);
  world().run();
  EXPECT_EQ(world().leg(0, RequestId(3)).error, "deadline exceeded");
  world().expect_clean();
}

// Both sides of a hand-over use their host memory; the decode side is sent only what it does not have.
TEST_F(EngineHostTest, LegsOfASplitRequest) {
  make(with_host(), 2);
  const auto first = request(1, 40, 8);
  world().submit_split(0, 1, first);
  world().run();
  push_everything_out(2);
  world().submit(1, request(3, 92, 4, 21));
  world().run();
  auto next = request(4, 40, 8);
  next.prompt = first.prompt;
  for (TokenId t : reference(first)) next.prompt.push_back(t);
  const uint64_t moved = world().fabric().pieces_moved();
  world().submit_split(0, 1, next);
  world().run();
  EXPECT_EQ(world().split_tokens(0, 1, RequestId(4)), reference(next));
  EXPECT_EQ(world().leg(0, RequestId(4), Leg::kPrefill).cached_tokens, 40);
  EXPECT_EQ(world().leg(1, RequestId(4), Leg::kDecode).cached_tokens, 44);
  EXPECT_GT(world().fabric().pieces_moved(), moved);
  world().expect_clean();
}

TEST_F(EngineHostTest, ADecodeLegWhoseCopyIsLateTakesEverything) {
  auto options = with_host();
  options.engine.scheduler.grant_wait = 30ms;
  make(options, 2);
  const auto first = request(1, 40, 8);
  world().submit_split(0, 1, first);
  world().run();
  world().submit(1, request(3, 92, 4, 21));
  world().run();
  world().host(1).stall(200ms);
  const Instant begun = world().clock().now();
  world().submit_split(0, 1, request(4, 40, 8));
  world().run_for(100ms);
  const support::LegRecord& leg = world().leg(1, RequestId(4), Leg::kDecode);
  EXPECT_TRUE(leg.accepted) << "the coordinator waits for the reply";
  EXPECT_LT(world().clock().now() - begun, 200ms);
  EXPECT_EQ(leg.cached_tokens, 0);
  EXPECT_EQ(counters(1).host_fetches_failed, 1u);
  world().run();
  EXPECT_EQ(world().split_tokens(0, 1, RequestId(4)), reference(request(4, 40, 8)));
  world().expect_clean();
}

}  // namespace
}  // namespace baton::worker
