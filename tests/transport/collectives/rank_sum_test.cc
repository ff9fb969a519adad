#include "transport/collectives/rank_sum.h"

#include <gtest/gtest.h>

#include <bit>

#include "kernels/cpu/contract.h"
#include "tests/transport/collectives/rank_threads.h"

namespace baton {
namespace {

TEST(RankSum, IsTheTreeOfOneRankBitForBit) {
  constexpr uint64_t kSeed = 7;
  for (const int ranks : {1, 2, 3, 4, 5, 6, 7, 8, 13, 64}) {
    for (const size_t count : {1, 3, 255, 256, 257, 1000}) {
      std::vector<std::vector<float>> parts;
      std::vector<const float*> at;
      for (int r = 0; r < ranks; ++r) parts.push_back(contribution(kSeed, r, ranks, count));
      for (const auto& p : parts) at.push_back(p.data());
      std::vector<float> sum(count);
      rank_sum(at, sum.data(), count);
      for (size_t i = 0; i < count; ++i) {
        std::vector<float> column;
        for (const auto& p : parts) column.push_back(p[i]);
        ASSERT_EQ(std::bit_cast<uint32_t>(sum[i]),
                  std::bit_cast<uint32_t>(kernels::contract::sum_tree(column)))
            << ranks << " ranks, element " << i << ", seed " << kSeed;
      }
    }
  }
}

}  // namespace
}  // namespace baton
