#include "worker/parallel/model_part.h"

#include <gmock/gmock.h>

#include <functional>

#include "kernels/cpu/contract.h"

namespace baton::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

SplitModel smollm2() {
  return {.layers = 30,
          .heads = 9,
          .kv_heads = 3,
          .head_dim = 64,
          .hidden = 576,
          .ffn = 1536,
          .vocab = 49152,
          .o_block = 32,
          .down_block = 32};
}
SplitModel tinyllama() {
  return {.layers = 22,
          .heads = 32,
          .kv_heads = 4,
          .head_dim = 64,
          .hidden = 2048,
          .ffn = 5632,
          .vocab = 32000,
          .o_block = 256,
          .down_block = 256};
}
SplitModel stories() {
  return {.layers = 5, .heads = 8, .kv_heads = 4, .head_dim = 8, .hidden = 64, .ffn = 172, .vocab = 512};
}

ModelPart part(const SplitModel& model, ParallelShape shape, int rank) {
  const auto p = part_of(model, shape, rank);
  EXPECT_TRUE(p.ok()) << p.status();
  return p.value_or(ModelPart{});
}

TEST(ModelPart, OneRankOwnsAll) {
  const ModelPart p = part(smollm2(), {}, 0);
  EXPECT_EQ(p.layers, (Range{0, 30}));
  EXPECT_EQ(p.heads, (Range{0, 9}));
  EXPECT_EQ(p.kv_heads, (Range{0, 3}));
  EXPECT_EQ(p.ffn, (Range{0, 1536}));
  EXPECT_EQ(p.vocab, (Range{0, 49152}));
  EXPECT_EQ(p.o, (ProductPart{SplitBy::kInputs, {0, 576}, {0, 576}, 3}));
  EXPECT_EQ(p.down, (ProductPart{SplitBy::kInputs, {0, 576}, {0, 1536}, 3}));
}

TEST(ModelPart, ThreeRanksOfSmollm2HoldAKvHeadEach) {
  const ModelPart p = part(smollm2(), {3, 1}, 1);
  EXPECT_EQ(p.heads, (Range{3, 6}));
  EXPECT_EQ(p.kv_heads, (Range{1, 2}));
  EXPECT_EQ(p.ffn, (Range{512, 1024}));
  EXPECT_EQ(p.o, (ProductPart{SplitBy::kInputs, {0, 576}, {192, 384}, 1}));
  EXPECT_EQ(p.down, (ProductPart{SplitBy::kInputs, {0, 576}, {512, 1024}, 1}));
  EXPECT_EQ(p.vocab, (Range{16384, 32768}));
}

TEST(ModelPart, TinyLlamaOverTwoAndFour) {
  const ModelPart two = part(tinyllama(), {2, 1}, 1);
  EXPECT_EQ(two.kv_heads, (Range{2, 4}));
  EXPECT_EQ(two.o, (ProductPart{SplitBy::kInputs, {0, 2048}, {1024, 2048}, 2}));
  EXPECT_EQ(two.down, (ProductPart{SplitBy::kInputs, {0, 2048}, {2816, 5632}, 2}));
  const ModelPart four = part(tinyllama(), {4, 1}, 3);
  EXPECT_EQ(four.heads, (Range{24, 32}));
  EXPECT_EQ(four.o, (ProductPart{SplitBy::kInputs, {0, 2048}, {1536, 2048}, 1}));
  EXPECT_EQ(four.down, (ProductPart{SplitBy::kOutputs, {1536, 2048}, {0, 5632}, 4}));  // 5.5 blocks of 256
}

TEST(ModelPart, OneShardIsSplitByOutputs) {
  for (const int tensor : {2, 4}) {
    const ModelPart p = part(stories(), {tensor, 1}, tensor - 1);
    EXPECT_EQ(p.o, (ProductPart{SplitBy::kOutputs, {64 - 64 / tensor, 64}, {0, 64}, 1}));
    EXPECT_EQ(p.down, (ProductPart{SplitBy::kOutputs, {64 - 64 / tensor, 64}, {0, 172}, 1}));
    EXPECT_EQ(p.ffn, (Range{172 - 172 / tensor, 172}));
  }
}

TEST(ModelPart, MoreRanksThanKvHeadsShareThem) {
  for (int rank = 0; rank < 8; ++rank) {
    const ModelPart p = part(tinyllama(), {8, 1}, rank);
    EXPECT_EQ(p.kv_heads, (Range{rank / 2, rank / 2 + 1}));
    EXPECT_EQ(p.heads, (Range{4 * rank, 4 * rank + 4}));
    EXPECT_EQ(p.o.by, SplitBy::kOutputs);
  }
}

