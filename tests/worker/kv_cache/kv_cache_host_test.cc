#include <gtest/gtest.h>

#include <deque>

#include "worker/kv_cache/kv_cache.h"

// The pool's side of the host tier: what is copied when, what may be evicted meanwhile, what is told.
namespace baton::worker {
namespace {

constexpr int kBlock = 4;
const HashKey kKey{3, 4};

class KvCacheHostTest : public testing::Test, private HostCopies {
 protected:
  // 8 pool blocks: one block goes out at a time.
  void make(int64_t slots, int64_t blocks = 8) {
    cache_ = std::make_unique<KvCache>(blocks, kBlock, HostTierOptions{.slots = slots, .copies = this});
  }
  static std::vector<TokenId> tokens_of(int blocks, TokenId first) {
    std::vector<TokenId> tokens;
    for (int i = 0; i < blocks * kBlock; ++i) tokens.push_back(first + i);
    return tokens;
  }
  // A table of complete, published blocks.
  std::vector<BlockId> hold(const std::vector<TokenId>& tokens) {
    const auto hashes = chain_hashes(kKey, "", tokens, kBlock);
    std::vector<BlockId> table;
    EXPECT_TRUE(cache_->allocate(static_cast<int32_t>(hashes.size()), table));
    for (size_t i = 0; i < hashes.size(); ++i)
      cache_->publish({table, i, {}}, hashes[i], std::span(tokens).subspan(i * kBlock, kBlock));
    return table;
  }
  std::vector<HostSlot> on_host(const std::vector<TokenId>& tokens) {
    std::vector<HostSlot> slots;
    const auto hashes = chain_hashes(kKey, "", tokens, kBlock);
    cache_->match_host(hashes, tokens, 0, static_cast<int32_t>(hashes.size()), slots);
    return slots;
  }
  bool end_oldest(const std::string& error = "") {
    const HostCopyId id = orders_.front().id;
    orders_.pop_front();
    return cache_->copied({.id = id, .error = error});
  }
  void copy_all() {
    for (cache_->copy_out(); !orders_.empty(); cache_->copy_out()) end_oldest();
  }
  void copy(HostCopy copy) override { orders_.push_back(std::move(copy)); }

