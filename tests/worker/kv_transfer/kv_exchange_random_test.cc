// Random transfers, in every order and with every end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/support/seed.h"
#include "tests/worker/kv_transfer/kv_exchange_test.h"

namespace baton::worker {
namespace {

class KvRandomTest : public KvExchangeTest {};
INSTANTIATE_TEST_SUITE_P(Fabrics, KvRandomTest, testing::ValuesIn(kEveryFabric), name_of_fabric);

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
        pair_.prefill.agent->layer_ready(s.id, layer, to, to - s.computed);  // a lost one costs overlap only
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

TEST_P(KvRandomTest, RandomTransfersInRandomOrder) {
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
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
TEST_P(KvRandomTest, RandomEndsLeaveNoLateWriter) {
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
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

}  // namespace
}  // namespace baton::worker
