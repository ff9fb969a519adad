// Deadlines (I4), and the loss of the peer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "base/timers.h"
#include "tests/worker/kv_transfer/kv_exchange_test.h"

namespace baton::worker {
namespace {

using testing::HasSubstr;
using transport::Fabric;

class KvLossTest : public KvExchangeTest {};
INSTANTIATE_TEST_SUITE_P(Fabrics, KvLossTest, testing::ValuesIn(kEveryFabric), name_of_fabric);

TEST_P(KvLossTest, AGrantWaitsAsLongAsBothLive) {
  ASSERT_TRUE(pair->decode.agent->expect(grant(TransferId(1), 8, range(0, 1))).ok());
  for (int i = 0; i < 60; ++i) {  // a minute in the prefill worker's queue
    pair->now += 1s;
    pair->settle(20);
    if (GetParam() == Fabric::kUcxAm || GetParam() == Fabric::kUcxLocal) std::this_thread::sleep_for(1ms);
  }
  EXPECT_FALSE(pair->decode.drained(TransferId(1)));
  ASSERT_TRUE(pair->prefill.agent->send(send(TransferId(1), 8, range(0, 1))).ok());
  for (int i = 0; i < 60; ++i) {  // a minute of computing
    pair->now += 1s;
    pair->settle(20);
    if (GetParam() == Fabric::kUcxAm || GetParam() == Fabric::kUcxLocal) std::this_thread::sleep_for(1ms);
  }
  pair->prefill.agent->finish(TransferId(1), token(TransferId(1)), FinishReason::kNone);
  ASSERT_TRUE(pair->until([&] { return pair->decode.landed(TransferId(1)); }));
  // Never submitted: ends after the longest life of a request.
  ASSERT_TRUE(pair->decode.agent->expect(grant(TransferId(2), 8, range(0, 1))).ok());
  ASSERT_TRUE(transport::drive(
      [&] {
        pair->settle(5);
        pair->now += 500ms;
      },
      [&] { return pair->decode.drained(TransferId(2)); }));
  pair->settle();
  expect_idle();
}

TEST_P(KvLossTest, ASourceWithoutAGrantGivesUp) {
  ASSERT_TRUE(pair->prefill.agent->send(send(TransferId(1), 8, range(0, 1))).ok());
  pair->prefill.agent->finish(TransferId(1), token(TransferId(1)), FinishReason::kNone);
  pair->settle();
  pair->now += timers::kSourceLease - 1ms;
  pair->settle();
  EXPECT_FALSE(pair->prefill.drained(TransferId(1)));
  pair->now += 1ms;
  pair->settle();
  ASSERT_TRUE(pair->prefill.drained(TransferId(1)));
  EXPECT_THAT(pair->prefill.error(TransferId(1)), HasSubstr("deadline"));
  // A grant that comes later is answered and ends the other side too, within its own wait.
  ASSERT_TRUE(pair->decode.agent->expect(grant(TransferId(1), 8, range(0, 1))).ok());
  pair->settle();
  pair->decode.agent->abandon(TransferId(1));
  ASSERT_TRUE(pair->until([&] { return pair->decode.drained(TransferId(1)); }));
  expect_idle();
}

// SIGSTOP as seen from the other side: nothing comes any more.
TEST_P(KvLossTest, AFrozenSourceIsGivenUp) {
  ASSERT_TRUE(pair->decode.agent->expect(grant(TransferId(1), 16, range(0, 2))).ok());
  ASSERT_TRUE(pair->prefill.agent->send(send(TransferId(1), 16, range(0, 2))).ok());
  pair->prefill.agent->layer_ready(TransferId(1), 0, 16, 16);
  pair->settle();
  for (int i = 0; i < 12 && !pair->decode.drained(TransferId(1)); ++i) {
    pair->now += 1s;
    for (int n = 0; n < 10; ++n) pair->decode.agent->do_work(pair->now);
  }
  ASSERT_TRUE(pair->decode.drained(TransferId(1)));
  EXPECT_TRUE(pair->decode.failures.contains(TransferId(1)));
  EXPECT_EQ(pair->decode.agent->counters().deadlines, 1u);
  // It thaws: its late pieces and its finish meet a transfer that is over.
  pair->decode.fill(BlockId(0), 31337);
  pair->prefill.agent->finish(TransferId(1), token(TransferId(1)), FinishReason::kNone);
  ASSERT_TRUE(pair->until([&] { return pair->prefill.drained(TransferId(1)); }));
  EXPECT_NE(pair->prefill.error(TransferId(1)), "");
  EXPECT_TRUE(pair->decode.holds(BlockId(0), 31337));
  expect_idle();
}

// What was offered to a receiver may be read until it has answered or its connection has ended. Without
// checksums, on lanes that go without, nothing else would keep somebody else's KV out of the prompt (I2).
class KvLeaseTest : public KvExchangeTest {
 protected:
  const TransferId id{1};
  const std::vector<BlockId> from = range(0, 2), to = range(40, 2);

