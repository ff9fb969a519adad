#include "kernels/cpu/row_shares.h"
#include "tests/support/seed.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace baton::kernels::cpu {
namespace {

// A batch of sequences of (first position, rows).
struct Rows {
  explicit Rows(std::vector<std::pair<int, int>> sequences) {
    for (const auto& [first, count] : sequences) {
      parts.push_back(
          {.first_row = static_cast<int32_t>(tokens.size()), .row_count = count, .first_position = first});
      tokens.resize(tokens.size() + count);
    }
    positions.resize(tokens.size());
    batch = {.tokens = tokens, .positions = positions, .sequences = parts};
  }
  std::vector<TokenId> tokens;
  std::vector<int32_t> positions;
  std::vector<SequenceRows> parts;
  StepBatch batch;
};

// SmolLM2-135M with 4-bit weights: 3.5 M products a row and layer, 9 heads of 64.
constexpr RowShares::Costs kSmall = {
    .linear = 3.54e6, .weight_bytes = 3.54e6 * 0.5625, .attention = 1.5 * 2 * 9 * 64, .product_rate = 370};

TEST(RowShares, FewRowsShareThePanels) {
  RowShares shares;
  shares.plan(Rows({{0, 11}}).batch, kSmall, 2);
  EXPECT_FALSE(shares.by_rows());
  shares.plan(Rows({{0, 12}}).batch, kSmall, 2);
  EXPECT_TRUE(shares.by_rows());
  shares.plan(Rows({{0, 12}}).batch, kSmall, 4);  // each of four would wait for memory
  EXPECT_FALSE(shares.by_rows());
  RowShares::Costs wide = kSmall;
  wide.weight_bytes *= 2;
  shares.plan(Rows({{0, 12}}).batch, wide, 2);
  EXPECT_FALSE(shares.by_rows());
  RowShares::Costs slow = kSmall;  // half the products in a cycle, the same memory
  slow.product_rate /= 2;
  shares.plan(Rows({{0, 5}}).batch, slow, 2);
  EXPECT_FALSE(shares.by_rows());
  shares.plan(Rows({{0, 6}}).batch, slow, 2);
  EXPECT_TRUE(shares.by_rows());
  RowShares::Costs far = kSmall;  // the cache that threads share is far away
  far.pass_ns = 0.08;
  shares.plan(Rows({{0, 40}}).batch, far, 2);
  EXPECT_FALSE(shares.by_rows());
  shares.plan(Rows({{0, 80}}).batch, far, 2);
  EXPECT_TRUE(shares.by_rows());
}

TEST(RowShares, LaterRowsOfAPromptCostMore) {
  RowShares shares;
  shares.plan(Rows({{0, 512}}).batch, kSmall, 2);
  ASSERT_TRUE(shares.by_rows());
  EXPECT_EQ(shares.of(0).begin, 0);
  EXPECT_EQ(shares.of(1).end, 512);
  EXPECT_EQ(shares.of(0).end, shares.of(1).begin);
  EXPECT_NEAR(shares.of(0).end, 270, 8);
  RowShares::Costs windowed = kSmall;
  windowed.window = 1;
  shares.plan(Rows({{0, 512}}).batch, windowed, 2);
  EXPECT_EQ(shares.of(0).end, 256);
}

TEST(RowShares, SequencesAreWholeUnlessACutGoesThroughOne) {
  RowShares shares;
  shares.plan(Rows({{0, 512}}).batch, kSmall, 2);
  EXPECT_FALSE(shares.whole_sequences());
  shares.plan(Rows(std::vector<std::pair<int, int>>(32, {40, 1})).batch, kSmall, 2);
  EXPECT_TRUE(shares.whole_sequences());
  shares.plan(Rows({{0, 20}, {0, 20}}).batch, kSmall, 2);  // cut between the two
  ASSERT_EQ(shares.of(1).begin, 20);
  EXPECT_TRUE(shares.whole_sequences());
  shares.plan(Rows({{0, 20}, {0, 20}}).batch, kSmall, 3);
  EXPECT_FALSE(shares.whole_sequences());
}

TEST(RowShares, CutsCoverTheRowsAndAreEven) {
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
  std::mt19937 rng(seed);
  RowShares shares;
  for (int round = 0; round < 200; ++round) {
    std::vector<std::pair<int, int>> sequences;
    for (unsigned i = 0; i < 1 + rng() % 20; ++i) sequences.push_back({rng() % 4000, 1 + rng() % 100});
    const Rows rows(sequences);
    const int threads = 1 + static_cast<int>(rng() % 5);
    shares.plan(rows.batch, kSmall, threads);
    if (!shares.by_rows()) continue;
    double total = 0, dearest = 0;
    std::vector<double> cost;
    for (const auto& [first, count] : sequences)
      for (int i = 0; i < count; ++i) cost.push_back(kSmall.linear + kSmall.attention * (first + i + 1));
    for (const double c : cost) total += c, dearest = std::max(dearest, c);
    int64_t next = 0;
    for (int t = 0; t < threads; ++t) {
      EXPECT_EQ(shares.of(t).begin, next);
      next = shares.of(t).end;
      double own = 0;
      for (int64_t row = shares.of(t).begin; row < next; ++row) own += cost[row];
      EXPECT_NEAR(own, total / threads, dearest * 1.01);
    }
    EXPECT_EQ(next, rows.batch.rows());
  }
}

}  // namespace
}  // namespace baton::kernels::cpu
