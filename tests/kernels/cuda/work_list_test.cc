#include "kernels/cuda/work_list.h"
#include "tests/support/seed.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace baton::kernels::cuda {
namespace {

StepBatch batch_of(const std::vector<SequenceRows>& sequences) { return {.sequences = sequences}; }

// Every (row, head) is computed once, over all chunks it sees; slots are used once and stand in ascending
// order.
void check(const std::vector<SequenceRows>& sequences, const WorkListShape& shape) {
  WorkList work;
  work.build(batch_of(sequences), shape);
  std::map<std::pair<int, int>, std::set<int>> chunks;  // (row, head) -> chunks
  std::set<int> slots;
  const auto cover = [&](const AttentionItem& item) {
    ASSERT_LT(item.packed_begin, item.packed_end);
    for (int p = item.packed_begin; p < item.packed_end; ++p)
      for (int c = item.first_chunk; c <= item.last_chunk; ++c) {
        const std::pair at(item.first_row + p / shape.share, item.kv_head * shape.share + p % shape.share);
        ASSERT_TRUE(chunks[at].insert(c).second);
      }
  };
  for (const AttentionItem& item : work.wide) {
    EXPECT_LE(item.packed_end - item.packed_begin, 64);
    EXPECT_EQ(item.slot, -1);
    cover(item);
  }
  for (const AttentionItem& item : work.narrow) {
    EXPECT_LE(item.packed_end - item.packed_begin, 16);
    cover(item);
    if (item.slot < 0) continue;
    EXPECT_EQ(item.first_chunk, item.last_chunk);
    EXPECT_LT(item.slot, shape.slots);
    EXPECT_TRUE(slots.insert(item.slot).second);
  }
  size_t merged = 0;
  for (const MergeItem& m : work.merges) merged += m.chunks;
  EXPECT_EQ(merged, slots.size());
  for (const SequenceRows& s : sequences)
    for (int i = 0; i < s.row_count; ++i)
      for (int head = 0; head < shape.kv_heads * shape.share; ++head) {
        const int position = s.first_position + i;
        const int first = shape.window > 0 ? std::max(0, position - shape.window + 1) : 0;
        const std::set<int>& seen = chunks[{s.first_row + i, head}];
        for (int c = first / kChunkKeys; c <= position / kChunkKeys; ++c)
          EXPECT_TRUE(seen.contains(c)) << "row " << s.first_row + i << ", chunk " << c;
      }
}

TEST(WorkList, DecodeIsCutByChunksPromptsByRows) {
  WorkList work;
  const std::vector<SequenceRows> sequences = {{.first_row = 0, .row_count = 1, .first_position = 1000},
                                               {.first_row = 1, .row_count = 32, .first_position = 0}};
  work.build(batch_of(sequences), {.kv_heads = 8, .share = 4, .slots = 100});
  EXPECT_EQ(work.narrow.size(), 8u * 4);
  EXPECT_EQ(work.merges.size(), 8u);
  EXPECT_EQ(work.wide.size(), 8u * 2);
  EXPECT_EQ(work.merges[1].first_slot, 4);
}

TEST(WorkList, WithoutSlotsABlockWalksAllChunks) {
  WorkList work;
  const std::vector<SequenceRows> sequences = {{.first_row = 0, .row_count = 1, .first_position = 1000}};
  work.build(batch_of(sequences),
             {.kv_heads = 2, .share = 1, .slots = 5});  // the second head finds one slot left
  ASSERT_EQ(work.narrow.size(), 5u);
  EXPECT_EQ(work.narrow.back().slot, -1);
  EXPECT_EQ(work.narrow.back().last_chunk, 3);
}

TEST(WorkList, CoversEveryRowOnce) {
  for (int round = 0; round < 200; ++round) {
    const uint64_t seed = support::given_seed().value_or(100 + round);
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const auto between = [&](int low, int high) {
      return std::uniform_int_distribution<int>(low, high)(random);
    };
    std::vector<SequenceRows> sequences;
    int row = 0;
    for (int s = between(0, 6); s > 0; --s) {
      sequences.push_back({.first_row = row,
                           .row_count = between(0, 1) ? 1 : between(1, 150),
                           .first_position = between(0, 3000)});
      row += sequences.back().row_count;
    }
    check(sequences, {.kv_heads = between(1, 3),
                      .share = between(1, 20),
                      .window = between(0, 1) * between(1, 900),
                      .slots = between(0, 60)});
  }
}

}  // namespace
}  // namespace baton::kernels::cuda
