#include "worker/parallel/stage_split.h"

#include <gmock/gmock.h>

#include <functional>

#include "base/cat.h"
#include "base/rng.h"

namespace baton::worker {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Duration longest(const std::vector<StageCost>& stages, const std::vector<int32_t>& layers) {
  Duration out{};
  for (size_t s = 0; s < stages.size(); ++s)
    out = std::max<Duration>(out, stages[s].rest + layers[s] * stages[s].layer);
  return out;
}

TEST(SplitLayers, TheExamplesOfTheHeader) {
  EXPECT_THAT(split_layers(std::vector<StageCost>{{30us, 0us}, {30us, 180us}}, 30), ElementsAre(18, 12));
  EXPECT_THAT(split_layers(std::vector<StageCost>{{10us, 0us}, {20us, 60us}}, 30), ElementsAre(22, 8));
}

TEST(SplitLayers, EqualStagesGetEqualPartsAndTheFirstOnesOneMore) {
  EXPECT_THAT(split_layers(std::vector<StageCost>(4, {7us, 3us}), 30), ElementsAre(8, 8, 7, 7));
  EXPECT_THAT(split_layers(std::vector<StageCost>{{7us, 3us}}, 30), ElementsAre(30));
  EXPECT_THAT(split_layers(std::vector<StageCost>(3, {7us, 3us}), 3), ElementsAre(1, 1, 1));
}

TEST(SplitLayers, AHeadAsHeavyAsTheModelKeepsOneLayer) {
  EXPECT_THAT(split_layers(std::vector<StageCost>{{1us, 0us}, {1us, 0us}, {1us, 1000us}}, 30),
              ElementsAre(15, 14, 1));
  EXPECT_THAT(split_layers(std::vector<StageCost>{{1us, 9us}, {1us, 0us}}, 10), ElementsAre(1, 9));
}

// A stage on a machine of a third of the speed has a third of the layers.
TEST(SplitLayers, TheSlowMachineHasFewer) {
  EXPECT_THAT(split_layers(std::vector<StageCost>{{30us, 0us}, {10us, 0us}}, 32), ElementsAre(8, 24));
}

// Against all splits there are.
TEST(SplitLayers, NoOtherSplitIsShorter) {
  const uint64_t seed = 20261122;
  Rng rng(seed);
  for (int turn = 0; turn < 400; ++turn) {
    SCOPED_TRACE(cat("seed ", seed, ", turn ", turn));
    const auto count = static_cast<size_t>(1 + rng.below(4));
    const auto layers = static_cast<int32_t>(count + rng.below(14));
    std::vector<StageCost> stages(count);
    for (StageCost& s : stages)  // small numbers, so that there are ties
      s = {Duration(1 + rng.below(turn % 2 == 0 ? 5 : 100'000)),
           Duration(rng.below(turn % 3 == 0 ? 6 : 500'000))};
    Duration best = Duration::max();
    std::vector<int32_t> split(count);
    const std::function<void(size_t, int32_t)> try_all = [&](size_t stage, int32_t left) {
      if (stage + 1 == count) {
        split[stage] = left;
        best = std::min(best, longest(stages, split));
        return;
      }
      const auto others = static_cast<int32_t>(count - stage - 1);
      for (split[stage] = 1; split[stage] <= left - others; ++split[stage])
        try_all(stage + 1, left - split[stage]);
    };
    try_all(0, layers);
    const std::vector<int32_t> got = split_layers(stages, layers);
    int32_t sum = 0;
    for (const int32_t n : got) {
      EXPECT_GE(n, 1);
      sum += n;
    }
    EXPECT_EQ(sum, layers);
    EXPECT_EQ(longest(stages, got), best);
    EXPECT_EQ(got, split_layers(stages, layers));
  }
}

TEST(CostOfRow, TheExampleOfTheHeader) {
  const StepCost decode{8, 240us, 1440us}, chunk{32, 896us, 0us};
  EXPECT_EQ(cost_of_row(decode, chunk, kDecodedByAny), (StageCost{28250ns, 22500ns}));
  EXPECT_EQ(cost_of_row(decode, chunk, kDecodedByDecode), (StageCost{30us, 180us}));
  EXPECT_EQ(cost_of_row(decode, chunk, kDecodedByPrefill), (StageCost{28us, 0us}));
  for (const double decoded : {kDecodedByAny, kDecodedByDecode}) {
    const StageCost last = cost_of_row(decode, chunk, decoded);
    const std::vector<StageCost> stages = {{last.layer, 100ns}, last};
    EXPECT_THAT(split_layers(stages, 30), decoded < 1 ? ElementsAre(15, 15) : ElementsAre(18, 12));
  }
}

// A clock may have stood still over something small: no layer is free.
TEST(CostOfRow, IsNeverNothing) {
  EXPECT_EQ(cost_of_row({8, 0ns, 0ns}, {64, 0ns, 0ns}, kDecodedByAny), (StageCost{1ns, 0ns}));
}

TEST(StageCosts, TheSlowestRankOfAStageCounts) {
  const std::vector<StageCost> ranks = {{5us, 1us}, {7us, 0us}, {4us, 9us}, {4us, 8us}};
  EXPECT_THAT(*stage_costs(ranks, 2), ElementsAre(StageCost{7us, 1us}, StageCost{4us, 9us}));
  EXPECT_THAT(*stage_costs(ranks, 4), ElementsAre(StageCost{7us, 9us}));
  EXPECT_EQ(stage_costs(ranks, 1)->size(), 4u);
}

TEST(StageCosts, WhatNoRankCanHaveMeasuredIsRefused) {
  for (const StageCost bad :
       {StageCost{0ns, 0ns}, StageCost{-1ns, 0ns}, StageCost{1us, -1ns}, StageCost{101s, 0ns},
        StageCost{1us, 101s}, StageCost{Duration::min(), 0ns}, StageCost{1us, Duration::max()}}) {
    const auto refused = stage_costs(std::vector<StageCost>{{1us, 0us}, bad}, 1);
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("rank 1 says"));
  }
  EXPECT_TRUE(stage_costs(std::vector<StageCost>{{1ns, 0ns}, {100s, 100s}}, 1).ok());
}

TEST(CostsText, NamesEveryStage) {
  EXPECT_EQ(costs_text(std::vector<StageCost>{{28240ns, 1200ns}, {28us, 22500ns}}),
            "layer 28.2 28.0 us, rest 1.2 22.5 us a row");
}

}  // namespace
}  // namespace baton::worker
