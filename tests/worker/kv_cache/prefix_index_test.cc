#include "worker/kv_cache/prefix_index.h"

#include <gtest/gtest.h>

namespace baton::worker {
namespace {

constexpr int kBlock = 4;
const HashKey kKey{1, 2};

std::vector<TokenId> tokens_of(int blocks, TokenId first = 0) {
  std::vector<TokenId> tokens;
  for (int i = 0; i < blocks * kBlock; ++i) tokens.push_back(first + i);
  return tokens;
}

std::span<const TokenId> block_of(const std::vector<TokenId>& tokens, size_t i) {
  return std::span(tokens).subspan(i * kBlock, kBlock);
}

class PrefixIndexTest : public testing::Test {
 protected:
  // Inserts blocks 0.. of `tokens` as block ids first, first + 1, ...
  void insert_chain(const std::vector<TokenId>& tokens, uint32_t first) {
    const auto hashes = chain_hashes(kKey, "", tokens, kBlock);
    for (size_t i = 0; i < hashes.size(); ++i)
      ASSERT_TRUE(index_.insert(hashes[i], block_of(tokens, i), BlockId(first + static_cast<uint32_t>(i)),
                                i == 0 ? PrefixIndex::none : BlockId(first + static_cast<uint32_t>(i) - 1)));
  }
  std::vector<BlockId> match(const std::vector<TokenId>& tokens, int limit = 100) {
    std::vector<BlockId> out;
    index_.match(chain_hashes(kKey, "", tokens, kBlock), tokens, limit, out);
    return out;
  }
  PrefixIndex index_{64, kBlock};
};

TEST_F(PrefixIndexTest, FindsTheLongestPrefix) {
  const auto tokens = tokens_of(4);
  insert_chain(tokens, 10);
  EXPECT_EQ(match(tokens).size(), 4u);
  EXPECT_EQ(match(tokens, 2).size(), 2u);
  auto other = tokens;
  other[9] = 999;  // in block 2
  EXPECT_EQ(match(other), (std::vector{BlockId(10), BlockId(11)}));
  other[0] = 999;
  EXPECT_TRUE(match(other).empty());
  index_.check_invariants();
}

TEST_F(PrefixIndexTest, ACollisionIsAMiss) {
  const auto tokens = tokens_of(2);
  insert_chain(tokens, 0);
  const auto hashes = chain_hashes(kKey, "", tokens, kBlock);
  // The same hashes with other token ids, and with another parent: as if the hash collided.
  std::vector<BlockId> out;
  index_.match(hashes, tokens_of(2, 500), 2, out);
  EXPECT_TRUE(out.empty());
  EXPECT_EQ(index_.find(hashes[1], block_of(tokens, 1), PrefixIndex::none), PrefixIndex::none);
  EXPECT_EQ(index_.find(hashes[1], block_of(tokens, 1), BlockId(0)), BlockId(1));
  EXPECT_FALSE(index_.insert(hashes[0], block_of(tokens_of(1, 500), 0), BlockId(30), PrefixIndex::none));
}

TEST_F(PrefixIndexTest, IdleOrderIsLeastRecentlyUsed) {
  insert_chain(tokens_of(1, 0), 0);
  insert_chain(tokens_of(1, 100), 1);
  insert_chain(tokens_of(1, 200), 2);
  for (uint32_t i : {1u, 0u, 2u}) index_.push_idle(BlockId(i));
  index_.remove_idle(BlockId(1));
  index_.push_idle(BlockId(1));
  std::vector<BlockId> order;
  while (index_.oldest_idle() != PrefixIndex::none) {
    order.push_back(index_.oldest_idle());
    index_.remove_idle(order.back());
    index_.erase(order.back());
    index_.check_invariants();
  }
  EXPECT_EQ(order, (std::vector{BlockId(0), BlockId(2), BlockId(1)}));
  EXPECT_EQ(index_.size(), 0);
}

TEST_F(PrefixIndexTest, AParentCannotGoBeforeItsChild) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  insert_chain(tokens_of(2), 0);
  EXPECT_EQ(index_.children(BlockId(0)), 1u);
  EXPECT_DEATH(index_.erase(BlockId(0)), "leaves go first");
  index_.erase(BlockId(1));
  index_.erase(BlockId(0));
}

TEST(PrefixIndex, AHundredThousandCachedBlocks) {
  constexpr int kMany = 100'000;
  PrefixIndex index(kMany, kBlock);
  std::vector<TokenId> tokens(static_cast<size_t>(kMany) * kBlock);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<TokenId>(i % 977);
  const auto hashes = chain_hashes(kKey, "tenant", tokens, kBlock);
  for (uint32_t i = 0; i < kMany; ++i)
    ASSERT_TRUE(index.insert(hashes[i], block_of(tokens, i), BlockId(i),
                             i == 0 ? PrefixIndex::none : BlockId(i - 1)));
  for (uint32_t i = kMany; i-- > 0;) index.push_idle(BlockId(i));
  std::vector<BlockId> out;
  index.match(hashes, tokens, kMany, out);
  EXPECT_EQ(out.size(), static_cast<size_t>(kMany));
  index.check_invariants();
  for (uint32_t i = kMany; i-- > 0;) {
    ASSERT_EQ(index.oldest_idle(), BlockId(i));
    index.remove_idle(BlockId(i));
    EXPECT_EQ(index.erase(BlockId(i)), hashes[i]);
  }
}

}  // namespace
}  // namespace baton::worker
