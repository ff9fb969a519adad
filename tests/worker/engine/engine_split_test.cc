#include <gmock/gmock.h>

#include "base/cat.h"
#include "tests/worker/engine/engine_fixture.h"

// Prefill on one engine, decode on another: the same tokens as on one, whatever happens in between.
namespace baton::worker {
namespace {

using namespace std::chrono_literals;

class EngineSplitTest : public EngineFixture {
 protected:
  void make_pair(const support::EngineWorldOptions& options = defaults()) { make(options, 3); }
  support::LegRecord& prefill(RequestId id) { return world().leg(kP, id, Leg::kPrefill); }
  support::LegRecord& decode(RequestId id) { return world().leg(kD, id, Leg::kDecode); }
  static constexpr size_t kP = 0;
  static constexpr size_t kD = 1;
  static constexpr size_t kOther = 2;
};

TEST_F(EngineSplitTest, TheSameTokensAsOnOneWorker) {
  make_pair();
  std::vector<GenerateRequest> requests;
  for (int prompt : {1, 2, kBlock - 1, kBlock, kBlock + 1, 2 * kBlock, 31, 64, 65, 100}) {
    requests.push_back(request(requests.size() + 1, prompt, 7, static_cast<TokenId>(40 * requests.size())));
    world().submit_split(kP, kD, requests.back());
  }
  world().run();
  for (const auto& r : requests) {
    EXPECT_EQ(world().split_tokens(kP, kD, r.id), reference(r)) << r.prompt.size();
    EXPECT_EQ(prefill(r.id).tokens.size(), 1u);
    EXPECT_EQ(prefill(r.id).finish, FinishReason::kNone);
    EXPECT_EQ(decode(r.id).finish, FinishReason::kLength);
  }
  world().expect_clean();
  EXPECT_EQ(world().fabric().open(), 0u);
}

TEST_F(EngineSplitTest, TheFirstTokenDoesNotWaitForTheTransfer) {
  auto options = defaults();
  options.kv.piece_delay = 500ms;
  make_pair(options);
  world().submit_split(kP, kD, request(1, 20, 4));
  world().run_for(100ms);
  EXPECT_EQ(prefill(RequestId(1)).tokens.size(), 1u);
  EXPECT_TRUE(decode(RequestId(1)).tokens.empty());
  EXPECT_EQ(prefill(RequestId(1)).released, 0) << "the transfer reads its blocks";
  world().run();
  world().expect_clean();
}

TEST_F(EngineSplitTest, WhatTheDecodeSideHoldsIsNotSent) {
  make_pair();
  world().submit(kD, request(1, 80, 2));
  world().run();
  const uint64_t before = world().fabric().pieces_moved();
  world().submit_split(kP, kD, request(2, 84, 5));
  world().run();
  EXPECT_EQ(decode(RequestId(2)).cached_tokens, 80);
  EXPECT_EQ(world().split_tokens(kP, kD, RequestId(2)), reference(request(2, 84, 5)));
  EXPECT_LE(world().fabric().pieces_moved() - before, 2u) << "one block, two layers";
  // And what landed is cached in turn.
  world().submit(kD, request(3, 84, 2));
  world().run();
  EXPECT_EQ(world().leg(kD, RequestId(3)).cached_tokens, 80);
  world().expect_clean();
}

TEST_F(EngineSplitTest, AFirstTokenThatEndsTheSequence) {
  make_pair();
  auto r = request(1, 20, 9);
  r.stop.end_token_ids = {reference(r)[0]};
  world().submit_split(kP, kD, r);
  const auto one = request(2, 20, 1, 300);
  world().submit_split(kP, kD, one);
  world().run();
  EXPECT_EQ(prefill(r.id).finish, FinishReason::kEndToken);
  EXPECT_EQ(decode(r.id).finish, FinishReason::kEndToken);
  EXPECT_TRUE(decode(r.id).tokens.empty());
  EXPECT_EQ(prefill(one.id).finish, FinishReason::kLength);
  EXPECT_EQ(decode(one.id).finish, FinishReason::kLength);
  world().expect_clean();
}

TEST_F(EngineSplitTest, AFailedTransferIsAnErrorAndFreesAfterTheDrain) {
  for (int failing = 0; failing < 6; ++failing) {
    SCOPED_TRACE(failing);
    auto options = defaults();
    int piece = 0;
    options.kv.fails = [&](TransferId, int) { return piece++ == failing; };
    options.kv.drain_delay = 5ms;
    options.engine.scheduler.token_budget = 32;
    make_pair(options);
    const auto r = request(1, 90, 6);
    world().submit_split(kP, kD, r);
    const auto after = request(2, 40, 6, 500);
    world().submit(kD, after);
    while (decode(r.id).finish == FinishReason::kNone) ASSERT_TRUE(world().turn());
    EXPECT_EQ(decode(r.id).finish, FinishReason::kError);
    EXPECT_EQ(decode(r.id).error, "KV transfer failed: injected fault");
    EXPECT_GT(world().engine(kD).load().blocks_quarantined, 0);
    EXPECT_EQ(decode(r.id).released, 0);
    world().run();
    EXPECT_EQ(world().leg(kD, after.id).tokens, reference(after));
    EXPECT_EQ(world().engine(kD).counters().transfers_failed, 1u);
    world().expect_clean();
  }
}

// I8: what a peer says is looked at before anybody looks it up.
TEST_F(EngineSplitTest, AFirstTokenThatTheVocabularyDoesNotHaveEndsThatLegOnly) {
  for (const TokenId token : {TokenId(-1), TokenId(1000), TokenId(2147483647)}) {
    SCOPED_TRACE(token);
    auto options = defaults();
    options.engine.scheduler.vocab_size = 1000;
    options.kv.first_token = [&](TransferId) { return token; };
    make_pair(options);
    const auto r = request(1, 40, 6);
    world().submit_split(kP, kD, r);
    const auto beside = request(2, 40, 6, 500);
    world().submit(kD, beside);
    world().run();
    EXPECT_EQ(decode(r.id).finish, FinishReason::kError);
    EXPECT_THAT(decode(r.id).error, testing::HasSubstr("the vocabulary does not have"));
    EXPECT_EQ(world().leg(kD, beside.id).tokens, reference(beside));
    EXPECT_EQ(world().engine(kD).counters().transfers_failed, 1u);
    world().expect_clean();
  }
}

TEST_F(EngineSplitTest, ReleaseAtEveryMomentOnEitherSideOrBoth) {
  for (const int which : {1, 2, 3}) {
    for (int moment = 0; moment < 70; ++moment) {
      SCOPED_TRACE(testing::Message() << "sides " << which << " moment " << moment);
      auto options = defaults();
      options.engine.scheduler.token_budget = 32;
      options.engine.blocks = 32;
      make_pair(options);
      const auto r = request(1, 70, 6);
      world().submit_split(kP, kD, r);
      for (int i = 0; i < moment; ++i) world().turn();
      if (which & 1) world().release(kP, r.id);
      if (which & 2) world().release(kD, r.id);
      // What comes next takes the same blocks: late bytes would spoil it.
      const auto next = request(2, 70, 6, 300);
      world().submit_split(kP, kD, next);
      world().run_for(20s);
      const auto tokens = world().split_tokens(kP, kD, next.id);
      // Released on both sides, its blocks are there again at once. Released on one, the other leg keeps its
      // own until it has waited long enough, and the next request may fail for want of them.
      if (which == 3 || decode(next.id).finish == FinishReason::kLength) {
        EXPECT_EQ(tokens, reference(next));
      }
      world().run();
      world().expect_clean();
    }
  }
}

TEST_F(EngineSplitTest, TheSenderDies) {
  for (const bool drains : {true, false}) {
    for (int moment = 0; moment < 40; ++moment) {
      SCOPED_TRACE(testing::Message() << drains << " moment " << moment);
      auto options = defaults();
      options.engine.scheduler.token_budget = 32;
      options.engine.blocks = 24;
      options.kv.drains_after_death = drains;
      make_pair(options);
      const auto r = request(1, 70, 6);
      world().submit_split(kP, kD, r);
      for (int i = 0; i < moment; ++i) world().turn();
      world().kill(kP);
      world().run_for(1s);
      const bool ended = decode(r.id).finish != FinishReason::kNone || !decode(r.id).accepted;
      EXPECT_TRUE(ended);
      if (!drains && world().engine(kD).load().blocks_quarantined > 0) {
        world().run_for(1h);
        EXPECT_GT(world().engine(kD).load().blocks_quarantined, 0) << "never by time alone";
      }
      world().fence(kD, kP);
      world().run();
      world().submit_split(kOther, kD, request(2, 70, 6, 200));
      world().run();
      EXPECT_EQ(world().split_tokens(kOther, kD, RequestId(2)), reference(request(2, 70, 6, 200)));
      world().expect_clean();
    }
  }
}

TEST_F(EngineSplitTest, TheReceiverDies) {
  for (int moment = 0; moment < 40; ++moment) {
    SCOPED_TRACE(moment);
    auto options = defaults();
    options.engine.scheduler.token_budget = 32;
    make_pair(options);
    world().submit_split(kP, kD, request(1, 70, 6));
    for (int i = 0; i < moment; ++i) world().turn();
    world().kill(kD);
    world().fence(kP, kD);
    world().run();
    world().submit_split(kP, kOther, request(2, 70, 6));
    world().run();
    EXPECT_EQ(world().split_tokens(kP, kOther, RequestId(2)), reference(request(2, 70, 6)));
    world().expect_clean();
  }
}

TEST_F(EngineSplitTest, OneLegAloneEndsByItself) {
  auto options = defaults();
  options.kv.one_sided = 10s;
  make_pair(options);
  world().submit(kD, request(1, 20, 4), Leg::kDecode, TransferId(100), kP);
  world().submit(kP, request(2, 20, 4), Leg::kPrefill, TransferId(101), kD);
  world().run();
  EXPECT_EQ(decode(RequestId(1)).finish, FinishReason::kError);
  EXPECT_EQ(prefill(RequestId(2)).tokens.size(), 1u);
  EXPECT_LE(world().clock().now(), Instant{} + 11s);
  world().expect_clean();
}

TEST_F(EngineSplitTest, AnUnknownPeerIsSaidSo) {
  make_pair();
  world().kill(kOther);
  world().submit(kD, request(1, 20, 4), Leg::kDecode, TransferId(100), kOther);
  world().submit(kP, request(2, 20, 4), Leg::kPrefill, TransferId(101), kOther);
  world().run();
  EXPECT_EQ(decode(RequestId(1)).refused, RefuseReason::kUnknownPeer);
  EXPECT_EQ(prefill(RequestId(2)).finish, FinishReason::kError);
  world().expect_clean();
}

TEST_F(EngineSplitTest, ATransferIdIsUsedOnce) {
  make_pair();
  world().submit(kP, request(1, 20, 4), Leg::kPrefill, TransferId(7), kD);
  world().submit(kP, request(2, 20, 4), Leg::kPrefill, TransferId(7), kD);
  world().run();
  EXPECT_TRUE(prefill(RequestId(1)).accepted);
  EXPECT_EQ(prefill(RequestId(2)).refused, RefuseReason::kInvalid);
  world().expect_clean();
}

TEST_F(EngineSplitTest, ADecodeLegThatDoesNotFitInTimeIsRefused) {
  auto options = defaults();
  options.engine.blocks = 20;
  options.model.base_seconds = 0.05;
  make_pair(options);
  world().submit(kD, request(1, 40, 39));
  world().run_for(100ms);
  world().submit_split(kP, kD, request(2, 60, 4, 100));
  const Instant asked = world().clock().now();
  while (!decode(RequestId(2)).replied) ASSERT_TRUE(world().turn());
  EXPECT_EQ(decode(RequestId(2)).refused, RefuseReason::kOverloaded);
  EXPECT_LT(world().clock().now() - asked, 1s) << "before the dispatch is given up";
  world().release(kP, RequestId(2));
  world().run();
  world().expect_clean();
}

TEST_F(EngineSplitTest, APreemptedDecodeLegIsComputedHere) {
  auto options = defaults();
  options.engine.blocks = 24;
  make_pair(options);
  std::vector<GenerateRequest> requests;
  for (uint64_t i = 1; i <= 6; ++i) {
    requests.push_back(request(i, 10, 40, static_cast<TokenId>(70 * i)));
    world().submit_split(kP, kD, requests.back());
  }
  world().run();
  EXPECT_GT(world().engine(kD).counters().preemptions, 0u);
  for (const auto& r : requests) {
    if (!decode(r.id).accepted) continue;
    EXPECT_EQ(world().split_tokens(kP, kD, r.id), reference(r));
  }
  EXPECT_EQ(world().engine(kP).counters().preemptions, 0u);
  for (const auto& r : requests) {
    if (!decode(r.id).accepted) world().release(kP, r.id);
  }
  world().run();
  world().expect_clean();
}

TEST_F(EngineSplitTest, SharedPrefixesComputedAtTheSameTime) {
  make_pair();
  for (uint64_t i = 1; i <= 5; ++i) {
    auto r = request(i, 40, 4);
    r.prompt.push_back(static_cast<TokenId>(800 + i));  // differ in the last token
    world().submit_split(kP, kD, r);
  }
  world().run();
  for (uint64_t i = 1; i <= 5; ++i) {
    auto r = request(i, 40, 4);
    r.prompt.push_back(static_cast<TokenId>(800 + i));
    EXPECT_EQ(world().split_tokens(kP, kD, r.id), reference(r));
  }
  world().expect_clean();
  EXPECT_LE(world().engine(kP).cache().blocks_cached(), 10) << "equal blocks are kept once";
}

// What an engine says of transfers: "5 begins", "5 layer 0", "5 cancelled".
class ToldExchange final : public KvExchange {
 public:
  absl::Status expect(const KvGrant&) override { return absl::UnimplementedError("it only sends"); }
  void abandon(TransferId) override {}
  absl::Status send(const KvSend& send) override {
    say(send.transfer, " begins");
    return absl::OkStatus();
  }
  void layer_ready(TransferId id, int layer, int32_t, int32_t) override { say(id, cat(" layer ", layer)); }
  void finish(TransferId id, const TokenOutput&, FinishReason) override { say(id, " finished"); }
  void cancel(TransferId id) override { say(id, " cancelled"); }
  int open_transfers() const override { return 0; }

