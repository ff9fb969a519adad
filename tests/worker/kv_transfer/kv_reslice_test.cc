#include "worker/kv_transfer/kv_reslice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "tests/worker/kv_transfer/exchange_fixture.h"

namespace baton::worker {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using transport::Fabric;

// A model whose products can be cut by any of the tensor sizes here. `head_layers` and `embedding_layers`
// move the border between stages.
SplitModel model_of(int layers, int kv_heads, double head_layers = 0, double embedding_layers = 0) {
  return {.layers = layers,
          .heads = 2 * kv_heads,
          .kv_heads = kv_heads,
          .head_dim = 16,
          .hidden = 960,
          .ffn = 960,
          .vocab = 512,
          .head_layers = head_layers,
          .embedding_layers = embedding_layers};
}

std::vector<KvPart> parts(const SplitModel& model, int tensor, int pipeline) {
  const auto made = kv_parts(model, {.tensor = tensor, .pipeline = pipeline});
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
  const auto uneven = parts(model_of(4, 4, 2), 1, 2);  // 3 + 1 layers
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

// Every tensor size the model takes, more than its KV heads too, by every number of stages cut in three ways.
std::vector<std::vector<KvPart>> shapes_of(int layers, int kv_heads) {
  std::vector<std::vector<KvPart>> out;
  for (int cut = 0; cut < 3; ++cut) {
    const SplitModel model = model_of(layers, kv_heads, cut == 1 ? 2 : 0, cut == 2 ? 1 : 0);
    for (const int tensor : tensor_sizes(model))
      for (int pipeline = 1; pipeline <= layers; ++pipeline) out.push_back(parts(model, tensor, pipeline));
  }
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

// Whole prompts through data planes, rank by rank.
kernels::KvGeometry geometry_of(const KvPart& part) {
  return {.layers = part.layers(), .kv_heads = part.heads(), .head_dim = 16, .block_tokens = 8, .blocks = 12};
}

class ReshapedTransferTest : public testing::TestWithParam<Fabric> {
 protected:
  using Ranks = std::vector<std::unique_ptr<ExchangeSide>>;
  Ranks ranks(const std::string& name, const std::vector<KvPart>& parts) {
    Ranks out;
    for (const KvPart& part : parts)
      out.push_back(std::make_unique<ExchangeSide>(GetParam(), hub_, name + std::to_string(out.size()), 1,
                                                   geometry_of(part), part));
    return out;
  }
  // The bytes of a head are a function of layer, head and prompt block.
  static std::string head_text(int layer, int head, int32_t block, size_t bytes) {
    Rng rng(static_cast<uint64_t>(layer * 10'000 + head * 100 + block));
    std::string out(bytes, '\0');
    for (char& c : out) c = static_cast<char>(rng.next());
    return out;
  }
  template <class Each>
  static void for_heads(ExchangeSide& rank, const KvPart& own, std::span<const BlockId> blocks, Each each) {
    const size_t bytes = head_bytes(rank.geometry);
    for (int layer = own.first_layer; layer < own.end_layer; ++layer)
      for (int head = own.first_head; head < own.end_head; ++head)
        for (int32_t i = 0; i < static_cast<int32_t>(blocks.size()); ++i)
          each(rank.piece(layer - own.first_layer, blocks[static_cast<size_t>(i)]) +
                   static_cast<size_t>(head - own.first_head) * bytes,
               head_text(layer, head, i, bytes));
  }
  void move(const std::vector<KvPart>& from, const std::vector<KvPart>& to);

  transport::LoopbackHub hub_;
  Instant now_{std::chrono::seconds(5000)};
};
INSTANTIATE_TEST_SUITE_P(Fabrics, ReshapedTransferTest,
                         testing::Values(Fabric::kLoopbackStream, Fabric::kLoopbackLocal, Fabric::kSocket,
                                         Fabric::kSocketLocal),
                         [](const auto& info) { return transport::fabric_name(info.param); });

void ReshapedTransferTest::move(const std::vector<KvPart>& from, const std::vector<KvPart>& to) {
  const Ranks prefill = ranks("p", from), decode = ranks("d", to);
  const auto slices = reslice(from, to);
  ASSERT_TRUE(slices.ok());
  const auto until = [&](const std::function<bool()>& done) {
    return transport::drive(
        [&] {
          for (const auto* side : {&prefill, &decode})
            for (const auto& rank : *side) rank->agent->do_work(now_);
        },
        done);
  };
  for (const KvSlice& s : *slices) prefill[s.sender]->agent->connect(decode[s.receiver]->description());
  ASSERT_TRUE(until([&] {
    return std::ranges::all_of(*slices, [&](const KvSlice& s) {
      return prefill[s.sender]->plane->connected(decode[s.receiver]->ref) &&
             decode[s.receiver]->plane->connected(prefill[s.sender]->ref);
    });
  }));
  const std::vector<BlockId> source = {BlockId(7), BlockId(2), BlockId(3)};
  const std::vector<BlockId> target = {BlockId(1), BlockId(9), BlockId(4)};
  const std::vector<uint32_t> generations = {5, 6, 7};
  const int32_t prompt = 3 * 8 - 2;
  for (size_t r = 0; r < from.size(); ++r)
    for_heads(*prefill[r], from[r], source,
              [](std::byte* at, const std::string& text) { std::memcpy(at, text.data(), text.size()); });
  uint64_t id = 0;
  for (const KvSlice& s : *slices) {
    const TransferId transfer(++id);
    ExchangeSide &sender = *prefill[s.sender], &receiver = *decode[s.receiver];
    ASSERT_TRUE(receiver.agent
                    ->expect({.transfer = transfer,
                              .source = sender.ref,
                              .prompt_tokens = prompt,
                              .blocks = target,
                              .generations = generations,
                              .part = s.part})
                    .ok());
    ASSERT_TRUE(sender.agent
                    ->send({.transfer = transfer,
                            .destination = receiver.ref,
                            .prompt_tokens = prompt,
                            .blocks = source,
                            .generations = generations,
                            .part = s.part})
                    .ok());
    // A rank does not know which of its layers go where: it reports all it has computed.
    for (int layer = 0; layer < sender.geometry.layers; ++layer)
      sender.agent->layer_ready(transfer, layer, prompt);
    sender.agent->finish(transfer, {.token = 42}, FinishReason::kNone);
  }
  ASSERT_TRUE(until([&] {
    uint64_t over = 0;
    for (const auto& rank : decode) over += rank->landings.size() + rank->drains.size();
    return over == id;
  }));
  for (size_t r = 0; r < to.size(); ++r) {
    EXPECT_TRUE(decode[r]->drains.empty());
    int wrong = 0;
    for_heads(*decode[r], to[r], target, [&](const std::byte* at, const std::string& text) {
      wrong += std::memcmp(at, text.data(), text.size()) != 0 ? 1 : 0;
    });
    EXPECT_EQ(wrong, 0) << "rank " << r;
  }
}

TEST_P(ReshapedTransferTest, EveryShapeIntoEveryOther) {
  const SplitModel model = model_of(3, 4);
  const std::vector<std::vector<KvPart>> shapes = {parts(model, 1, 1), parts(model, 2, 1), parts(model, 4, 1),
                                                   parts(model, 1, 2), parts(model_of(3, 4, 0, 1), 2, 2)};
  for (const auto& from : shapes)
    for (const auto& to : shapes) move(from, to);
}

TEST_P(ReshapedTransferTest, PartsThatDoNotFitAreRefused) {
  const KvPart own{2, 4, 2, 4};
  ExchangeSide rank(GetParam(), hub_, "p", 1, geometry_of(own), own);
  ExchangeSide other(GetParam(), hub_, "d", 1, geometry_of(own), own);
  ASSERT_TRUE(rank.agent->connect(other.description()));
  ASSERT_TRUE(transport::drive(
      [&] {
        rank.agent->do_work(now_);
        other.agent->do_work(now_);
      },
      [&] { return !rank.reports.empty() && !other.reports.empty(); }));
  KvSend send{.transfer = TransferId(1),
              .destination = other.ref,
              .prompt_tokens = 8,
              .blocks = {BlockId(0)},
              .generations = {1},
              .part = {0, 2, 2, 4}};
  EXPECT_THAT(std::string(rank.agent->send(send).message()),
              HasSubstr("layers 0-1, heads 2-3 of layers 2-3"));
  // The receiver expects other heads than the sender sends: both are told.
  send.part = {2, 4, 2, 3};
  ASSERT_TRUE(rank.agent->send(send).ok());
  ASSERT_TRUE(other.agent
                  ->expect({.transfer = TransferId(1),
                            .source = rank.ref,
                            .prompt_tokens = 8,
                            .blocks = {BlockId(0)},
                            .generations = {1},
                            .part = {2, 4, 3, 4}})
                  .ok());
  ASSERT_TRUE(transport::drive(
      [&] {
        rank.agent->do_work(now_);
        other.agent->do_work(now_);
      },
      [&] { return rank.drained(TransferId(1)) && other.drained(TransferId(1)); }));
  EXPECT_THAT(rank.error(TransferId(1)), HasSubstr("this sends layers 2-3, heads 2-2"));
}

}  // namespace
}  // namespace baton::worker
