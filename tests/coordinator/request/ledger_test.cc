#include "coordinator/request/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/rng.h"

namespace baton::coordinator {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

const WorkerRef kP{"p0", Incarnation(1)};
const WorkerRef kD{"d0", Incarnation(1)};
constexpr RequestId kR(1);

TEST(Ledger, FollowsTheLegsOfARequest) {
  Ledger ledger;
  EXPECT_TRUE(ledger.empty());
  ledger.open(kR, kD, Leg::kDecode, TransferId(7));
  ledger.open(kR, kP, Leg::kPrefill, TransferId(7));
  EXPECT_THAT(ledger.holders(kR), ElementsAre(kD, kP));
  EXPECT_EQ(ledger.find(kR, kP)->transfer_state, TransferState::kOpen);
  EXPECT_TRUE(ledger.accept(kR, kP));
  EXPECT_FALSE(ledger.accept(kR, kP));  // twice
  ledger.transfer(kR, kD, TransferState::kLanded);
  EXPECT_EQ(ledger.find(kR, kD)->transfer_state, TransferState::kLanded);
  EXPECT_TRUE(ledger.releasing(kR, kP));
  EXPECT_FALSE(ledger.releasing(kR, kP));
  EXPECT_FALSE(ledger.accept(kR, kP));
  EXPECT_TRUE(ledger.check().ok());
  EXPECT_TRUE(ledger.close(kR, kP));
  EXPECT_FALSE(ledger.close(kR, kP));
  EXPECT_TRUE(ledger.holds(kR));
  EXPECT_TRUE(ledger.close(kR, kD));
  EXPECT_TRUE(ledger.empty());
  EXPECT_TRUE(ledger.check().ok());
}

TEST(Ledger, KnowsNothingOfStrangers) {
  Ledger ledger;
  EXPECT_EQ(ledger.find(kR, kP), nullptr);
  EXPECT_FALSE(ledger.close(kR, kP));
  EXPECT_FALSE(ledger.accept(kR, kP));
  EXPECT_FALSE(ledger.releasing(kR, kP));
  ledger.transfer(kR, kP, TransferState::kFailed);
  EXPECT_THAT(ledger.holders(kR), IsEmpty());
  EXPECT_THAT(ledger.close_all(kP), IsEmpty());
}

TEST(Ledger, AWholeLegHasNoTransfer) {
  Ledger ledger;
  ledger.open(kR, kD, Leg::kWhole, {});
  ledger.transfer(kR, kD, TransferState::kFailed);
  EXPECT_EQ(ledger.find(kR, kD)->transfer_state, TransferState::kNone);
  EXPECT_TRUE(ledger.check().ok());
}

TEST(Ledger, LosingAWorkerClosesItsLegsOnly) {
  Ledger ledger;
  ledger.open(RequestId(1), kD, Leg::kDecode, TransferId(7));
  ledger.open(RequestId(1), kP, Leg::kPrefill, TransferId(7));
  ledger.open(RequestId(2), kP, Leg::kWhole, {});
  const auto closed = ledger.close_all(kP);
  ASSERT_EQ(closed.size(), 2u);
  EXPECT_EQ(closed[0].first, RequestId(1));
  EXPECT_EQ(closed[0].second.leg, Leg::kPrefill);
  EXPECT_EQ(closed[1].first, RequestId(2));
  EXPECT_THAT(ledger.holders(RequestId(1)), ElementsAre(kD));
  EXPECT_FALSE(ledger.holds(RequestId(2)));
  EXPECT_TRUE(ledger.check().ok());
}

TEST(LedgerDeathTest, TwoLegsOnOneWorkerAreABug) {
  Ledger ledger;
  ledger.open(kR, kD, Leg::kDecode, TransferId(7));
  EXPECT_DEATH(ledger.open(kR, kD, Leg::kWhole, {}), "at most one leg");
}

TEST(Ledger, StaysConsistentUnderRandomUse) {
  const uint64_t seed = 77;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Rng rng(seed);
  Ledger ledger;
  for (int i = 0; i < 20000; ++i) {
    const RequestId request(rng.below(50));
    const WorkerRef worker{"w" + std::to_string(rng.below(4)), Incarnation(1)};
    switch (rng.below(6)) {
      case 0:
      case 1:
        if (ledger.find(request, worker) == nullptr)
          ledger.open(request, worker, Leg::kPrefill, TransferId(i));
        break;
      case 2:
        ledger.close(request, worker);
        break;
      case 3:
        ledger.releasing(request, worker);
        break;
      case 4:
        ledger.accept(request, worker);
        break;
      default:
        if (rng.below(50) == 0) ledger.close_all(worker);
    }
    if (i % 100 == 0) {
      ASSERT_TRUE(ledger.check().ok()) << ledger.check();
    }
  }
  for (int w = 0; w < 4; ++w) ledger.close_all({"w" + std::to_string(w), Incarnation(1)});
  EXPECT_TRUE(ledger.empty());
  EXPECT_EQ(ledger.legs(), 0u);
}

}  // namespace
}  // namespace baton::coordinator
