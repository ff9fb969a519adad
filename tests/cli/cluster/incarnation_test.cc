// Numbers of lives grow, whatever the clock does.
#include "cli/cluster/incarnation.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/support/temp_dir.h"

namespace baton::cli {
namespace {

class IncarnationTest : public testing::Test {
 protected:
  void SetUp() override { home_.state = home_.cache = folder_; }
  uint64_t next(const std::string& worker, uint64_t wall) {
    const NewLife life = new_life(home_, worker, wall);
    EXPECT_TRUE(life.remembered.ok()) << life.remembered;
    return life.number.value();
  }
  const support::TempDir directory_{"incarnation"};
  const std::string folder_ = directory_.path();
  Home home_;
};

TEST_F(IncarnationTest, ItIsTheTime) {
  EXPECT_EQ(next("any-0", 1000), 1000u);
  EXPECT_EQ(next("any-0", 2000), 2000u);
}

TEST_F(IncarnationTest, AClockThatStepsBackDoesNot) {
  EXPECT_EQ(next("any-0", 1000), 1000u);
  EXPECT_EQ(next("any-0", 1000), 1001u);
  EXPECT_EQ(next("any-0", 5), 1002u);
  EXPECT_EQ(next("any-1", 5), 5u) << "of another worker";
  EXPECT_EQ(next("any-0", 3000), 3000u);
}

TEST_F(IncarnationTest, WhatACoordinatorTakesForOverIsPassed) {
  EXPECT_EQ(next("any-0", 5), 5u);
  ASSERT_TRUE(remember_life(home_, "any-0", Incarnation(900)).ok());
  ASSERT_TRUE(remember_life(home_, "any-0", Incarnation(800)).ok());
  EXPECT_EQ(next("any-0", 6), 901u);
}

TEST_F(IncarnationTest, DamageIsNoLife) {
  for (const char* text : {"", "x", "-1", "99999999999999999999999999", "18446744073709551615"}) {
    ASSERT_TRUE(write_file(home_.file("incarnation.any-0"), text).ok());
    EXPECT_EQ(next("any-0", 77), 77u) << text;
  }
}

TEST_F(IncarnationTest, WithoutAFolderItStillHasANumber) {
  home_.state = "/dev/null/state";
  const NewLife life = new_life(home_, "any-0", 77);
  EXPECT_EQ(life.number.value(), 77u);
  EXPECT_FALSE(life.remembered.ok());
}

}  // namespace
}  // namespace baton::cli