  std::unique_ptr<KvCache> cache_;
  std::deque<HostCopy> orders_;
};

TEST_F(KvCacheHostTest, PublishedBlocksAreCopiedInTheirOrderFewAtATime) {
  make(16);
  const auto tokens = tokens_of(3, 0);
  auto table = hold(tokens);
  for (size_t i = 0; i < 3; ++i) {
    cache_->copy_out();
    cache_->copy_out();
    ASSERT_EQ(orders_.size(), 1u) << "no more than an eighth of the pool";
    EXPECT_TRUE(orders_[0].out);
    ASSERT_EQ(orders_[0].blocks.size(), 1u);
    EXPECT_EQ(orders_[0].blocks[0].block, table[i]);
    EXPECT_TRUE(end_oldest());
  }
  cache_->copy_out();
  EXPECT_TRUE(orders_.empty());
  EXPECT_EQ(on_host(tokens).size(), 3u);
  cache_->release(table);
  cache_->copy_out();
  EXPECT_TRUE(orders_.empty()) << "each has its copy";
  cache_->check_invariants();
}

TEST_F(KvCacheHostTest, ABlockBeingCopiedIsEvictedButNotGranted) {
  make(16);
  auto first = hold(tokens_of(2, 0));
  cache_->release(first);
  cache_->copy_out();
  EXPECT_TRUE(end_oldest());
  cache_->copy_out();  // the second block, which is the first to be evicted
  const BlockId copied = orders_.front().blocks[0].block;
  EXPECT_EQ(cache_->available(), 7);
  std::vector<BlockId> all;
  EXPECT_FALSE(cache_->allocate(8, all));
  ASSERT_TRUE(cache_->allocate(7, all));
  EXPECT_EQ(std::count(all.begin(), all.end(), copied), 0);
  EXPECT_EQ(cache_->index().size(), 0) << "it went, and so could its parent: only its memory stays";
  EXPECT_EQ(cache_->pool().state(copied), BlockState::kValid);
  cache_->check_invariants();
  EXPECT_TRUE(end_oldest());
  EXPECT_EQ(cache_->pool().state(copied), BlockState::kFree);
  EXPECT_EQ(on_host(tokens_of(2, 0)).size(), 2u);
  EXPECT_EQ(cache_->host().counters().lost, 0u);
  cache_->check_invariants();
}

TEST_F(KvCacheHostTest, WhoNeedsRoomDoesNotWaitForACopy) {
  make(16);
  auto table = hold(tokens_of(2, 0));
  cache_->release(table);
  ASSERT_TRUE(cache_->allocate(8, table));
  EXPECT_EQ(cache_->host().counters().lost, 2u);
  cache_->copy_out();
  EXPECT_TRUE(orders_.empty()) << "what they held is gone";
  cache_->check_invariants();
}

TEST_F(KvCacheHostTest, FetchedBlocksStayUntilTheCopyEndsWhoeverLeaves) {
  make(16);
  auto table = hold(tokens_of(2, 0));
  copy_all();
  cache_->release(table);
  ASSERT_TRUE(cache_->allocate(8, table));
  cache_->release(table);
  const auto slots = on_host(tokens_of(2, 0));
  ASSERT_EQ(slots.size(), 2u);
  ASSERT_TRUE(cache_->allocate(2, table));
  const std::vector<BlockId> into = table;
  const HostCopyId id = cache_->fetch(into, slots);
  EXPECT_EQ(orders_.front().id, id);
  EXPECT_FALSE(orders_.front().out);
  cache_->release(table);
  for (BlockId block : into) EXPECT_EQ(cache_->pool().state(block), BlockState::kReserved);
  EXPECT_EQ(cache_->available(), 6);
  cache_->give_up_fetch(id);
  EXPECT_TRUE(on_host(tokens_of(2, 0)).empty()) << "nobody asks a host that is late";
  cache_->check_invariants();
  EXPECT_TRUE(end_oldest());
  EXPECT_EQ(cache_->available(), 8);
  EXPECT_EQ(on_host(tokens_of(2, 0)).size(), 2u);
  cache_->check_invariants();
}

TEST_F(KvCacheHostTest, AFailedCopyClosesTheTier) {
  make(16);
  auto table = hold(tokens_of(2, 0));
  copy_all();
  cache_->release(table);
  ASSERT_TRUE(cache_->allocate(8, table));
  cache_->release(table);
  auto other = hold(tokens_of(1, 100));
  std::vector<BlockHash> stored, evicted;
  cache_->take_changes(stored, evicted);
  cache_->copy_out();
  EXPECT_FALSE(end_oldest("the bus is gone"));
  stored.clear();
  cache_->take_changes(stored, evicted);
  EXPECT_EQ(evicted.size(), 2u) << "the copies were all there was of the first two";
  EXPECT_TRUE(on_host(tokens_of(2, 0)).empty());
  cache_->release(other);
  cache_->copy_out();
  EXPECT_TRUE(orders_.empty());
  cache_->check_invariants();
}

// A block is told as stored when it can first be found anywhere, and as evicted when it can be no more.
TEST_F(KvCacheHostTest, TellsWhatCanBeFoundInEitherPlace) {
  make(2);
  const auto changes = [&] {
    std::pair<std::vector<BlockHash>, std::vector<BlockHash>> out;
    cache_->take_changes(out.first, out.second);
    return out;
  };
  const std::vector<BlockHash> none;
  const auto first = chain_hashes(kKey, "", tokens_of(2, 0), kBlock);
  auto table = hold(tokens_of(2, 0));
  copy_all();
  cache_->release(table);
  EXPECT_EQ(changes(), std::pair(first, none));
  ASSERT_TRUE(cache_->allocate(8, table));
  EXPECT_EQ(changes(), std::pair(none, none)) << "still in host memory";
  cache_->release(table);
  table = hold(tokens_of(2, 0));
  EXPECT_EQ(changes(), std::pair(none, none)) << "and found all the time";
  cache_->release(table);
  ASSERT_TRUE(cache_->allocate(8, table));
  cache_->release(table);
  const auto second = chain_hashes(kKey, "", tokens_of(2, 100), kBlock);
  table = hold(tokens_of(2, 100));
  copy_all();
  EXPECT_EQ(changes(), std::pair(second, std::vector{first[1], first[0]})) << "their places were taken";
  cache_->release(table);
  EXPECT_EQ(cache_->findable(), 2);
  cache_->check_invariants();
}

}  // namespace
}  // namespace baton::worker
