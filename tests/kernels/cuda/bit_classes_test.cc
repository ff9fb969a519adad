// Which class of algorithms is chosen, from made-up measurements.
#include "kernels/cuda/bit_classes.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <random>

namespace baton::kernels::cuda {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// One algorithm: its bits, and its time for each range (0: it does not run there).
struct Made {
  uint64_t signature;
  std::vector<double> times;
};
const std::vector<RowRange> kRanges = row_ranges(16);  // 1, 2-8, 9-16

std::vector<Trial> trials_of(const std::vector<Made>& algorithms) {
  std::vector<Trial> out;
  for (size_t a = 0; a < algorithms.size(); ++a)
    for (size_t r = 0; r < kRanges.size(); ++r)
      for (const int rows : probed_rows(kRanges[r]))
        if (algorithms[a].times[r] > 0)
          out.push_back({static_cast<int>(a), rows, true, algorithms[a].signature, algorithms[a].times[r]});
  return out;
}

TEST(RowRanges, ArePowersOfTwoUpToTheMost) {
  EXPECT_THAT(row_ranges(1), ElementsAre(RowRange{1, 1}));
  EXPECT_THAT(row_ranges(5), ElementsAre(RowRange{1, 1}, RowRange{2, 5}));
  EXPECT_THAT(row_ranges(100), ElementsAre(RowRange{1, 1}, RowRange{2, 8}, RowRange{9, 16}, RowRange{17, 32},
                                           RowRange{33, 64}, RowRange{65, 100}));
  for (const int most : {2, 9, 8192, 65536}) {
    const auto ranges = row_ranges(most);
    for (size_t i = 1; i < ranges.size(); ++i) EXPECT_EQ(ranges[i].first, ranges[i - 1].last + 1);
    EXPECT_EQ(ranges.back().last, most);
  }
}

TEST(RowRanges, AreProbedAtTheirEndsAndWhereNoTileIsFull) {
  EXPECT_THAT(probed_rows({1, 1}), ElementsAre(1));
  EXPECT_THAT(probed_rows({2, 3}), ElementsAre(2, 3));
  EXPECT_THAT(probed_rows({2, 8}), ElementsAre(2, 6, 8));
  EXPECT_THAT(probed_rows({129, 256}), ElementsAre(129, 193, 256));
}

// The fastest algorithm of a range is of no use when its bits serve no other range.
TEST(BitClasses, AClassServesAllRows) {
  const auto chosen = choose_bit_class(kRanges, trials_of({{7, {1, 1, 0}}, {9, {2, 4, 8}}, {7, {0, 2, 0}}}));
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->signature, 9u);
  EXPECT_THAT(chosen->algorithms, ElementsAre(1, 1, 1));
  EXPECT_DOUBLE_EQ(chosen->slowdown, (2.0 + 4.0 + 1.0) / 3);
  EXPECT_DOUBLE_EQ(chosen->worst, 4);
}

// Tiles differ by rows inside a class.
TEST(BitClasses, EveryRangeTakesTheFastestOfTheClass) {
  const auto chosen = choose_bit_class(
      kRanges, trials_of({{5, {3, 3, 3}}, {9, {2, 0, 0}}, {9, {3, 1, 9}}, {9, {0, 2, 2}}, {4, {9, 9, 9}}}));
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->signature, 9u);
  EXPECT_THAT(chosen->algorithms, ElementsAre(1, 2, 3));
  EXPECT_DOUBLE_EQ(chosen->slowdown, 1);
}

// One that has the class's bits with some rows and others with more serves nobody: nobody tried the rows
// between.
TEST(BitClasses, AnAlgorithmWhoseBitsChangeServesNobody) {
  std::vector<Trial> trials = trials_of({{9, {1, 1, 1}}, {9, {2, 2, 2}}});
  trials[3].signature = 8;
  EXPECT_THAT(choose_bit_class(kRanges, trials)->algorithms, ElementsAre(1, 1, 1));
  EXPECT_DOUBLE_EQ(choose_bit_class(kRanges, trials)->slowdown, 2) << "against what fastest would take";
  trials[3].signature = 9, trials[3].uniform = false;
  EXPECT_THAT(choose_bit_class(kRanges, trials)->algorithms, ElementsAre(1, 1, 1));
}

// A range is served only if every number of rows that was tried ran.
TEST(BitClasses, AProbeThatDidNotRunIsAHole) {
  std::vector<Trial> trials = trials_of({{9, {1, 1, 1}}, {9, {2, 2, 2}}});
  std::erase_if(trials, [](const Trial& t) { return t.algorithm == 0 && t.rows == 13; });
  EXPECT_THAT(choose_bit_class(kRanges, trials)->algorithms, ElementsAre(0, 0, 1));
}

TEST(BitClasses, NoClassNamesTheRows) {
  const auto none = choose_bit_class(kRanges, trials_of({{7, {1, 1, 0}}, {9, {0, 1, 1}}, {8, {1, 0, 1}}}));
  EXPECT_TRUE(absl::IsNotFound(none.status()));
  EXPECT_THAT(none.status().message(), HasSubstr("9 to 16 rows"));
  EXPECT_THAT(none.status().message(), HasSubstr("of 3 tried"));
  EXPECT_FALSE(choose_bit_class(kRanges, {}).ok());
}

TEST(BitClasses, TheOrderOfTrialsDoesNotMatter) {
  std::vector<Trial> trials = trials_of({{9, {1, 2, 3}}, {7, {3, 2, 1}}, {7, {3, 2, 1}}, {9, {1, 2, 3}}});
  std::mt19937 random(26);
  SCOPED_TRACE(26);
  for (int i = 0; i < 20; ++i) {
    std::ranges::shuffle(trials, random);
    const auto chosen = choose_bit_class(kRanges, trials);
    ASSERT_TRUE(chosen.ok());
    EXPECT_EQ(chosen->signature, 9u) << "of two as fast that of the lowest algorithm";
    EXPECT_THAT(chosen->algorithms, ElementsAre(0, 0, 0));
  }
}

}  // namespace
}  // namespace baton::kernels::cuda
