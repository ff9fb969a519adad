#include "worker/kv_transfer/kv_exchange_agent.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>

#include "base/timers.h"
#include "tests/worker/kv_transfer/exchange_fixture.h"
#include "transport/data/byte_codec.h"

namespace baton::worker {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using transport::as_bytes;
using transport::Fabric;

TokenOutput token(TransferId t) {
  return {.token = static_cast<TokenId>(t.value()), .logprob = -1, .top = {{3, -2, 1}}};
}

class KvExchangeTest : public testing::TestWithParam<Fabric> {
 protected:
  void SetUp() override {
    pair = std::make_unique<ExchangePair>(GetParam());
    ASSERT_TRUE(pair->join());
  }
  KvGrant grant(TransferId id, int32_t prompt, std::vector<BlockId> blocks, int32_t first = 0) const {
    KvGrant g{.transfer = id,
              .request = RequestId(id.value() + 1000),
              .source = pair->prefill.ref,
              .first_block = first,
              .prompt_tokens = prompt,
              .blocks = std::move(blocks)};
    for (size_t i = 0; i < g.blocks.size(); ++i)
      g.generations.push_back(static_cast<uint32_t>(id.value() * 7 + i));
    return g;
  }
  KvSend send(TransferId id, int32_t prompt, std::vector<BlockId> blocks) const {
    KvSend s{.transfer = id,
             .request = RequestId(id.value() + 1000),
             .destination = pair->decode.ref,
             .prompt_tokens = prompt,
             .blocks = std::move(blocks)};
    s.generations.assign(s.blocks.size(), 1);
    return s;
  }
  static std::vector<BlockId> range(uint32_t from, uint32_t count) {
    std::vector<BlockId> out;
    for (uint32_t i = 0; i < count; ++i) out.emplace_back(from + i);
    return out;
  }
  // Both sides idle again: nothing open, no deadline pending.
  void expect_idle() {
    EXPECT_EQ(pair->prefill.agent->open_transfers(), 0);
    EXPECT_EQ(pair->decode.agent->open_transfers(), 0);
  }
  std::unique_ptr<ExchangePair> pair;
};

INSTANTIATE_TEST_SUITE_P(Fabrics, KvExchangeTest,
                         testing::Values(Fabric::kLoopbackStream, Fabric::kLoopbackLocal, Fabric::kUcxAm,
                                         Fabric::kUcxLocal, Fabric::kSocket, Fabric::kSocketLocal),
                         [](const auto& info) { return transport::fabric_name(info.param); });

TEST_P(KvExchangeTest, OnePromptWithItsFirstToken) {
  const TransferId id(1);
  const auto from = range(10, 3), to = range(40, 3);
  ASSERT_TRUE(pair->decode.agent->expect(grant(id, 20, to)).ok());
  ASSERT_TRUE(pair->prefill.agent->send(send(id, 20, from)).ok());
  EXPECT_EQ(pair->prefill.agent->open_transfers(), 1);
  for (uint32_t i = 0; i < 3; ++i) pair->prefill.fill(from[i], i);
  for (int layer = 0; layer < 3; ++layer) pair->prefill.agent->layer_ready(id, layer, 20);
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

// One side of a random transfer: what it does, in its own order, a little at a time.
struct Script {
  TransferId id;
  KvGrant grant;
  KvSend send;
  int32_t prompt = 0;
  int32_t computed = 0;
  bool sent = false, granted = false, finished = false;
  int stop_at = -1;  // step at which one side gives up
  bool stop_sink = false;
  bool stopped = false;
  int steps = 0;
};

class RandomTransfers {
 public:
  RandomTransfers(ExchangePair& pair, Rng& rng) : pair_(pair), rng_(rng) {
    for (uint32_t i = 0; i < 96; ++i) {
      free_source_.emplace_back(i);
      free_sink_.emplace_back(i);
    }
  }

  Script make(TransferId id, bool may_stop) {
    Script s{.id = id, .prompt = static_cast<int32_t>(1 + rng_.below(90))};
    const int32_t total = (s.prompt + 7) / 8;
    const auto first = static_cast<int32_t>(rng_.below(static_cast<uint64_t>(total) + 1));
    s.grant = {.transfer = id,
               .request = RequestId(id.value()),
               .source = pair_.prefill.ref,
               .first_block = first,
               .prompt_tokens = s.prompt,
               .blocks = take(free_sink_, total - first)};
    s.send = {.transfer = id,
              .request = RequestId(id.value()),
              .destination = pair_.decode.ref,
              .prompt_tokens = s.prompt,
              .blocks = take(free_source_, total)};
    for (size_t i = 0; i < s.grant.blocks.size(); ++i)
      s.grant.generations.push_back(static_cast<uint32_t>(rng_.next()));
    s.send.generations.assign(s.send.blocks.size(), 1);
    if (may_stop) {
      s.stop_at = static_cast<int>(rng_.below(8));
      s.stop_sink = rng_.below(2) == 0;
    }
    for (const BlockId b : s.grant.blocks) pair_.decode.fill(b, 666);
    return s;
  }
  void advance(Script& s) {
    if (s.stopped) return;
    if (s.steps++ == s.stop_at && s.sent && s.granted) {
      s.stopped = true;
      s.stop_sink ? pair_.decode.agent->abandon(s.id) : pair_.prefill.agent->cancel(s.id);
      return;
    }
    if (!s.granted && rng_.below(3) == 0) {
      s.granted = true;
      EXPECT_TRUE(pair_.decode.agent->expect(s.grant).ok());
    } else if (!s.sent) {
      s.sent = true;
      EXPECT_TRUE(pair_.prefill.agent->send(s.send).ok());
    } else if (s.computed < s.prompt) {
      compute(s);
    } else if (!s.finished) {
      s.finished = true;
      pair_.prefill.agent->finish(s.id, token(s.id), FinishReason::kNone);
    } else if (!s.granted) {
      s.granted = true;
      EXPECT_TRUE(pair_.decode.agent->expect(s.grant).ok());
    }
  }
  bool over(const Script& s) const {
    return pair_.prefill.drained(s.id) && (pair_.decode.landed(s.id) || pair_.decode.drained(s.id));
  }
  void check_content(const Script& s) {
    for (size_t i = 0; i < s.grant.blocks.size(); ++i) {
      const uint64_t seed = s.id.value() * 100 + static_cast<uint64_t>(s.grant.first_block) + i;
      EXPECT_TRUE(pair_.decode.holds(s.grant.blocks[i], seed)) << to_string(s.id) << " block " << i;
    }
  }
  void give_back(const Script& s) {
    free_source_.insert(free_source_.end(), s.send.blocks.begin(), s.send.blocks.end());
    free_sink_.insert(free_sink_.end(), s.grant.blocks.begin(), s.grant.blocks.end());
  }

 private:
  // A chunk of the prompt, layer by layer, as an engine's step does it.
  void compute(Script& s) {
    const auto to = std::min<int32_t>(s.prompt, s.computed + static_cast<int32_t>(1 + rng_.below(30)));
    for (int layer = 0; layer < 3; ++layer) {
      for (int32_t block = s.computed / 8; block * 8 < to; ++block)
        pair_.prefill.fill(layer, s.send.blocks[block], s.id.value() * 100 + static_cast<uint64_t>(block));
      if (rng_.below(10) != 0)
        pair_.prefill.agent->layer_ready(s.id, layer, to);  // a lost one costs overlap only
    }
    s.computed = to;
  }
  std::vector<BlockId> take(std::vector<BlockId>& pool, int32_t n) {
    std::vector<BlockId> out;
    for (int32_t i = 0; i < n; ++i) {
      // Mostly neighbours, now and then from anywhere.
      const size_t at = rng_.below(4) == 0 ? rng_.below(pool.size()) : 0;
      out.push_back(pool[at]);
      pool.erase(pool.begin() + static_cast<std::ptrdiff_t>(at));
    }
    return out;
  }

  ExchangePair& pair_;
  Rng& rng_;
  std::vector<BlockId> free_source_, free_sink_;
};

TEST_P(KvExchangeTest, RandomTransfersInRandomOrder) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Rng rng(seed);
  RandomTransfers transfers(*pair, rng);
  std::vector<Script> open;
  uint64_t made = 0, bytes = 0;
  ASSERT_TRUE(transport::drive(
      [&] {
        while (open.size() < 5 && made < 60) open.push_back(transfers.make(TransferId(++made), false));
        for (Script& s : open)
          if (rng.below(3) == 0) transfers.advance(s);
        pair->step();
        pair->now += 1ms;
        std::erase_if(open, [&](const Script& s) {
          if (!transfers.over(s)) return false;
          EXPECT_TRUE(pair->decode.landed(s.id));
          EXPECT_EQ(pair->decode.landings.at(s.id).first_token, token(s.id));
          bytes += s.grant.blocks.size() * 3 * 1024;
          transfers.check_content(s);
          transfers.give_back(s);
          return true;
        });
      },
      [&] { return made == 60 && open.empty(); }));
  EXPECT_EQ(pair->decode.agent->counters().landed, 60u);
  EXPECT_EQ(pair->prefill.agent->counters().sent, 60u);
  EXPECT_EQ(pair->decode.agent->counters().bytes_received, bytes);
  EXPECT_EQ(pair->decode.agent->counters().failed, 0u);
  expect_idle();
}

// I2: after the end of a transfer nobody touches its blocks, whoever ended it and whenever.
TEST_P(KvExchangeTest, RandomEndsLeaveNoLateWriter) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Rng rng(seed);
  RandomTransfers transfers(*pair, rng);
  std::vector<Script> open;
  uint64_t made = 0;
  const auto ended = [&](const Script& s) {
    if (!transfers.over(s)) return false;
    if (pair->decode.landed(s.id)) {
      transfers.check_content(s);
    } else {
      for (const BlockId b : s.grant.blocks) pair->decode.fill(b, 31337);
      for (const BlockId b : s.send.blocks) pair->prefill.fill(b, 777);
      pair->settle(20);
      for (const BlockId b : s.grant.blocks) EXPECT_TRUE(pair->decode.holds(b, 31337)) << to_string(s.id);
    }
    transfers.give_back(s);
    return true;
  };
  ASSERT_TRUE(transport::drive(
      [&] {
        while (open.size() < 4 && made < 80) {
          ++made;
          open.push_back(transfers.make(TransferId(made), made % 4 != 0));
        }
        for (Script& s : open)
          if (rng.below(2) == 0) transfers.advance(s);
        pair->step();
        std::erase_if(open, ended);
      },
      [&] { return made == 80 && open.empty(); }));
  EXPECT_GT(pair->decode.drains.size(), 0u);
  EXPECT_GT(pair->decode.landings.size(), 0u);
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

// ---- deadlines (I4)
// ---------------------------------------------------------------------------------------------

TEST_P(KvExchangeTest, AGrantWaitsAsLongAsBothLive) {
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

TEST_P(KvExchangeTest, ASourceWithoutAGrantGivesUp) {
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
TEST_P(KvExchangeTest, AFrozenSourceIsGivenUp) {
  ASSERT_TRUE(pair->decode.agent->expect(grant(TransferId(1), 16, range(0, 2))).ok());
  ASSERT_TRUE(pair->prefill.agent->send(send(TransferId(1), 16, range(0, 2))).ok());
  pair->prefill.agent->layer_ready(TransferId(1), 0, 16);
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

TEST_P(KvExchangeTest, AFrozenReceiverIsGivenUpByThePieceDeadline) {
  ASSERT_TRUE(pair->decode.agent->expect(grant(TransferId(1), 16, range(0, 2))).ok());
  ASSERT_TRUE(pair->prefill.agent->send(send(TransferId(1), 16, range(0, 2))).ok());
  pair->settle();
  pair->prefill.agent->finish(TransferId(1), token(TransferId(1)), FinishReason::kNone);
  pair->prefill.agent->do_work(pair->now);
  pair->now += timers::kTransferBase + 500ms;  // far under the lease: a piece of 2 KiB has about one second
  pair->prefill.agent->do_work(pair->now);
  ASSERT_TRUE(pair->prefill.drained(TransferId(1)));
  EXPECT_THAT(pair->prefill.error(TransferId(1)), HasSubstr("deadline"));
  ASSERT_TRUE(
      pair->until([&] { return pair->decode.drained(TransferId(1)) || pair->decode.landed(TransferId(1)); }));
  pair->settle();
  expect_idle();
}

// ---- loss of the peer
// -------------------------------------------------------------------------------------------

TEST_P(KvExchangeTest, FenceEndsEverythingWithThatLife) {
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
}

TEST_P(KvExchangeTest, ARestartedPeerIsAnotherPeer) {
  ASSERT_TRUE(pair->decode.agent->expect(grant(TransferId(1), 16, range(0, 2))).ok());
  ExchangeSide next(GetParam(), pair->hub, "prefill", 2);
  ASSERT_TRUE(next.agent->connect(pair->decode.description()));
  ASSERT_TRUE(transport::drive(
      [&] {
        pair->step();
        next.agent->do_work(pair->now);
      },
      [&] { return pair->decode.drained(TransferId(1)) && pair->decode.plane->connected(next.ref); }));
  EXPECT_THAT(pair->decode.failures.at(TransferId(1)).reason, HasSubstr("source lost"));
  EXPECT_FALSE(pair->decode.agent->expect(grant(TransferId(2), 16, range(0, 2))).ok());
}

// ---- forged and broken
// ------------------------------------------------------------------------------------------

// A verified peer that lies: a bare data plane under the name of the prefill worker.
class LyingPeerTest : public KvExchangeTest {
 protected:
  void SetUp() override {
    decode = std::make_unique<ExchangeSide>(GetParam(), hub, "decode");
    auto options = transport::plane_options("liar", 1, transport::lanes_of(GetParam()));
    options.identity.kv_layout_hash = kv_layout_hash(small_geometry(), "test");
    liar = std::make_unique<transport::RecordingPlane>(GetParam(), hub, options);
    ASSERT_TRUE(liar->plane->connect(decode->description(), now).ok());
    ASSERT_TRUE(
        until([&] { return liar->plane->connected(decode->ref) && decode->plane->connected(liar->ref); }));
    KvGrant g{.transfer = TransferId(1),
              .request = RequestId(1),
              .source = liar->ref,
              .first_block = 1,
              .prompt_tokens = 30,
              .blocks = {BlockId(5), BlockId(6), BlockId(9)},
              .generations = {11, 12, 13}};
    ASSERT_TRUE(decode->agent->expect(g).ok());
    ASSERT_TRUE(until([&] { return !liar->messages.empty(); }));
    for (uint32_t b = 0; b < 96; ++b) decode->fill(BlockId(b), 4242);
  }
  bool until(const std::function<bool()>& done) {
    return transport::drive(
        [&] {
          decode->agent->do_work(now);
          liar->plane->do_work(now);
        },
        done);
  }
  // The receiver's verdict on an offer of `pieces` pieces with this header.
  absl::Status offer(const std::string& header, uint64_t pieces) {
    const transport::PoolRun run{.offset = 0, .bytes = pieces * 1024};
    const size_t before = liar->answers.size();
    EXPECT_TRUE(
        liar->plane->offer(decode->ref, {.cookie = ++cookie, .header = as_bytes(header), .runs = {&run, 1}})
            .ok());
    EXPECT_TRUE(until([&] { return liar->answers.size() > before; }));
    return liar->answers.back().second;
  }
  absl::Status offer(const KvPieceHeader& header, uint64_t pieces) { return offer(encode(header), pieces); }
  bool untouched() {
    for (uint32_t b = 0; b < 96; ++b)
      if (!decode->holds(BlockId(b), 4242)) return false;
    return true;
  }

  transport::LoopbackHub hub;
  Instant now{std::chrono::seconds(5000)};
  std::unique_ptr<ExchangeSide> decode;
  std::unique_ptr<transport::RecordingPlane> liar;
  uint64_t cookie = 0;
};

INSTANTIATE_TEST_SUITE_P(Fabrics, LyingPeerTest,
                         testing::Values(Fabric::kLoopbackStream, Fabric::kLoopbackLocal, Fabric::kUcxAm,
                                         Fabric::kUcxLocal, Fabric::kSocket, Fabric::kSocketLocal),
                         [](const auto& info) { return transport::fabric_name(info.param); });

TEST_P(LyingPeerTest, ForgedPiecesTouchNothing) {
  const TransferId id(1);
  EXPECT_EQ(offer({.transfer = TransferId(2), .first_block = 1, .generations = {11}}, 1).code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(offer({.transfer = id, .layer = 3, .first_block = 1, .generations = {11}}, 1).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(offer({.transfer = id, .layer = -1, .first_block = 1, .generations = {11}}, 1).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(offer({.transfer = id, .first_block = 0, .generations = {10, 11}}, 2).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(offer({.transfer = id, .first_block = 3, .generations = {13, 14}}, 2).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(offer({.transfer = id, .first_block = 2147483647, .generations = {1}}, 1).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(offer({.transfer = id, .first_block = 1, .generations = {}}, 1).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(offer({.transfer = id, .first_block = 1, .generations = {11, 99}}, 2).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(offer({.transfer = id, .first_block = 1, .generations = {11}}, 2).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(offer(std::string("short"), 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      offer(encode(KvPieceHeader{.transfer = id, .first_block = 1, .generations = {11}}) + "x", 1).code(),
      absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(untouched());
  EXPECT_EQ(decode->agent->counters().unknown_transfers, 1u);
  EXPECT_EQ(decode->agent->counters().refused_pieces, 8u);
  EXPECT_EQ(decode->agent->counters().malformed_messages, 2u);
  EXPECT_EQ(decode->agent->open_transfers(), 1);
  // The true one lands; the same again does not.
  EXPECT_TRUE(offer({.transfer = id, .first_block = 1, .generations = {11}}, 1).ok());
  EXPECT_EQ(offer({.transfer = id, .first_block = 1, .generations = {11}}, 1).code(),
            absl::StatusCode::kAlreadyExists);
}

// Not everything landed, whatever the peer says: coverage is the receiver's own count.
TEST_P(LyingPeerTest, FinishAloneLandsNothing) {
  const auto say = [&](const KvMessage& message) {
    ASSERT_TRUE(liar->plane->send(decode->ref, as_bytes(encode(message))).ok());
  };
  ASSERT_TRUE(
      offer({.transfer = TransferId(1), .layer = 1, .first_block = 1, .generations = {11, 12, 13}}, 3).ok());
  say(KvFinishMessage{.transfer = TransferId(1), .first_token = {.token = 4}});
  say(KvFinishMessage{.transfer = TransferId(77)});
  say(KvEndMessage{.transfer = TransferId(77), .from = KvSide::kSource});
  say(KvEndMessage{.transfer = TransferId(77), .from = KvSide::kSink, .ok = true});
  say(KvRenewMessage{.from = KvSide::kSink, .transfers = {TransferId(77)}});
  const size_t before = liar->messages.size();
  ASSERT_TRUE(until([&] { return liar->messages.size() >= before + 2; }));
  EXPECT_FALSE(decode->landed(TransferId(1)));
  ASSERT_TRUE(
      offer({.transfer = TransferId(1), .layer = 0, .first_block = 1, .generations = {11, 12, 13}}, 3).ok());
  ASSERT_TRUE(
      offer({.transfer = TransferId(1), .layer = 2, .first_block = 1, .generations = {11, 12, 13}}, 3).ok());
  EXPECT_TRUE(decode->landed(TransferId(1)));
}

TEST_P(LyingPeerTest, RandomMessagesNeverCrash) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Rng rng(seed);
  const KvMessage kinds[] = {
      KvGrantMessage{.transfer = TransferId(3), .prompt_tokens = 8, .generations = {1}, .part = {0, 3, 0, 2}},
      KvFinishMessage{.transfer = TransferId(1)}, KvEndMessage{.transfer = TransferId(4)},
      KvRenewMessage{.from = KvSide::kSource, .transfers = {TransferId(1), TransferId(5)}}};
  const uint64_t rounds = 2000;
  for (uint64_t i = 0; i < rounds; ++i) {
    std::string bytes = encode(kinds[rng.below(4)]);
    for (uint64_t n = rng.below(3); n > 0; --n)
      bytes[rng.below(bytes.size())] = static_cast<char>(rng.next());
    if (rng.below(4) == 0) bytes.resize(rng.below(bytes.size() + 4));
    ASSERT_TRUE(liar->plane->send(decode->ref, as_bytes(bytes)).ok());
    if (i % 16 == 0) {
      decode->agent->do_work(now);
      liar->plane->do_work(now);
    }
  }
  ASSERT_TRUE(until([&] { return decode->agent->counters().malformed_messages > 100; }));
  EXPECT_TRUE(decode->plane->connected(liar->ref));
  EXPECT_TRUE(untouched());
}

class LocalExchangeTest : public KvExchangeTest {};
INSTANTIATE_TEST_SUITE_P(Fabrics, LocalExchangeTest,
                         testing::Values(Fabric::kLoopbackLocal, Fabric::kUcxLocal, Fabric::kSocketLocal),
                         [](const auto& info) { return transport::fabric_name(info.param); });

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