// Every row, head, column and layer has exactly one owner (KV heads that are shared: equal numbers of them).
TEST(ModelPart, PartsTileTheModel) {
  for (const SplitModel& model : {smollm2(), tinyllama(), stories()})
    for (const int tensor : tensor_sizes(model))
      for (int pipeline = 1; pipeline <= model.layers; ++pipeline) {
        const ParallelShape shape{tensor, pipeline};
        int64_t layers = 0, heads = 0, ffn = 0, vocab = 0, kv = 0, o_cells = 0, down_cells = 0;
        for (int rank = 0; rank < shape.ranks(); ++rank) {
          const ModelPart p = part(model, shape, rank);
          EXPECT_GE(p.layers.size(), 1);
          EXPECT_EQ(p.layers.begin, p.place == 0 ? layers : layers - p.layers.size());
          if (p.place == 0) layers += p.layers.size();
          EXPECT_EQ(p.heads.begin, heads % model.heads);
          heads += p.heads.size(), kv += p.kv_heads.size(), ffn += p.ffn.size(), vocab += p.vocab.size();
          o_cells += p.o.rows.size() * p.o.columns.size();
          down_cells += p.down.rows.size() * p.down.columns.size();
          // A rank's query heads read its own KV heads only.
          const int64_t group = model.heads / model.kv_heads;
          EXPECT_EQ(p.heads.begin / group, p.kv_heads.begin);
          EXPECT_EQ((p.heads.end - 1) / group, p.kv_heads.end - 1);
          const Range own_inputs{p.heads.begin * model.head_dim, p.heads.end * model.head_dim};
          EXPECT_TRUE(p.o.by == SplitBy::kOutputs || p.o.columns == own_inputs);
          EXPECT_TRUE(p.down.by == SplitBy::kOutputs || p.down.columns == p.ffn);
        }
        EXPECT_EQ(layers, model.layers);
        EXPECT_EQ(heads, int64_t{model.heads} * pipeline);
        EXPECT_EQ(kv, std::max<int64_t>(model.kv_heads, tensor) * pipeline);
        EXPECT_EQ(ffn, model.ffn * pipeline);
        EXPECT_EQ(vocab, model.vocab);
        EXPECT_EQ(o_cells, model.hidden * model.heads * model.head_dim * pipeline);
        EXPECT_EQ(down_cells, model.hidden * model.ffn * pipeline);
      }
}

TEST(ModelPart, RefusesNamingTheSizesThatFit) {
  EXPECT_THAT(tensor_sizes(smollm2()), ElementsAre(1, 3));
  EXPECT_THAT(tensor_sizes(stories()), ElementsAre(1, 2, 4));
  EXPECT_THAT(tensor_sizes(tinyllama()), ElementsAre(1, 2, 4, 8, 16, 32));
  const auto refused = part_of(smollm2(), {2, 1}, 0).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("parallel.tensor 2: its 9 heads do not divide among 2 ranks; this model takes tensor "
                        "1, 3"));
  EXPECT_FALSE(part_of(smollm2(), {0, 1}, 0).ok());
  EXPECT_FALSE(part_of(smollm2(), {1, 31}, 0).ok());
  EXPECT_FALSE(part_of(smollm2(), {1, 0}, 0).ok());
  EXPECT_FALSE(part_of(smollm2(), {3, 2}, 6).ok());
}

TEST(StageLayers, AreEvenUnlessTheyAreNamed) {
  EXPECT_THAT(even_layers(30, 4), ElementsAre(8, 8, 7, 7));
  EXPECT_EQ(part(smollm2(), {1, 2}, 1).layers, (Range{15, 30}));
  const ParallelShape named{1, 3, {20, 1, 9}};
  EXPECT_EQ(part(smollm2(), named, 0).layers, (Range{0, 20}));
  EXPECT_EQ(part(smollm2(), named, 1).layers, (Range{20, 21}));
  EXPECT_EQ(part(smollm2(), named, 2).layers, (Range{21, 30}));
  EXPECT_EQ(part(smollm2(), {3, 2, {22, 8}}, 5).layers, (Range{22, 30}));
}

TEST(StageLayers, MustBeTheModels) {
  for (const std::vector<int32_t>& bad :
       {std::vector<int32_t>{30}, {16, 13}, {16, 15}, {30, 0}, {31, -1}, {10, 10, 10}, {1 << 30, 1 << 30}}) {
    const auto refused = part_of(smollm2(), {1, 2, bad}, 0).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(refused.message()),
                HasSubstr("want 2 numbers from 1 on, together the model's 30 layers"));
  }
  EXPECT_EQ(
      part_of(smollm2(), {1, 2, {16, 13}}, 0).status().message(),
      "parallel.stageLayers: want 2 numbers from 1 on, together the model's 30 layers; got 16 + 13 = 29");
}

// The rule in the contract's own words: sums of runs, added by the ranks' tree, are the tree of all.
TEST(WholeSubtrees, AgreesWithTheTreeOfTheContract) {
  using Shape = std::string;  // the tree as text
  const std::function<Shape(std::vector<Shape>)> tree = [&](std::vector<Shape> leaves) -> Shape {
    if (leaves.size() == 1) return leaves[0];
    size_t half = 1;
    while (half * 2 < leaves.size()) half *= 2;
    const auto cut = leaves.begin() + static_cast<ptrdiff_t>(half);
    return "(" + tree({leaves.begin(), cut}) + tree({cut, leaves.end()}) + ")";
  };
  int yes = 0;
  for (int shards = 1; shards <= 8; ++shards)
    for (int ranks = 1; ranks <= shards; ++ranks) {
      if (shards % ranks != 0) {
        EXPECT_FALSE(whole_subtrees(shards, ranks));
        continue;
      }
      std::vector<Shape> leaves, sums;
      for (int s = 0; s < shards; ++s) leaves.push_back(std::to_string(s));
      const int each = shards / ranks;
      for (int r = 0; r < ranks; ++r) sums.push_back(tree({&leaves[r * each], &leaves[r * each] + each}));
      EXPECT_EQ(whole_subtrees(shards, ranks), tree(sums) == tree(leaves)) << ranks << " of " << shards;
      yes += whole_subtrees(shards, ranks);
    }
  EXPECT_EQ(yes, 19);
  // And with numbers whose sum depends on the order.
  const float p[] = {1e8f, 1.0f, -1e8f};
  EXPECT_EQ(kernels::contract::sum_tree(p), (p[0] + p[1]) + p[2]);
}

}  // namespace
}  // namespace baton::worker
