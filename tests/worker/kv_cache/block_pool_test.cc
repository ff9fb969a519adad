#include "worker/kv_cache/block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace baton::worker {
namespace {

BlockId b(uint32_t i) { return BlockId(i); }

std::vector<BlockId> reserve(BlockPool& pool, int32_t count) {
  std::vector<BlockId> out;
  EXPECT_TRUE(pool.reserve(count, out));
  return out;
}

TEST(BlockPool, ReservesOneAdjacentRunWhenThereIsOne) {
  BlockPool pool(200);
  const auto a = reserve(pool, 70);
  const auto c = reserve(pool, 100);
  for (BlockId block : a) pool.drop_owner(block);  // free: 0..69 and 170..199
  const auto run = reserve(pool, 40);
  for (size_t i = 0; i < run.size(); ++i) EXPECT_EQ(run[i], b(static_cast<uint32_t>(i)));
  pool.check_invariants();
}

TEST(BlockPool, TakesLongRunsWhenNoSingleOneFits) {
  BlockPool pool(64);
  const auto all = reserve(pool, 64);
  for (uint32_t i = 10; i < 18; ++i) pool.drop_owner(b(i));
  for (uint32_t i = 30; i < 34; ++i) pool.drop_owner(b(i));
  pool.drop_owner(b(50));
  const auto got = reserve(pool, 12);
  EXPECT_EQ(got.front(), b(10));
  EXPECT_EQ(got[8], b(30));
  EXPECT_TRUE(pool.state(b(50)) == BlockState::kFree) << "two runs are enough";
  pool.check_invariants();
}

TEST(BlockPool, ContinuesAfterTheGivenBlock) {
  BlockPool pool(16);
  auto table = reserve(pool, 4);
  pool.drop_owner(b(1));
  ASSERT_TRUE(pool.reserve(1, table.back(), table));
  EXPECT_EQ(table.back(), b(4)) << "not the hole at 1";
}

TEST(BlockPool, RefusesWithoutTakingAnything) {
  BlockPool pool(8);
  std::vector<BlockId> out;
  EXPECT_FALSE(pool.reserve(9, out));
  EXPECT_TRUE(out.empty());
  EXPECT_EQ(pool.free(), 8);
  EXPECT_TRUE(pool.reserve(0, out));
}

TEST(BlockPool, GenerationGrowsWithEachReservation) {
  BlockPool pool(1);
  reserve(pool, 1);
  const uint32_t first = pool.generation(b(0));
  pool.drop_owner(b(0));
  reserve(pool, 1);
  EXPECT_EQ(pool.generation(b(0)), first + 1);
}

TEST(BlockPool, AbortedLandingIsFreeOnlyAfterItDrained) {
  BlockPool pool(4);
  const auto blocks = reserve(pool, 2);
  pool.begin_landing(TransferId(1), blocks);
  for (BlockId block : blocks) pool.drop_owner(block);
  EXPECT_EQ(pool.count(BlockState::kInflight), 2) << "the transfer still writes";
  pool.abort(TransferId(1));
  EXPECT_EQ(pool.count(BlockState::kQuarantine), 2);
  std::vector<BlockId> out;
  EXPECT_FALSE(pool.reserve(3, out)) << "quarantined blocks are not given away";
  pool.drained(TransferId(1));
  EXPECT_EQ(pool.free(), 4);
  EXPECT_EQ(pool.open_transfers(), 0u);
  pool.check_invariants();
}

TEST(BlockPool, LeaseOutlivesTheOwner) {
  BlockPool pool(3);
  const auto blocks = reserve(pool, 3);
  pool.lease(TransferId(5), blocks);
  for (BlockId block : blocks) pool.drop_owner(block);
  EXPECT_EQ(pool.free(), 0);
  pool.check_invariants();
  EXPECT_EQ(pool.unlease(TransferId(5)), blocks);
  EXPECT_EQ(pool.free(), 3);
}

TEST(BlockPool, KeptBlockStaysUntilReleased) {
  BlockPool pool(1);
  reserve(pool, 1);
  pool.make_valid(b(0));
  pool.keep_idle(b(0));
  pool.drop_owner(b(0));
  EXPECT_TRUE(pool.idle(b(0)));
  EXPECT_EQ(pool.idle_count(), 1);
  pool.add_owner(b(0));
  EXPECT_EQ(pool.idle_count(), 0);
  pool.drop_owner(b(0));
  pool.release_idle(b(0));
  EXPECT_EQ(pool.free(), 1);
  pool.check_invariants();
}

using BlockPoolDeath = testing::Test;

TEST(BlockPoolDeath, WrongTransitionsAbort) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  BlockPool pool(4);
  const auto blocks = reserve(pool, 2);
  EXPECT_DEATH(pool.add_owner(blocks[0]), "kValid");
  EXPECT_DEATH(pool.drop_owner(b(3)), "owners > 0");
  EXPECT_DEATH(pool.drained(TransferId(9)), "CHECK failed");
  EXPECT_DEATH(pool.state(b(4)), "CHECK failed");
  pool.begin_landing(TransferId(1), blocks);
  EXPECT_DEATH(pool.make_valid(blocks[0]), "kReserved");
  EXPECT_DEATH(pool.drained(TransferId(1)), "aborted") << "never without an abort first";
  pool.abort(TransferId(1));
  EXPECT_DEATH(pool.drained(TransferId(1)), "owners == 0") << "the request must have left";
}

}  // namespace
}  // namespace baton::worker
