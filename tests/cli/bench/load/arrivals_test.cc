#include "cli/bench/load/arrivals.h"

#include <gtest/gtest.h>

namespace baton::load {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(Arrivals, ClosedLoopKeepsSoManyOpen) {
  const Arrivals a{.count = 5, .at_once = 2};
  EXPECT_EQ(a.due(0, 0, seconds(0)), 2);
  EXPECT_EQ(a.due(2, 2, seconds(100)), 0);
  EXPECT_EQ(a.due(2, 1, seconds(0)), 1);
  EXPECT_EQ(a.due(4, 0, seconds(0)), 1);  // only one is left
  EXPECT_EQ(a.due(5, 0, seconds(0)), 0);
  EXPECT_EQ(a.next(0), Duration::max());
}

TEST(Arrivals, OpenLoopGoesByTimeAlone) {
  const Arrivals a{.count = 3, .period = seconds(2)};
  EXPECT_EQ(a.due(0, 0, seconds(0)), 1);
  EXPECT_EQ(a.due(1, 1, milliseconds(1999)), 0);
  EXPECT_EQ(a.due(1, 1, seconds(2)), 1);
  EXPECT_EQ(a.due(0, 0, seconds(5)), 3);  // a driver that was late starts all that are due
  EXPECT_EQ(a.due(3, 0, seconds(50)), 0);
  EXPECT_EQ(a.next(0), seconds(0));
  EXPECT_EQ(a.next(2), seconds(4));
  EXPECT_EQ(a.next(3), Duration::max());
}

TEST(Arrivals, OpenLoopWithoutPeriodStartsAllAtOnce) {
  EXPECT_EQ((Arrivals{.count = 7}.due(0, 0, seconds(0))), 7);
}

TEST(Arrivals, AClosedLoopWithoutCountHasNoEnd) {
  const Arrivals a{.at_once = 4};
  EXPECT_TRUE(a.endless());
  EXPECT_EQ(a.due(0, 0, seconds(0)), 4);
  EXPECT_EQ(a.due(1000, 3, seconds(0)), 1);
  EXPECT_FALSE((Arrivals{.count = 1, .at_once = 4}.endless()));
  EXPECT_FALSE((Arrivals{.count = 1}.endless()));
}

}  // namespace
}  // namespace baton::load
