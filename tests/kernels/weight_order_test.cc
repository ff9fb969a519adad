#include "kernels/cpu/weight_order.h"

#include <gtest/gtest.h>

#include <array>
#include <memory>

namespace baton::kernels::cpu {
namespace {

constexpr int64_t kKiB = 1024;

// Three stretches of weights, in a step's order.
class Weights {
 public:
  // A step that reads all three, and the beginning of the next one.
  void learn(WeightOrder& order) const {
    order.begin_step();
    for (int piece = 0; piece < 3; ++piece) enter(order, piece);
    order.begin_step();
  }
  WeightsAhead* enter(WeightOrder& order, int piece) const { return order.enter(at(piece), bytes(piece)); }
  static WeightOrder with_room() {
    WeightOrder order;
    order.make_room(16);
    return order;
  }
  const std::byte* at(int piece) const { return memory_.data() + piece * 512 * kKiB; }
  static int64_t bytes(int piece) { return (piece + 1) * 64 * kKiB; }

 private:
  std::array<std::byte, 2 * 1024 * kKiB> memory_ = {};
};

TEST(WeightOrder, KnowsWhatFollowsFromTheStepBefore) {
  const auto weights = std::make_unique<Weights>();
  WeightOrder order = Weights::with_room();
  order.begin_step();
  for (int piece = 0; piece < 3; ++piece) {
    const WeightsAhead* ahead = weights->enter(order, piece);
    EXPECT_EQ(ahead->reading, piece);
    EXPECT_EQ(ahead->count, piece + 1);  // nothing is known to follow
  }
  order.begin_step();
  WeightsAhead* ahead = weights->enter(order, 0);
  EXPECT_EQ(ahead->count, 3);
  ahead->ask(static_cast<int>(Weights::bytes(0) / 64) + 1);
  EXPECT_EQ(ahead->asking, 1);
  EXPECT_EQ(ahead->asked, 0);
  ahead->ask(10);
  EXPECT_EQ(ahead->asked, 640);
  ahead = weights->enter(order, 1);
  EXPECT_EQ(ahead->asked, 640) << "what was asked for is not asked for again";
}

TEST(WeightOrder, LearnsAnotherOrder) {
  const auto weights = std::make_unique<Weights>();
  WeightOrder order = Weights::with_room();
  weights->learn(order);
  weights->enter(order, 0)->ask_more(100'000);  // as far as the second
  const WeightsAhead* ahead = weights->enter(order, 2);
  EXPECT_EQ(ahead->count, 2);
  EXPECT_EQ(ahead->reading, 1);
  EXPECT_EQ(ahead->asking, 1);
  EXPECT_EQ(ahead->asked, 0);
  EXPECT_EQ(ahead->pieces[1].begin, weights->at(2));
  EXPECT_EQ(ahead->pieces[1].start, Weights::bytes(0));
}

TEST(WeightOrder, AsksForNoMoreThanTheCacheHolds) {
  const auto weights = std::make_unique<Weights>();
  WeightOrder order = Weights::with_room();
  order.ask_more(16);  // before anything is known
  weights->learn(order);
  const WeightsAhead* ahead = weights->enter(order, 0);
  for (int i = 0; i < 10'000; ++i) order.ask_more(16);
  EXPECT_EQ(ahead->asking, 2);
  const int64_t far = ahead->pieces[2].start + ahead->asked - Weights::bytes(0);
  EXPECT_GE(far, 256 * kKiB);
  EXPECT_LT(far, 256 * kKiB + 16 * 64);
  weights->enter(order, 1);
  weights->enter(order, 2);
  for (int i = 0; i < 10'000; ++i) order.ask_more(16);
  EXPECT_EQ(ahead->asking, 2) << "nothing behind the last";
  EXPECT_LT(ahead->asked, Weights::bytes(2) + 16 * 64);
}

TEST(WeightOrder, AMatrixIsAheadByWhatFollowsAtLeast) {
  const auto weights = std::make_unique<Weights>();
  WeightOrder order = Weights::with_room();
  weights->learn(order);
  WeightsAhead* ahead = weights->enter(order, 0);
  const int64_t pair = 8 * kKiB;
  // Two tiles share the lines of a slab; one line more than it reads until it is far enough ahead.
  EXPECT_EQ(ahead->lines_of_slab(weights->at(0), pair, 18, 2), 10);
  EXPECT_EQ(ahead->asked, pair);
  EXPECT_EQ(ahead->lines_of_slab(weights->at(0) + 5 * pair, pair, 18, 2), 10);  // it fell behind
  EXPECT_EQ(ahead->asked, 6 * pair);
  // The last of a piece: the next piece follows.
  ahead = weights->enter(order, 1);
  ahead->lines_of_slab(weights->at(1) + Weights::bytes(1) - pair, pair, 18, 1);
  EXPECT_EQ(ahead->asking, 2);
  EXPECT_EQ(ahead->asked, 0);
  // Far enough ahead: three lines of four.
  ahead = weights->enter(order, 2);
  ahead->ask(1024);
  EXPECT_EQ(ahead->lines_of_slab(weights->at(2), pair, 18, 2), 6);
}

TEST(WeightOrder, KeepsWhatItLearntWhenRoomIsMade) {
  const auto weights = std::make_unique<Weights>();
  WeightOrder order;
  order.make_room(2);
  order.begin_step();
  weights->enter(order, 0);
  weights->enter(order, 1);
  order.make_room(1000);
  order.begin_step();
  order.ask_more(16);
  const WeightsAhead* ahead = weights->enter(order, 0);
  EXPECT_EQ(ahead->count, 2);
  EXPECT_EQ(ahead->asked, 16 * 64);
  EXPECT_EQ(ahead->pieces[1].begin, weights->at(1));
}

TEST(WeightOrder, LearnsNoMoreThanItHasRoomFor) {
  const auto weights = std::make_unique<Weights>();
  WeightOrder order;
  order.make_room(2);
  order.begin_step();
  EXPECT_NE(weights->enter(order, 0), nullptr);
  EXPECT_NE(weights->enter(order, 1), nullptr);
  EXPECT_EQ(weights->enter(order, 2), nullptr);
  order.begin_step();
  EXPECT_EQ(weights->enter(order, 0)->count, 2);
}

}  // namespace
}  // namespace baton::kernels::cpu
