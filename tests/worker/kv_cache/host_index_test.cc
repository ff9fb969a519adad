#include "worker/kv_cache/host_index.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/rng.h"
#include "tests/support/seed.h"

namespace baton::worker {
namespace {

constexpr int kBlock = 4;
const HashKey kKey{1, 2};

// A prompt of `blocks` blocks, and what finds them.
struct Chain {
  explicit Chain(int blocks, TokenId first = 0) {
    for (int i = 0; i < blocks * kBlock; ++i) tokens.push_back(first + i);
    hashes = chain_hashes(kKey, "", tokens, kBlock);
  }
  HostIndex::Key key(size_t i) const {
    return {.hash = hashes[i], .parent = i == 0 ? BlockHash{} : hashes[i - 1]};
  }
  std::span<const TokenId> block(size_t i) const { return std::span(tokens).subspan(i * kBlock, kBlock); }
  std::optional<BlockHash> take(HostIndex& index, size_t i) const {
    std::optional<BlockHash> evicted;
    index.take(key(i), block(i), evicted);
    return evicted;
  }
  std::vector<TokenId> tokens;
  std::vector<BlockHash> hashes;
};

TEST(HostIndex, FindsOnlyEqualTokensBehindTheSameParent) {
  HostIndex index(4, kBlock);
  const Chain chain(2);
  EXPECT_EQ(chain.take(index, 0), std::nullopt);
  EXPECT_EQ(chain.take(index, 1), std::nullopt);
  EXPECT_NE(index.find(chain.key(1), chain.block(1)), HostIndex::none);
  EXPECT_EQ(index.find(chain.key(1), chain.block(0)), HostIndex::none) << "a collision costs a miss";
  EXPECT_EQ(index.find({.hash = chain.hashes[1], .parent = {}}, chain.block(1)), HostIndex::none);
  EXPECT_EQ(index.find(Chain(1, 50).key(0), Chain(1, 50).block(0)), HostIndex::none);
  index.check_invariants();
}

TEST(HostIndex, GivesAwayTheLeastRecentlyUsedAndAncestorsLast) {
  HostIndex index(4, kBlock);
  const Chain chain(3), other(3, 100);
  for (size_t i : {0, 1, 2}) chain.take(index, i);
  other.take(index, 0);
  EXPECT_EQ(other.take(index, 1), chain.hashes[2]);
  EXPECT_EQ(other.take(index, 2), chain.hashes[1]);
  index.touch(chain.hashes);  // only its first block is left
  EXPECT_EQ(Chain(1, 200).take(index, 0), other.hashes[2]);
  EXPECT_EQ(Chain(1, 300).take(index, 0), other.hashes[1]);
  EXPECT_EQ(Chain(1, 400).take(index, 0), other.hashes[0]);
  EXPECT_TRUE(index.contains(chain.hashes[0]));
  index.check_invariants();
}

TEST(HostIndex, ForgetsAll) {
  HostIndex index(2, kBlock);
  const Chain chain(2);
  chain.take(index, 0);
  chain.take(index, 1);
  std::vector<BlockHash> gone;
  index.clear(gone);
  EXPECT_EQ(gone, chain.hashes);
  EXPECT_EQ(index.size(), 0);
  EXPECT_EQ(chain.take(index, 0), std::nullopt);
  index.check_invariants();
}

// As KvCache uses it: whoever is taken or touched had all its ancestors touched just before.
TEST(HostIndex, NeverOutlivesAnAncestor) {
  const uint64_t seed = support::seed_or(11);
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
  Rng rng(seed);
  HostIndex index(24, kBlock);
  std::vector<Chain> chains;
  for (int i = 0; i < 6; ++i) chains.emplace_back(8, 100 * i);
  int evictions = 0;
  for (int round = 0; round < 3000; ++round) {
    const Chain& chain = chains[rng.below(chains.size())];
    const size_t length = 1 + rng.below(8);
    index.touch(std::span(chain.hashes).first(length));
    for (size_t i = 0; i < length; ++i)
      if (!index.contains(chain.hashes[i])) evictions += chain.take(index, i).has_value();
    for (const Chain& c : chains)
      for (size_t i = 1; i < c.hashes.size(); ++i)
        ASSERT_LE(index.contains(c.hashes[i]), index.contains(c.hashes[i - 1])) << "round " << round;
    index.check_invariants();
  }
  EXPECT_GT(evictions, 1000);
}

}  // namespace
}  // namespace baton::worker
