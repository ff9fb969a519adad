#include "cli/bench/scenarios.h"

#include <gtest/gtest.h>

#include "base/cat.h"

namespace baton::cli {
namespace {

std::string parsed(const std::string& list) {
  const auto names = parse_scenarios(list);
  return names.ok() ? join(*names, " ") : "refused";
}

TEST(Scenarios, ListsAndRanges) {
  EXPECT_EQ(parsed("S1"), "S1");
  EXPECT_EQ(parsed("S1..S3,G"), "S1 S2 S3 G");
  EXPECT_EQ(parsed("S6..G"), "S6 S7 G");
  EXPECT_EQ(parsed("all"), "S1 S2 S3 S4 S5 S6 S7 G");
  EXPECT_EQ(parsed("S4,S1"), "S4 S1");
  EXPECT_EQ(parsed("idle,S1..S2"), "idle S1 S2");
}

TEST(Scenarios, WhatIsNoScenario) {
  for (const char* list : {"", "S8", "S3..S1", "S1,", "s1", "S1..", "..S2"})
    EXPECT_EQ(parsed(list), "refused");
}

TEST(Scenarios, ScaleKeepsTheLeast) {
  EXPECT_EQ(scaled(100, 1), 100);
  EXPECT_EQ(scaled(100, 0.25), 25);
  EXPECT_EQ(scaled(8, 0.01), 1);
  EXPECT_EQ(scaled(100, 0.001, 4), 4);
  EXPECT_EQ(scaled(2, 0.5, 4), 2);  // never more than all
}

}  // namespace
}  // namespace baton::cli
