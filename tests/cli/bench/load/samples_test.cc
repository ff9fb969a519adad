#include "cli/bench/load/samples.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace baton::load {
namespace {

using std::chrono::milliseconds;

Instant at(int ms) { return Instant{} + std::chrono::seconds(100) + milliseconds(ms); }

TEST(Spread, IsByNearestRank) {
  std::vector<double> values;
  for (int i = 1; i <= 200; ++i) values.push_back(i);
  std::ranges::shuffle(values, std::mt19937(3));
  const Spread s = spread(values);
  EXPECT_EQ(s.n, 200u);
  EXPECT_EQ(s.p50, 100);
  EXPECT_EQ(s.p95, 190);
  EXPECT_EQ(s.p99, 198);
  EXPECT_EQ(s.max, 200);
  EXPECT_DOUBLE_EQ(s.mean, 100.5);
}

TEST(Spread, OfFewValues) {
  EXPECT_EQ(spread({}).n, 0u);
  EXPECT_EQ(spread({}).max, 0);
  const Spread one = spread({7});
  EXPECT_EQ(one.p50, 7);
  EXPECT_EQ(one.p99, 7);
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 2, 3}), 2);  // the lower of the two in the middle
}

TEST(Samples, TimesOfAStream) {
  Samples s;
  s.add({.sent = at(0), .texts = {at(30), at(32), at(250)}, .output_tokens = 3, .verdict = "local"});
  EXPECT_EQ(s.ttft_ms, std::vector<double>({30}));
  EXPECT_EQ(s.itl_ms, std::vector<double>({2, 218}));
  EXPECT_EQ(s.second_ms, std::vector<double>({2}));
  EXPECT_EQ(s.gaps_over(100), 1u);
  EXPECT_EQ(s.gaps_over(500), 0u);
  EXPECT_EQ(s.output_tokens, 3);
  EXPECT_EQ(s.paths.at("local"), 1);
}

TEST(Samples, AFailedStreamGivesNoTimes) {
  Samples s;
  s.add({.sent = at(0), .texts = {at(30)}, .error = "broke off"});
  s.add({.sent = at(0), .texts = {at(40)}, .error = "again"});
  EXPECT_EQ(s.failed, 2);
  EXPECT_EQ(s.first_error, "broke off");
  EXPECT_TRUE(s.ttft_ms.empty());
  EXPECT_EQ(s.output_tokens, 0);
}

TEST(Samples, ADroppedStreamCountsWhatCame) {
  Samples s;
  s.add({.sent = at(0), .texts = {at(30), at(40), at(50)}, .dropped = true});
  EXPECT_EQ(s.dropped, 1);
  EXPECT_EQ(s.failed, 0);
  EXPECT_EQ(s.output_tokens, 3);
  EXPECT_EQ(s.itl_ms.size(), 2u);
}

}  // namespace
}  // namespace baton::load
