#include "base/timers.h"

#include <gtest/gtest.h>

namespace baton {
namespace {

using namespace std::chrono_literals;

// The values are a contract with operators (docs) and between processes of different versions.
TEST(Timers, AreWhatTheDesignSays) {
  EXPECT_EQ(timers::kHeartbeat, 250ms);
  EXPECT_EQ(timers::kSuspect, 1s);
  EXPECT_EQ(timers::kDead, 1500ms);
  EXPECT_EQ(timers::kStepSuspect, 10s);
  EXPECT_EQ(timers::kStepDead, 120s);
  EXPECT_EQ(timers::kRankBeat, 250ms);
  EXPECT_EQ(timers::kRankSilent, 1500ms);
  EXPECT_EQ(timers::kOwnPause, 250ms);
  EXPECT_EQ(timers::kDispatchAck, 1s);
  EXPECT_EQ(timers::kGrammarAck, 5s);
  EXPECT_EQ(timers::kAdmissionQueue, 10s);
  EXPECT_EQ(timers::kRequestTotal, 600s);
  EXPECT_EQ(timers::kLeaseTtl, 3s);
  EXPECT_EQ(timers::kLeaseRenew, 1s);
  EXPECT_EQ(timers::kSelfFenceMargin, 500ms);
  EXPECT_EQ(timers::kQuarantineBeforeTeardown, 1s);
  EXPECT_EQ(timers::kSourceLease, 10s);
  EXPECT_EQ(timers::kSourceLeaseRenew, 2s);
  EXPECT_EQ(timers::kDrainCap, 30s);
  EXPECT_EQ(timers::kPoolPatience, 30s);
  EXPECT_EQ(timers::kSseKeepAlive, 10s);
  EXPECT_EQ(timers::kWriteStall, 30s);
  EXPECT_EQ(timers::kTransferBase, 1s);
  EXPECT_EQ(timers::kTransferCap, 10s);
  EXPECT_EQ(timers::kLaneCheckPause, 60s);
}

TEST(Timers, KeepTheirOrder) {
  EXPECT_LT(timers::kHeartbeat * 3, timers::kSuspect);
  EXPECT_LT(timers::kSuspect, timers::kDead);
  EXPECT_LT(timers::kDead, timers::kStepSuspect);
  EXPECT_LT(timers::kStepSuspect, timers::kStepDead);
  EXPECT_LT(timers::kLeaseRenew + timers::kSelfFenceMargin, timers::kLeaseTtl);
}

}  // namespace
}  // namespace baton
