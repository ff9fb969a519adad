#include "worker/kv_transfer/kv_reslice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

namespace baton::worker {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A model whose products can be cut by any of the tensor sizes here.
SplitModel model_of(int layers, int kv_heads) {
  return {.layers = layers,
          .heads = 2 * kv_heads,
          .kv_heads = kv_heads,
          .head_dim = 16,
          .hidden = 960,
          .ffn = 960,
          .vocab = 512};
}

std::vector<KvPart> parts(const SplitModel& model, int tensor, int pipeline,
                          const std::vector<int32_t>& stage_layers = {}) {
  const auto made = kv_parts(model, {.tensor = tensor, .pipeline = pipeline, .stage_layers = stage_layers});
  EXPECT_TRUE(made.ok()) << made.status();
  return made.value_or(std::vector<KvPart>{});
}

KvSlice slice(int sender, int receiver, KvPart part) {
  return {.sender = sender, .receiver = receiver, .part = part};
}

TEST(Reslice, TheExamplesOfTheHeader) {
  const SplitModel model = model_of(4, 4);
  const auto one = parts(model, 1, 1), two = parts(model, 2, 1), four = parts(model, 4, 1);
  const auto eight = parts(model, 8, 1), stages = parts(model, 1, 2);
  const auto uneven = parts(model, 1, 2, {3, 1});
  EXPECT_THAT(*reslice(one, two), ElementsAre(slice(0, 0, {0, 4, 0, 2}), slice(0, 1, {0, 4, 2, 4})));
  EXPECT_THAT(*reslice(two, one), ElementsAre(slice(0, 0, {0, 4, 0, 2}), slice(1, 0, {0, 4, 2, 4})));
  EXPECT_THAT(*reslice(two, four), ElementsAre(slice(0, 0, {0, 4, 0, 1}), slice(0, 1, {0, 4, 1, 2}),
                                               slice(1, 2, {0, 4, 2, 3}), slice(1, 3, {0, 4, 3, 4})));
  EXPECT_THAT(*reslice(stages, two), ElementsAre(slice(0, 0, {0, 2, 0, 2}), slice(1, 0, {2, 4, 0, 2}),
                                                 slice(0, 1, {0, 2, 2, 4}), slice(1, 1, {2, 4, 2, 4})));
  EXPECT_THAT(*reslice(uneven, stages),
              ElementsAre(slice(0, 0, {0, 2, 0, 4}), slice(0, 1, {2, 3, 0, 4}), slice(1, 1, {3, 4, 0, 4})));
  EXPECT_THAT(*reslice(eight, two), ElementsAre(slice(0, 0, {0, 4, 0, 1}), slice(2, 0, {0, 4, 1, 2}),
                                                slice(5, 1, {0, 4, 2, 3}), slice(7, 1, {0, 4, 3, 4})));
  EXPECT_EQ(reslice(two, eight)->size(), 8u);
  EXPECT_EQ(slice_run({0, 4, 4, 8}, {0, 2, 5, 7}, 1024), (PieceRun{.offset = 1024, .bytes = 2048}));
}

TEST(Reslice, WhatNobodyHoldsIsAnError) {
  const std::vector<KvPart> half = {{0, 4, 0, 2}}, all = {{0, 4, 0, 4}}, none = {{0, 0, 0, 4}};
  EXPECT_THAT(std::string(reslice(half, all).status().message()), HasSubstr("layers 0-3, heads 0-3"));
  EXPECT_FALSE(reslice({}, all).ok());
  EXPECT_FALSE(reslice(all, none).ok());
}

// Every receiver gets each of its (layer, head) exactly once, from somebody who holds it; and the work of
// replicas is shared.
void check(const std::vector<KvPart>& senders, const std::vector<KvPart>& receivers) {
  const auto slices = reslice(senders, receivers);
  ASSERT_TRUE(slices.ok()) << slices.status();
  std::set<std::pair<int, int>> pairs;
  for (const KvSlice& s : *slices) EXPECT_TRUE(pairs.insert({s.sender, s.receiver}).second);
  for (size_t r = 0; r < receivers.size(); ++r) {
    const KvPart& want = receivers[r];
    std::map<std::pair<int, int>, int> got;
    for (const KvSlice& s : *slices) {
      if (s.receiver != static_cast<int>(r)) continue;
      EXPECT_EQ(intersection(s.part, want), s.part);
      EXPECT_EQ(intersection(s.part, senders[static_cast<size_t>(s.sender)]), s.part);
      for (int layer = s.part.first_layer; layer < s.part.end_layer; ++layer)
        for (int head = s.part.first_head; head < s.part.end_head; ++head) ++got[{layer, head}];
    }
    EXPECT_EQ(got.size(), static_cast<size_t>(want.layers() * want.heads()));
    for (const auto& [cell, times] : got) EXPECT_EQ(times, 1);
  }
}

// Every way to cut `layers` into stages.
std::vector<std::vector<int32_t>> cuts_of(int layers) {
  std::vector<std::vector<int32_t>> out;
  for (int edges = 0; edges < 1 << (layers - 1); ++edges) {
    std::vector<int32_t> cut = {1};
    for (int layer = 1; layer < layers; ++layer) {
      if ((edges >> (layer - 1) & 1) != 0) cut.push_back(0);
      ++cut.back();
    }
    out.push_back(cut);
  }
  return out;
}

// Every tensor size the model takes, more than its KV heads too, by every cut into stages.
std::vector<std::vector<KvPart>> shapes_of(int layers, int kv_heads) {
  std::vector<std::vector<KvPart>> out;
  const SplitModel model = model_of(layers, kv_heads);
  for (const int tensor : tensor_sizes(model))
    for (const std::vector<int32_t>& cut : cuts_of(layers))
      out.push_back(parts(model, tensor, static_cast<int>(cut.size()), cut));
  return out;
}

TEST(Reslice, EverySmallShapeIntoEveryOther) {
  int pairs = 0;
  for (int layers = 1; layers <= 4; ++layers)
    for (int heads = 1; heads <= 4; ++heads) {
      const auto shapes = shapes_of(layers, heads);
      for (const auto& from : shapes)
        for (const auto& to : shapes) {
          check(from, to);
          if (from == to) {  // the same shape: rank i to rank i, whole
            const auto slices = *reslice(from, to);
            for (const KvSlice& s : slices) EXPECT_EQ(s.sender, s.receiver);
          }
          ++pairs;
        }
    }
  EXPECT_GT(pairs, 3000);
}

}  // namespace
}  // namespace baton::worker
