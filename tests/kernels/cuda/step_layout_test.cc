#include "kernels/cuda/step_layout.h"

#include <gtest/gtest.h>

namespace baton::kernels::cuda {
namespace {

TEST(StepLayout, WhatIsFilledIsFound) {
  const std::vector<BlockId> first = {BlockId(7), BlockId(3)}, second = {BlockId(1)};
  const std::vector<TokenId> tokens = {10, 11, 12};
  const std::vector<int32_t> positions = {20, 21, 4}, logit_rows = {1, 2};
  const std::vector<SequenceRows> sequences = {{0, 2, 20, first}, {2, 1, 4, second}};
  const std::vector<int32_t> fed = {-1, -1, 5};
  const StepBatch batch = {
      .tokens = tokens, .positions = positions, .sequences = sequences, .logit_rows = logit_rows};
  WorkList work;
  work.build(batch, {.kv_heads = 1, .share = 1, .slots = 4});
  StepCapacity capacity;
  EXPECT_TRUE(capacity.grow_to(batch, work));
  EXPECT_FALSE(capacity.grow_to(batch, work)) << "the same step fits";
  const StepLayout layout(capacity);
  std::vector<std::byte> memory(layout.bytes(), std::byte{0xee});
  const size_t used = layout.fill(batch, work, {}, memory.data());
  EXPECT_LE(used, layout.bytes());
  const StepTables t = layout.tables(memory.data());
  EXPECT_EQ(t.counts[kRows], 3);
  EXPECT_EQ(t.counts[kLogitRows], 2);
  EXPECT_EQ(t.counts[kNarrowItems], 2);
  EXPECT_EQ(t.tokens[2], 12);
  EXPECT_EQ(t.fed[2], -1);
  layout.fill(batch, work, fed, memory.data());
  EXPECT_EQ(t.fed[1], -1);
  EXPECT_EQ(t.fed[2], 5);
  EXPECT_EQ(t.row_sequence[1], 0);
  EXPECT_EQ(t.row_sequence[2], 1);
  EXPECT_EQ(t.logit_rows[1], 2);
  EXPECT_EQ(t.lengths[0], 22);
  EXPECT_EQ(t.blocks[t.block_starts[0] + 1], 3);
  EXPECT_EQ(t.blocks[t.block_starts[1]], 1);
  EXPECT_EQ(t.narrow_items[1].first_row, 2);
  EXPECT_EQ(reinterpret_cast<const std::byte*>(t.blocks + 3), memory.data() + used)
      << "block tables stand last";
}

TEST(StepLayout, BucketsAreNeverSmallerThanTheStep) {
  EXPECT_EQ(bucket_for(0), 0);
  EXPECT_EQ(bucket_for(kLargestBucket + 1), 0);
  int last = 0, count = 0;
  for (int rows = 1; rows <= kLargestBucket; ++rows) {
    const int bucket = bucket_for(rows);
    EXPECT_GE(bucket, rows);
    EXPECT_LE(bucket, rows < 16 ? 2 * rows : rows + 7);
    EXPECT_GE(bucket, last);
    count += bucket != last;
    last = bucket;
  }
  EXPECT_EQ(count, 35);
}

TEST(StepLayout, OnlyOneRowASequenceIsADecodeStep) {
  const std::vector<TokenId> tokens = {1, 2};
  const std::vector<int32_t> positions = {5, 6}, both = {0, 1}, last = {1};
  const std::vector<SequenceRows> two = {{0, 1, 5, {}}, {1, 1, 6, {}}}, one = {{0, 2, 5, {}}};
  EXPECT_TRUE(is_decode_step({tokens, positions, two, both}));
  EXPECT_FALSE(is_decode_step({tokens, positions, two, last}));
  EXPECT_FALSE(is_decode_step({tokens, positions, one, both}));
}

}  // namespace
}  // namespace baton::kernels::cuda
