#include "base/mailbox.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>

namespace baton {
namespace {

TEST(Mailbox, KeepsOrderAndRefusesWhenFull) {
  Mailbox<int> box(2);
  EXPECT_TRUE(box.post(1));
  EXPECT_TRUE(box.post(2));
  EXPECT_FALSE(box.post(3));
  std::vector<int> got;
  EXPECT_EQ(box.drain(got), 2u);
  EXPECT_EQ(got, (std::vector<int>{1, 2}));
  EXPECT_TRUE(box.post(4));
}

TEST(Mailbox, WakesAWaiterAndTakesMoveOnlyMessages) {
  Mailbox<std::unique_ptr<int>> box(8);
  std::jthread other([&] { ASSERT_TRUE(box.post(std::make_unique<int>(5))); });
  box.wait_until(kNever);
  std::vector<std::unique_ptr<int>> got;
  box.drain(got);
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(*got[0], 5);
}

TEST(Mailbox, WaitEndsAtTheDeadlineAndWhenClosed) {
  Mailbox<int> box(8);
  box.wait_until(SteadyClock().now() + std::chrono::milliseconds(1));
  std::jthread other([&] { box.close(); });
  box.wait_until(kNever);
  EXPECT_TRUE(box.closed());
  EXPECT_FALSE(box.post(1));
}

TEST(Mailbox, LosesNothingBetweenThreads) {
  Mailbox<int> box(100000);
  std::atomic<int> wakes = 0;
  Mailbox<int> woken(10, [&] { ++wakes; });
  EXPECT_TRUE(woken.post(1));
  EXPECT_TRUE(woken.post(2));
  EXPECT_EQ(wakes, 1) << "one wake for a box that was not empty";
  {
    std::jthread a([&] {
      for (int i = 0; i < 5000; ++i) EXPECT_TRUE(box.post(1));
    });
    std::jthread b([&] {
      for (int i = 0; i < 5000; ++i) EXPECT_TRUE(box.post(1));
    });
  }
  std::vector<int> got;
  EXPECT_EQ(box.drain(got), 10000u);
}

}  // namespace
}  // namespace baton
