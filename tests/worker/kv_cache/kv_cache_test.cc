#include "worker/kv_cache/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>

#include "base/rng.h"

namespace baton::worker {
namespace {

constexpr int kBlock = 4;
const HashKey kKey{3, 4};

std::vector<TokenId> tokens_of(int count, TokenId first = 0) {
  std::vector<TokenId> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(first + i);
  return tokens;
}

// What a sequence does with the cache: take the prefix, get the rest, publish what is full.
struct Holder {
  KvCache& cache;
  std::vector<TokenId> tokens;
  std::vector<BlockId> table;
  size_t hits = 0;
  TransferId lease;

  Holder(KvCache& c, std::vector<TokenId> t) : cache(c), tokens(std::move(t)) {}
  bool admit() {
    const auto hashes = chain_hashes(kKey, "", tokens, kBlock);
    std::vector<BlockId> matched;
    cache.match(hashes, tokens, static_cast<int>(tokens.size() - 1) / kBlock, matched);
    const auto fresh = static_cast<int32_t>((tokens.size() + kBlock - 1) / kBlock - matched.size());
    if (fresh > cache.available(matched)) return false;
    cache.hold(matched);
    table = matched;
    hits = matched.size();
    EXPECT_TRUE(cache.allocate(fresh, table));
    return true;
  }
  void publish() {
    const auto hashes = chain_hashes(kKey, "", tokens, kBlock);
    for (size_t i = hits; i < hashes.size(); ++i)
      EXPECT_TRUE(cache.publish({table, i, lease}, hashes[i], std::span(tokens).subspan(i * kBlock, kBlock)));
  }
  void leave() { cache.release(table); }
};

TEST(KvCache, ReleasedPrefixIsFoundAgain) {
  KvCache cache(16, kBlock);
  Holder first(cache, tokens_of(10));
  ASSERT_TRUE(first.admit());
  first.publish();
  const auto blocks = first.table;
  first.leave();
  EXPECT_EQ(cache.blocks_cached(), 2);
  EXPECT_EQ(cache.pool().free(), 14) << "the partial block is not kept";
  Holder second(cache, tokens_of(10));
  ASSERT_TRUE(second.admit());
  EXPECT_EQ(second.hits, 2u);
  EXPECT_TRUE(std::equal(blocks.begin(), blocks.begin() + 2, second.table.begin()));
  cache.check_invariants();
}

TEST(KvCache, AFullHitLeavesOneTokenToCompute) {
  KvCache cache(16, kBlock);
  Holder first(cache, tokens_of(8));
  ASSERT_TRUE(first.admit());
  first.publish();
  Holder second(cache, tokens_of(8));
  ASSERT_TRUE(second.admit());
  EXPECT_EQ(second.hits, 1u);
}

TEST(KvCache, EvictsLeafFirstAndTellsTheHashes) {
  KvCache cache(4, kBlock);
  Holder first(cache, tokens_of(16));
  ASSERT_TRUE(first.admit());
  first.publish();
  first.leave();
  std::vector<BlockHash> stored;
  std::vector<BlockHash> evicted;
  cache.take_changes(stored, evicted);
  const auto hashes = chain_hashes(kKey, "", tokens_of(16), kBlock);
  EXPECT_EQ(stored, hashes);
  EXPECT_TRUE(evicted.empty());
  Holder other(cache, tokens_of(7, 1000));
  ASSERT_TRUE(other.admit());
  stored.clear();
  cache.take_changes(stored, evicted);
  EXPECT_EQ(evicted, (std::vector{hashes[3], hashes[2]}));
  EXPECT_EQ(cache.evictions(), 2);
  cache.check_invariants();
}

TEST(KvCache, StoredAndEvictedBetweenReportsIsNotTold) {
  KvCache cache(2, kBlock);
  Holder first(cache, tokens_of(8));
  ASSERT_TRUE(first.admit());
  first.publish();
  first.leave();
  Holder other(cache, tokens_of(4, 50));
  ASSERT_TRUE(other.admit());  // evicts block 1 of the first, of which nobody heard
  std::vector<BlockHash> stored;
  std::vector<BlockHash> evicted;
  cache.take_changes(stored, evicted);
  EXPECT_EQ(stored, (std::vector{chain_hashes(kKey, "", tokens_of(4), kBlock)[0]}));
  EXPECT_TRUE(evicted.empty());
}

TEST(KvCache, EqualBlocksFoldIntoOne) {
  KvCache cache(8, kBlock);
  Holder a(cache, tokens_of(9));
  Holder b(cache, tokens_of(9));
  ASSERT_TRUE(a.admit());
  ASSERT_TRUE(b.admit());  // before anything is published: both compute
  a.publish();
  b.publish();
  EXPECT_EQ(a.table[0], b.table[0]);
  EXPECT_EQ(a.table[1], b.table[1]);
  EXPECT_NE(a.table[2], b.table[2]);
  EXPECT_EQ(cache.pool().free(), 4) << "b gave its two copies back";
  a.leave();
  EXPECT_EQ(cache.blocks_cached(), 0) << "b holds them";
  b.leave();
  EXPECT_EQ(cache.blocks_cached(), 2);
  cache.check_invariants();
}

TEST(KvCache, FoldingKeepsWhatATransferReads) {
  KvCache cache(8, kBlock);
  Holder a(cache, tokens_of(12));
  Holder b(cache, tokens_of(12));
  b.lease = TransferId(3);
  ASSERT_TRUE(a.admit());
  ASSERT_TRUE(b.admit());
  cache.lease(b.lease, b.table);
  const auto sent = b.table;
  a.tokens.resize(8);
  a.publish();  // blocks 0 and 1 are a's
  b.publish();  // 0 and 1 fold, 2 is b's own, child of a's block 1
  EXPECT_EQ(b.table[2], sent[2]);
  a.leave();
  b.leave();
  for (BlockId block : sent) EXPECT_NE(cache.pool().state(block), BlockState::kFree) << to_string(block);
  cache.check_invariants();
  EXPECT_EQ(cache.blocks_cached(), 0) << "ancestors of what is read are held as well";
  cache.unlease(b.lease);
  cache.check_invariants();
  EXPECT_EQ(cache.blocks_cached(), 3);
  EXPECT_EQ(cache.pool().free(), 5);
}

TEST(KvCache, ACollisionEndsPublishing) {
  KvCache cache(8, kBlock);
  Holder a(cache, tokens_of(5));
  Holder b(cache, tokens_of(5, 70));
  ASSERT_TRUE(a.admit());
  ASSERT_TRUE(b.admit());
  const BlockHash same{1, 1};
  EXPECT_TRUE(cache.publish({.table = a.table}, same, std::span(a.tokens).first(kBlock)));
  EXPECT_FALSE(cache.publish({.table = b.table}, same, std::span(b.tokens).first(kBlock)));
  a.leave();
  b.leave();
  cache.check_invariants();
  EXPECT_EQ(cache.blocks_cached(), 1);
}

TEST(KvCache, RandomHolders) {
  const uint64_t seed = 99;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Rng rng(seed);
  KvCache cache(48, kBlock);
  std::vector<std::unique_ptr<Holder>> holders;
  std::vector<TransferId> leases;
  std::set<BlockHash> known;  // as a router would keep it
  uint64_t next_lease = 1;
  for (int i = 0; i < 20'000; ++i) {
    if (holders.size() < 8 && rng.below(2) == 0) {
      // A few families of prompts with shared prefixes.
      auto tokens = tokens_of(1 + static_cast<int>(rng.below(40)), static_cast<TokenId>(1000 * rng.below(3)));
      if (rng.below(3) == 0) tokens.back() += static_cast<TokenId>(rng.below(5));
      auto holder = std::make_unique<Holder>(cache, tokens);
      if (!holder->admit()) continue;
      if (rng.below(4) == 0) {
        holder->lease = TransferId(next_lease++);
        cache.lease(holder->lease, holder->table);
        leases.push_back(holder->lease);
      }
      holders.push_back(std::move(holder));
    } else if (!holders.empty()) {
      const size_t at = rng.below(holders.size());
      if (rng.below(4) != 0) holders[at]->publish();
      holders[at]->leave();
      holders.erase(holders.begin() + static_cast<long>(at));
    }
    if (!leases.empty() && rng.below(3) == 0) {
      const size_t at = rng.below(leases.size());
      cache.unlease(leases[at]);
      leases.erase(leases.begin() + static_cast<long>(at));
    }
    if (i % 7 == 0) {
      cache.check_invariants();
      std::vector<BlockHash> stored;
      std::vector<BlockHash> evicted;
      cache.take_changes(stored, evicted);
      for (const BlockHash& hash : evicted) ASSERT_EQ(known.erase(hash), 1u);
      for (const BlockHash& hash : stored) ASSERT_TRUE(known.insert(hash).second);
      ASSERT_EQ(static_cast<int64_t>(known.size()), cache.index().size());
    }
  }
  for (auto& holder : holders) holder->leave();
  for (TransferId lease : leases) cache.unlease(lease);
  cache.check_invariants();
  EXPECT_EQ(cache.blocks_active(), 0);
}

}  // namespace
}  // namespace baton::worker
