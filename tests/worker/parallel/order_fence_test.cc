#include "worker/parallel/order_fence.h"

#include <gtest/gtest.h>

#include <thread>

namespace baton::worker {
namespace {

// What ThreadSanitizer is asked about: `turn` tells the threads whose turn it is, as rank 0 does, and orders
// nothing.
TEST(OrderFence, OrdersWhatPassesThroughSomebodyElse) {
  OrderFence fence;
  std::atomic<int> turn{0};
  int block = 0;
  const auto take_turns = [&](int mine) {
    for (int i = mine; i < 1000; i += 2) {
      while (turn.load(std::memory_order_relaxed) != i) std::this_thread::yield();
      fence.pass();
      EXPECT_EQ(block, i);
      block = i + 1;
      fence.pass();
      turn.store(i + 1, std::memory_order_relaxed);
    }
  };
  std::jthread progress(take_turns, 0);
  std::jthread engine(take_turns, 1);
  progress.join();
  engine.join();
  EXPECT_EQ(block, 1000);
}

}  // namespace
}  // namespace baton::worker
