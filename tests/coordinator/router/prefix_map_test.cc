#include "coordinator/router/prefix_map.h"

#include <gtest/gtest.h>

#include <set>

#include "base/rng.h"

namespace baton::coordinator {
namespace {

const WorkerRef kW0{"w0", Incarnation(1)};
const WorkerRef kW0Again{"w0", Incarnation(2)};
const WorkerRef kW1{"w1", Incarnation(1)};

std::vector<BlockHash> chain(uint64_t first, int count) {
  std::vector<BlockHash> blocks;
  for (int i = 0; i < count; ++i) blocks.push_back({first + i, 7});
  return blocks;
}

TEST(PrefixMap, CountsTheLongestRunFromTheFirstBlock) {
  PrefixMap map;
  map.add(kW0, 100);
  const auto prompt = chain(1, 6);
  EXPECT_EQ(map.cached_blocks(kW0, prompt), 0);
  map.stored(kW0, std::span(prompt).first(3));
  map.stored(kW0, std::span(prompt).subspan(4, 1));  // after a gap: of no use
  EXPECT_EQ(map.cached_blocks(kW0, prompt), 3);
  map.stored(kW0, std::span(prompt).subspan(3, 1));
  EXPECT_EQ(map.cached_blocks(kW0, prompt), 5);
  map.evicted(kW0, std::span(prompt).subspan(1, 1));
  EXPECT_EQ(map.cached_blocks(kW0, prompt), 1);
  EXPECT_EQ(map.cached_blocks(kW0, {}), 0);
}

TEST(PrefixMap, KeepsLivesApart) {
  PrefixMap map;
  const auto prompt = chain(1, 3);
  map.add(kW0, 100);
  map.add(kW1, 100);
  map.stored(kW0, prompt);
  EXPECT_EQ(map.cached_blocks(kW1, prompt), 0);
  map.forget(kW0);
  map.add(kW0Again, 100);
  EXPECT_EQ(map.cached_blocks(kW0, prompt), 0);
  EXPECT_EQ(map.cached_blocks(kW0Again, prompt), 0);
  map.stored(kW0, prompt);  // late words of the former life
  EXPECT_EQ(map.cached_blocks(kW0Again, prompt), 0);
  EXPECT_EQ(map.dropped(), 3u);
}

TEST(PrefixMap, IsBoundedByThePool) {
  PrefixMap map;
  map.add(kW0, 4);
  map.stored(kW0, chain(1, 10));
  EXPECT_EQ(map.blocks(kW0), 4);
  EXPECT_EQ(map.dropped(), 6u);
  map.stored(kW0, chain(1, 4));  // known ones are no news
  EXPECT_EQ(map.dropped(), 6u);
  map.evicted(kW0, chain(1, 2));
  map.stored(kW0, chain(20, 2));
  EXPECT_EQ(map.blocks(kW0), 4);
}

TEST(PrefixMap, AgreesWithAModel) {
  const uint64_t seed = 20240607;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Rng rng(seed);
  PrefixMap map;
  map.add(kW0, 64);
  std::set<BlockHash> model;
  const auto universe = chain(0, 64);
  for (int i = 0; i < 20000; ++i) {
    const BlockHash block = universe[rng.below(universe.size())];
    if (rng.below(3) != 0) {
      map.stored(kW0, std::span(&block, 1));
      model.insert(block);
    } else {
      map.evicted(kW0, std::span(&block, 1));
      model.erase(block);
    }
    const size_t from = rng.below(universe.size());
    int32_t want = 0;
    while (from + want < universe.size() && model.contains(universe[from + want])) ++want;
    ASSERT_EQ(map.cached_blocks(kW0, std::span(universe).subspan(from)), want);
  }
}

}  // namespace
}  // namespace baton::coordinator
