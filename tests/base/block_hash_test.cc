#include "base/block_hash.h"

#include <gtest/gtest.h>

#include <set>

namespace baton {
namespace {

const HashKey kKey{0x0706050403020100u, 0x0f0e0d0c0b0a0908u};

// The first vectors of the reference implementation's 128-bit table (key 00..0f, message 00, 01, ...):
// root_hash hashes exactly the salt's bytes.
TEST(BlockHash, MatchesTheReferenceVectors) {
  const BlockHash empty = root_hash(kKey, "");
  EXPECT_EQ(empty.lo, 0xe6a825ba047f81a3u);
  EXPECT_EQ(empty.hi, 0x930255c71472f66du);
  const BlockHash one = root_hash(kKey, std::string_view("\0", 1));
  EXPECT_EQ(one.lo, 0x44af996bd8c187dau);
  EXPECT_EQ(one.hi, 0x45fc229b11597634u);
}

TEST(BlockHash, ChainsDependOnEverythingBefore) {
  const std::vector<TokenId> a{1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<TokenId> b = a;
  b[0] = 9;
  const auto ha = chain_hashes(kKey, "", a, 4), hb = chain_hashes(kKey, "", b, 4);
  ASSERT_EQ(ha.size(), 2u);
  EXPECT_NE(ha[0], hb[0]);
  EXPECT_NE(ha[1], hb[1]) << "equal second block after another first block";
  EXPECT_NE(ha, chain_hashes(kKey, "tenant", a, 4));
  EXPECT_NE(ha, chain_hashes({1, 2}, "", a, 4));
  EXPECT_EQ(ha[1], next_hash(kKey, ha[0], std::span(a).subspan(4)));
}

TEST(BlockHash, OnlyFullBlocksAreHashed) {
  const std::vector<TokenId> tokens(7, 1);
  EXPECT_EQ(chain_hashes(kKey, "", tokens, 4).size(), 1u);
  EXPECT_TRUE(chain_hashes(kKey, "", {}, 4).empty());
}

TEST(BlockHash, NoCollisionAmongManyBlocks) {
  std::set<BlockHash> seen;
  for (TokenId t = 0; t < 20000; ++t) {
    const TokenId block[2] = {t, t * 7};
    seen.insert(next_hash(kKey, {}, block));
  }
  EXPECT_EQ(seen.size(), 20000u);
}

}  // namespace
}  // namespace baton
