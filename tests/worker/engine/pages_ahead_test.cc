#include "worker/engine/pages_ahead.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <vector>

namespace baton::worker {
namespace {

// Pieces of two pages, 3 layers, 100 blocks.
kernels::KvGeometry geometry() {
  return {.layers = 3, .kv_heads = 4, .head_dim = 32, .block_tokens = 16, .blocks = 100};
}

// Shared memory of its own, as a pool is; pages are there once somebody used or took them.
class PagesAheadTest : public testing::Test {
 protected:
  PagesAheadTest() {
    void* base = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(base, MAP_FAILED);
    pool_ = {static_cast<std::byte*>(base), bytes_};
    page_ = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    EXPECT_EQ(geometry_.piece_bytes() % page_, 0u);
  }
  ~PagesAheadTest() override { ::munmap(pool_.data(), bytes_); }

  // Whether all pages of the block, in every layer, are there; nullopt when only some are.
  std::optional<bool> there(int64_t block) const {
    std::vector<unsigned char> pages;
    for (int layer = 0; layer < geometry_.layers; ++layer) {
      std::vector<unsigned char> piece(geometry_.piece_bytes() / page_);
      std::byte* at = pool_.data() + geometry_.piece_offset(layer, BlockId(static_cast<uint32_t>(block)));
      EXPECT_EQ(::mincore(at, geometry_.piece_bytes(), piece.data()), 0);
      pages.insert(pages.end(), piece.begin(), piece.end());
    }
    const auto n = std::ranges::count_if(pages, [](unsigned char p) { return (p & 1) != 0; });
    if (n == 0) return false;
    return n == static_cast<std::ptrdiff_t>(pages.size()) ? std::optional(true) : std::nullopt;
  }
  // The blocks that are there, which follow each other from 0.
  int64_t blocks_there() const {
    int64_t n = 0;
    while (n < geometry_.blocks && there(n) == true) ++n;
    for (int64_t b = n; b < geometry_.blocks; ++b) EXPECT_EQ(there(b), false) << "block " << b;
    return n;
  }
  size_t block_bytes() const { return geometry_.piece_bytes() * static_cast<size_t>(geometry_.layers); }
  int64_t turn() const {  // blocks
    return static_cast<int64_t>((131072 + geometry_.piece_bytes() - 1) / geometry_.piece_bytes());
  }

  const kernels::KvGeometry geometry_ = geometry();
  const size_t bytes_ = geometry_.pool_bytes();
  std::span<std::byte> pool_;
  size_t page_ = 0;
};

TEST_F(PagesAheadTest, TakesWhatLiesAheadOfTheUsedBlocks) {
  PagesAhead ahead(pool_, geometry_, 10 * block_bytes());
  EXPECT_EQ(blocks_there(), 0);
  int turns = 0;
  while (ahead.take(0)) ++turns;
  const int64_t first = (10 + turn() - 1) / turn() * turn();  // whole turns
  EXPECT_EQ(blocks_there(), first);
  EXPECT_EQ(turns, first / turn() * geometry_.layers);  // one layer's run each
  EXPECT_FALSE(ahead.take(0));
  EXPECT_FALSE(ahead.take(first - 10));  // ten are ahead still
  EXPECT_TRUE(ahead.take(first - 9));
  while (ahead.take(first - 9)) continue;
  EXPECT_EQ(blocks_there(), first + turn());
}

TEST_F(PagesAheadTest, EndsAtTheEndOfThePool) {
  PagesAhead ahead(pool_, geometry_, 1000 * block_bytes());
  while (ahead.take(0)) continue;
  EXPECT_EQ(blocks_there(), geometry_.blocks);
  EXPECT_FALSE(ahead.take(geometry_.blocks));
}

// A sequence took more than was ahead: there is nothing to do for blocks that have memory.
TEST_F(PagesAheadTest, SkipsWhatWasUsedMeanwhile) {
  PagesAhead ahead(pool_, geometry_, block_bytes());
  EXPECT_TRUE(ahead.take(0));  // layer 0 of the first run only
  while (ahead.take(40)) continue;
  EXPECT_EQ(there(39), false);  // nobody really used it
  EXPECT_EQ(there(40), true);
  EXPECT_EQ(there(40 + turn() - 1), true);
  EXPECT_EQ(there(40 + turn()), false);
}

TEST_F(PagesAheadTest, LeavesTheContentAsItIs) {
  for (size_t i = 0; i < bytes_; i += 97) pool_[i] = static_cast<std::byte>(i % 251);
  PagesAhead ahead(pool_, geometry_, bytes_);
  while (ahead.take(0)) continue;
  for (size_t i = 0; i < bytes_; i += 97) ASSERT_EQ(pool_[i], static_cast<std::byte>(i % 251)) << i;
}

// Memory that the system does not give so: pages come at their first use, as ever.
TEST_F(PagesAheadTest, EndsWhenTheSystemRefuses) {
  ASSERT_EQ(::mprotect(pool_.data(), bytes_, PROT_READ), 0);
  PagesAhead ahead(pool_, geometry_, bytes_);
  EXPECT_TRUE(ahead.take(0));
  EXPECT_FALSE(ahead.take(0));
  ASSERT_EQ(::mprotect(pool_.data(), bytes_, PROT_READ | PROT_WRITE), 0);
  EXPECT_FALSE(ahead.take(0));
}

}  // namespace
}  // namespace baton::worker
