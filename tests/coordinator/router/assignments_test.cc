#include "coordinator/router/assignments.h"

#include <gtest/gtest.h>

namespace baton::coordinator {
namespace {

const WorkerRef kW{"w0", Incarnation(1)};
const LegCost kCost{.prefill_tokens = 100, .blocks = 7, .decodes = 1};

TEST(Assignments, CountUntilTheSnapshotAfterTheReply) {
  Assignments a;
  a.assign(RequestId(1), kW, kCost);
  a.assign(RequestId(2), kW, kCost);
  EXPECT_EQ(a.unseen(kW).prefill_tokens, 200);
  a.snapshot(kW);  // taken before either arrived there
  EXPECT_EQ(a.unseen(kW).prefill_tokens, 200);
  a.acknowledged(RequestId(1), kW);
  EXPECT_EQ(a.unseen(kW).blocks, 14);
  a.snapshot(kW);
  EXPECT_EQ(a.unseen(kW).prefill_tokens, 100);
  EXPECT_EQ(a.unseen(kW).blocks, 7);
  EXPECT_EQ(a.decodes(kW), 2);  // seen or not
  a.acknowledged(RequestId(2), kW);
  a.snapshot(kW);
  EXPECT_EQ(a.unseen(kW).prefill_tokens, 0);
}

TEST(Assignments, DropGivesBackWhateverIsStillCounted) {
  Assignments a;
  a.assign(RequestId(1), kW, kCost);
  a.assign(RequestId(2), kW, kCost);
  a.assign(RequestId(3), kW, kCost);
  a.acknowledged(RequestId(2), kW);
  a.drop(RequestId(2), kW);  // acknowledged, not seen
  a.drop(RequestId(2), kW);  // again: nothing
  EXPECT_EQ(a.unseen(kW).prefill_tokens, 200);
  a.acknowledged(RequestId(1), kW);
  a.acknowledged(RequestId(1), kW);
  a.snapshot(kW);
  a.drop(RequestId(1), kW);  // seen
  EXPECT_EQ(a.unseen(kW).prefill_tokens, 100);
  a.drop(RequestId(3), kW);
  EXPECT_TRUE(a.empty());
}

TEST(Assignments, ForgetEndsAllOfAWorker) {
  Assignments a;
  a.assign(RequestId(1), kW, kCost);
  a.forget(kW);
  EXPECT_EQ(a.unseen(kW).prefill_tokens, 0);
  EXPECT_EQ(a.decodes(kW), 0);
  a.acknowledged(RequestId(1), kW);
  a.snapshot(kW);
  a.drop(RequestId(1), kW);
  EXPECT_TRUE(a.empty());
}

}  // namespace
}  // namespace baton::coordinator