  void SetUp() override {
    pair = std::make_unique<ExchangePair>(GetParam(), 96, !transport::goes_without_checksums(GetParam()));
    pair->decode.on_phase = [this](KvPhase phase, TransferId) { in_phase(phase); };
    pair->decode.start({});
    ASSERT_TRUE(pair->join());
    for (uint32_t i = 0; i < 2; ++i) pair->prefill.fill(from[i], 70 + i);
    ASSERT_TRUE(pair->decode.agent->expect(grant(id, 16, to)).ok());
    ASSERT_TRUE(pair->prefill.agent->send(send(id, 16, from)).ok());
    pair->settle();
  }
  virtual void in_phase(KvPhase) {}
  void prefill_runs(Duration later) {
    pair->now += later;
    for (int i = 0; i < 5; ++i) pair->prefill.agent->do_work(pair->now);
  }
  void offer_all() {
    pair->prefill.agent->finish(id, token(id), FinishReason::kNone);
    prefill_runs(0s);
  }
  // Its blocks are somebody else's now.
  void give_away() {
    for (const BlockId block : from) pair->prefill.fill(block, 31337);
  }
  void expect_what_was_sent() {
    for (uint32_t i = 0; i < 2; ++i) EXPECT_TRUE(pair->decode.holds(to[i], 70 + i));
  }
  bool over() { return pair->decode.drained(id) || pair->decode.landed(id); }
};
INSTANTIATE_TEST_SUITE_P(Fabrics, KvLeaseTest, testing::ValuesIn(kEveryFabric), name_of_fabric);

TEST_P(KvLeaseTest, AFrozenReceiverIsGivenUpByThePieceDeadline) {
  offer_all();
  prefill_runs(timers::kTransferBase + 500ms);  // far under the lease: a piece of 2 KiB has about one second
  EXPECT_EQ(pair->prefill.agent->counters().deadlines, 1u);
  EXPECT_FALSE(pair->prefill.drained(id));
  EXPECT_TRUE(pair->prefill.plane->connected(pair->decode.ref));
  prefill_runs(timers::kQuarantineBeforeTeardown);
  EXPECT_FALSE(pair->prefill.plane->connected(pair->decode.ref));
  ASSERT_TRUE(pair->prefill.drained(id));
  EXPECT_THAT(pair->prefill.error(id), HasSubstr("deadline"));
  give_away();
  ASSERT_TRUE(pair->until([&] { return over(); }));
  // Bytes that travelled with their offers may be here, whole; what has to be fetched is not.
  if (pair->decode.landed(id)) expect_what_was_sent();
  const bool fetches = transport::lane_of(GetParam()) == "local" || GetParam() == Fabric::kGet;
  EXPECT_FALSE(fetches && pair->decode.landed(id));
  pair->settle();
  expect_idle();
  ASSERT_TRUE(pair->join());
}

TEST_P(KvLeaseTest, ACancelledTransferIsDrainedWhenTheReceiverHasAnswered) {
  offer_all();
  pair->prefill.agent->cancel(id);
  prefill_runs(timers::kQuarantineBeforeTeardown - 1ms);
  EXPECT_EQ(pair->prefill.agent->counters().send_failed, 1u);
  EXPECT_FALSE(pair->prefill.drained(id));
  ASSERT_TRUE(pair->until([&] { return over() && pair->prefill.drained(id); }));
  EXPECT_THAT(pair->prefill.error(id), HasSubstr("cancelled"));
  EXPECT_TRUE(pair->prefill.plane->connected(pair->decode.ref));
  expect_idle();
}

// The receiver stops between looking at a piece and fetching it, for so long that the sender gives it up.
class KvThawTest : public KvLeaseTest {
 protected:
  void in_phase(KvPhase phase) override {
    if (phase != KvPhase::kTransfer || pair->prefill.drained(id)) return;
    prefill_runs(timers::kTransferBase + 500ms);
    prefill_runs(timers::kQuarantineBeforeTeardown);
    ASSERT_TRUE(pair->prefill.drained(id));
    give_away();
  }
};
// UCX's links cannot tell that a peer has hung up.
INSTANTIATE_TEST_SUITE_P(Fabrics, KvThawTest,
                         testing::Values(Fabric::kLoopbackLocal, Fabric::kSocketLocal, Fabric::kGet),
                         name_of_fabric);

TEST_P(KvThawTest, WhatItFetchesThenIsNotServed) {
  offer_all();
  ASSERT_TRUE(pair->until([&] { return over(); }));
  EXPECT_TRUE(pair->prefill.drained(id));
  EXPECT_FALSE(pair->decode.landed(id));
  expect_idle();
}

TEST_P(KvLossTest, FenceEndsEverythingWithThatLife) {
  for (uint64_t i = 1; i <= 3; ++i) {
    ASSERT_TRUE(
        pair->decode.agent->expect(grant(TransferId(i), 16, range(2 * static_cast<uint32_t>(i), 2))).ok());
    ASSERT_TRUE(
        pair->prefill.agent->send(send(TransferId(i), 16, range(2 * static_cast<uint32_t>(i), 2))).ok());
  }
  // And one the other way round.
  auto back = grant(TransferId(9), 8, range(50, 1));
  back.source = pair->decode.ref;
  ASSERT_TRUE(pair->prefill.agent->expect(back).ok());
  pair->settle();
  ASSERT_TRUE(pair->decode.agent->fence(pair->prefill.ref));
  ASSERT_TRUE(pair->until([&] {
    return pair->prefill.agent->open_transfers() == 0 && pair->decode.agent->open_transfers() == 0;
  }));
  EXPECT_EQ(pair->decode.failures.size(), 3u);
  EXPECT_EQ(pair->prefill.drains.size(), 4u);
  EXPECT_FALSE(pair->decode.reports.back().connected);
  EXPECT_FALSE(pair->decode.agent->expect(grant(TransferId(10), 16, range(0, 2))).ok());
  ASSERT_TRUE(pair->decode.agent->connect(pair->prefill.description()));
  pair->settle();
  EXPECT_THAT(pair->decode.reports.back().error, HasSubstr("that life is over"));
  EXPECT_TRUE(pair->decode.reports.back().over);
}

TEST_P(KvLossTest, ARestartedPeerIsAnotherPeer) {
  ASSERT_TRUE(pair->decode.agent->expect(grant(TransferId(1), 16, range(0, 2))).ok());
  ExchangeSide next(GetParam(), pair->hub, "prefill", 2);
  ASSERT_TRUE(next.agent->connect(pair->decode.description()));
  pair->decode.plane->let_in(next.ref);  // the coordinator has named it
  ASSERT_TRUE(transport::drive(
      [&] {
        pair->step();
        next.agent->do_work(pair->now);
      },
      [&] { return pair->decode.drained(TransferId(1)) && pair->decode.plane->connected(next.ref); }));
  EXPECT_THAT(pair->decode.failures.at(TransferId(1)).reason, HasSubstr("source lost"));
  EXPECT_FALSE(pair->decode.agent->expect(grant(TransferId(2), 16, range(0, 2))).ok());
}

}  // namespace
}  // namespace baton::worker