  std::vector<std::string> told;

 private:
  void say(TransferId id, const std::string& what) { told.push_back(cat(id.value(), what)); }
};

// A leg may end while its step runs: its transfer hears of no further layer.
TEST_F(EngineSplitTest, LayersOfALegThatEndedAreNotTold) {
  ManualClock clock;
  ToldExchange exchange;
  Engine engine(defaults().engine, exchange);
  engine.set_hash_key({1, 2});
  for (uint64_t i : {5, 6})
    engine.on_message(CoordinatorMessage(Submit{.request = request(i, 10, 4, static_cast<TokenId>(70 * i)),
                                                .leg = Leg::kPrefill,
                                                .transfer = TransferId(i),
                                                .peer = WorkerRef{"d", Incarnation(1)}}),
                      clock.now());
  const StepPlan* plan = engine.plan(clock.now());
  ASSERT_NE(plan, nullptr);
  ASSERT_EQ(plan->rows.size(), 2u);
  engine.on_layer(*plan, 0);
  engine.on_message(CoordinatorMessage(Release{RequestId(5)}), clock.now());
  engine.on_layer(*plan, 1);
  EXPECT_EQ(exchange.told, (std::vector<std::string>{"5 begins", "6 begins", "5 layer 0", "6 layer 0",
                                                     "5 cancelled", "6 layer 1"}));
}

}  // namespace
}  // namespace baton::worker
