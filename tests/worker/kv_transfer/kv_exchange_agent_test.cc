// Transfers from the grant to the last block, and ends that somebody wished for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/kv_transfer/kv_exchange_test.h"

namespace baton::worker {
namespace {

using testing::HasSubstr;
using transport::Fabric;

INSTANTIATE_TEST_SUITE_P(Fabrics, KvExchangeTest, testing::ValuesIn(kEveryFabric), name_of_fabric);

TEST_P(KvExchangeTest, OnePromptWithItsFirstToken) {
  const TransferId id(1);
  const auto from = range(10, 3), to = range(40, 3);
  ASSERT_TRUE(pair->decode.agent->expect(grant(id, 20, to)).ok());
  ASSERT_TRUE(pair->prefill.agent->send(send(id, 20, from)).ok());
  EXPECT_EQ(pair->prefill.agent->open_transfers(), 1);
  for (uint32_t i = 0; i < 3; ++i) pair->prefill.fill(from[i], i);
  for (int layer = 0; layer < 3; ++layer) pair->prefill.agent->layer_ready(id, layer, 20, 20);
  ASSERT_TRUE(pair->until([&] { return pair->decode.agent->counters().bytes_received == 2 * 3 * 1024; }));
  pair->settle();
  // Two whole blocks of three layers have landed; the last, partial one waits for finish().
  EXPECT_FALSE(pair->decode.landed(id));
  pair->now += 3ms;
  pair->prefill.agent->finish(id, token(id), FinishReason::kNone);
  ASSERT_TRUE(pair->until([&] { return pair->decode.landed(id) && pair->prefill.drained(id); }));
  const KvLanded& landed = pair->decode.landings.at(id);
  EXPECT_EQ(landed.first_token, token(id));
  EXPECT_EQ(landed.finish, FinishReason::kNone);
  EXPECT_TRUE(landed.report.ok);
  EXPECT_EQ(landed.report.bytes, 9u * 1024);
  EXPECT_EQ(landed.report.request, RequestId(1001));
  EXPECT_EQ(landed.report.lane, transport::lane_of(GetParam()));
  EXPECT_EQ(landed.report.duration, 3ms);  // the clock of this test
  EXPECT_EQ(landed.report.exposed, 0ns);
  EXPECT_EQ(pair->prefill.error(id), "");
  EXPECT_TRUE(pair->prefill.drains.at(id).as_source);
  for (uint32_t i = 0; i < 3; ++i) EXPECT_TRUE(pair->decode.holds(to[i], i));
  expect_idle();
}

// Of two prompts in the same steps. What is worth no word waits for the step's last layer, which tells it
// all.
TEST_P(KvExchangeTest, LayersAreToldTogether) {
  pair = std::make_unique<ExchangePair>(GetParam());
  pair->prefill.word_worth = 1h;
  pair->prefill.start({});
  ASSERT_TRUE(pair->join());
  for (uint32_t i = 0; i < 2; ++i) {
    const auto from = range(10 * i, 2), to = range(40 + 10 * i, 2);
    ASSERT_TRUE(pair->decode.agent->expect(grant(TransferId(i + 1), 16, to)).ok());
    ASSERT_TRUE(pair->prefill.agent->send(send(TransferId(i + 1), 16, from)).ok());
    for (const BlockId block : from) pair->prefill.fill(block, block.value());
  }
  for (const uint64_t blocks : {1, 2})
    for (int layer = 0; layer < 3; ++layer) {
      pair->settle();
      EXPECT_EQ(pair->decode.agent->counters().bytes_received, (blocks - 1) * 2 * 3 * 1024);
      for (const TransferId id : {TransferId(1), TransferId(2)})
        pair->prefill.agent->layer_ready(id, layer, static_cast<int32_t>(8 * blocks), 8);
      if (layer < 2) continue;
      ASSERT_TRUE(pair->until(
          [&] { return pair->decode.agent->counters().bytes_received == blocks * 2 * 3 * 1024; }));
    }
  for (const TransferId id : {TransferId(1), TransferId(2)}) {
    pair->prefill.agent->finish(id, token(id), FinishReason::kNone);
    ASSERT_TRUE(pair->until([&] { return pair->decode.landed(id) && pair->prefill.drained(id); }));
  }
  for (uint32_t i = 0; i < 4; ++i)
    EXPECT_TRUE(pair->decode.holds(BlockId(40 + 10 * (i / 2) + i % 2), 10 * (i / 2) + i % 2));
  expect_idle();
}

TEST_P(KvExchangeTest, TheReceiverHoldsThePrefixOrEverything) {
  for (int32_t first = 0; first <= 3; ++first) {
    const TransferId id(static_cast<uint64_t>(first) + 1);
    const auto from = range(0, 3);
    ASSERT_TRUE(pair->prefill.agent->send(send(id, 24, from)).ok());
    for (uint32_t i = 0; i < 3; ++i) pair->prefill.fill(from[i], 50 + i);
    pair->prefill.agent->finish(id, token(id), FinishReason::kEndToken);
    pair->settle(5);
    const auto to = range(30, static_cast<uint32_t>(3 - first));
    ASSERT_TRUE(pair->decode.agent->expect(grant(id, 24, to, first)).ok());
    ASSERT_TRUE(pair->until([&] { return pair->decode.landed(id) && pair->prefill.drained(id); }));
    EXPECT_EQ(pair->decode.landings.at(id).report.bytes, static_cast<uint64_t>(3 - first) * 3 * 1024);
    EXPECT_EQ(pair->decode.landings.at(id).finish, FinishReason::kEndToken);
    for (size_t i = 0; i < to.size(); ++i)
      EXPECT_TRUE(pair->decode.holds(to[i], 50 + static_cast<uint64_t>(first) + i));
  }
  expect_idle();
}

TEST_P(KvExchangeTest, AbandonAndCancelSayWhy) {
  ASSERT_TRUE(pair->decode.agent->expect(grant(TransferId(1), 8, range(0, 1))).ok());
  ASSERT_TRUE(pair->prefill.agent->send(send(TransferId(1), 8, range(0, 1))).ok());
  pair->settle();
  pair->decode.agent->abandon(TransferId(1));
  pair->decode.agent->abandon(TransferId(1));   // idempotent
  pair->decode.agent->abandon(TransferId(99));  // unknown
  ASSERT_TRUE(pair->until(
      [&] { return pair->decode.drained(TransferId(1)) && pair->prefill.drained(TransferId(1)); }));
  EXPECT_TRUE(pair->decode.failures.empty());  // its own wish is no failure
  EXPECT_THAT(pair->prefill.error(TransferId(1)), HasSubstr("abandoned"));

  ASSERT_TRUE(pair->decode.agent->expect(grant(TransferId(2), 8, range(0, 1))).ok());
  ASSERT_TRUE(pair->prefill.agent->send(send(TransferId(2), 8, range(0, 1))).ok());
  pair->settle();
  pair->prefill.agent->cancel(TransferId(2));
  ASSERT_TRUE(pair->until(
      [&] { return pair->decode.drained(TransferId(2)) && pair->prefill.drained(TransferId(2)); }));
  EXPECT_THAT(pair->decode.failures.at(TransferId(2)).reason, HasSubstr("cancelled"));
  expect_idle();
}

TEST_P(KvExchangeTest, WhatCannotStartStartsNothing) {
  KvExchangeAgent& decode = *pair->decode.agent;
  auto g = grant(TransferId(1), 16, range(0, 2));
  g.source = {"stranger", Incarnation(1)};
  EXPECT_EQ(decode.expect(g).code(), absl::StatusCode::kFailedPrecondition);
  g = grant(TransferId(1), 16, range(0, 2));
  g.source.incarnation = Incarnation(2);
  EXPECT_EQ(decode.expect(g).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(decode.expect(grant(TransferId(1), 17, range(0, 2))).ok());
  EXPECT_FALSE(decode.expect(grant(TransferId(1), 16, range(0, 2), 1)).ok());
  EXPECT_FALSE(decode.expect(grant(TransferId(1), 0, {})).ok());
  EXPECT_FALSE(decode.expect(grant(TransferId(1), 16, range(95, 2))).ok());  // block 96 of 96
  g = grant(TransferId(1), 16, range(0, 2));
  g.generations.pop_back();
  EXPECT_FALSE(decode.expect(g).ok());
  KvExchangeAgent& prefill = *pair->prefill.agent;
  EXPECT_FALSE(prefill.send(send(TransferId(1), 16, range(0, 3))).ok());
  EXPECT_FALSE(prefill.send(send(TransferId(1), 16, range(95, 2))).ok());
  auto s = send(TransferId(1), 16, range(0, 2));
  s.destination.name = "stranger";
  EXPECT_FALSE(prefill.send(s).ok());
  pair->settle();
  EXPECT_TRUE(pair->decode.drains.empty() && pair->prefill.drains.empty());
  expect_idle();
}

TEST_P(KvExchangeTest, DisagreementEndsBothSides) {
  ASSERT_TRUE(pair->decode.agent->expect(grant(TransferId(1), 24, range(0, 3))).ok());
  ASSERT_TRUE(pair->prefill.agent->send(send(TransferId(1), 16, range(0, 2))).ok());
  ASSERT_TRUE(pair->until(
      [&] { return pair->decode.drained(TransferId(1)) && pair->prefill.drained(TransferId(1)); }));
  EXPECT_THAT(pair->prefill.error(TransferId(1)), HasSubstr("the prompt has 16"));
  expect_idle();
}

class LocalExchangeTest : public KvExchangeTest {};
INSTANTIATE_TEST_SUITE_P(Fabrics, LocalExchangeTest,
                         testing::Values(Fabric::kLoopbackLocal, Fabric::kUcxLocal, Fabric::kSocketLocal),
                         name_of_fabric);

// F2: the prefill worker uses a block again before the receiver fetched it. Never served.
TEST_P(LocalExchangeTest, ALateReaderFailsTheTransfer) {
  ASSERT_TRUE(pair->decode.agent->expect(grant(TransferId(1), 8, range(0, 1))).ok());
  ASSERT_TRUE(pair->prefill.agent->send(send(TransferId(1), 8, range(0, 1))).ok());
  pair->settle();
  pair->prefill.agent->finish(TransferId(1), token(TransferId(1)), FinishReason::kNone);
  pair->prefill.agent->do_work(pair->now);  // offered
  pair->prefill.fill(1, BlockId(0), 99);    // and used again
  ASSERT_TRUE(pair->until(
      [&] { return pair->decode.drained(TransferId(1)) && pair->prefill.drained(TransferId(1)); }));
  EXPECT_THAT(pair->decode.failures.at(TransferId(1)).reason, HasSubstr("checksum"));
  EXPECT_EQ(pair->decode.agent->counters().corrupt_pieces, 1u);
  EXPECT_EQ(pair->decode.plane->counters().checksum_mismatches, 1u);
  expect_idle();
}

}  // namespace
}  // namespace baton::worker
