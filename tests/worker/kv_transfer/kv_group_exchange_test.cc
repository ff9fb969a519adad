// Whole prompts between workers of several ranks, through data planes: every shape into every other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "base/cat.h"
#include "base/timers.h"
#include "tests/worker/kv_transfer/exchange_fixture.h"
#include "transport/data/byte_codec.h"

namespace baton::worker {
namespace {

using testing::HasSubstr;
using transport::Fabric;

SplitModel model() { return model_with({.layers = 3, .kv_heads = 4, .head_dim = 16}); }

// All ranks of one worker.
class Group {
 public:
  Group(Fabric fabric, transport::LoopbackHub& hub, const WorkerRef& worker, const SplitModel& model,
        ParallelShape shape, const std::string& layout = "kv-head-test")
      : parts_(*kv_parts(model, shape)), shape_(shape) {
    if (shape.pipeline > 1 && shape.stage_layers.empty())
      shape_.stage_layers = even_layers(model.layers, shape.pipeline);
    for (int rank = 0; rank < shape.ranks(); ++rank) {
      const kernels::KvGeometry geometry{.layers = parts_[rank].layers(),
                                         .kv_heads = parts_[rank].heads(),
                                         .head_dim = 16,
                                         .block_tokens = 8,
                                         .blocks = 12};
      ranks.push_back(std::make_unique<ExchangeSide>(
          fabric, hub, worker, geometry,
          RankOf{.model = model, .shape = shape, .rank = rank, .layout = layout}));
      addresses_.push_back(ranks.back()->plane->address());
    }
    for (auto& rank : ranks) rank->start(addresses_);
  }
  ExchangeSide& leader() { return *ranks[0]; }
  WorkerDescription description() const {
    return {.ref = ranks[0]->worker, .data_address = to_text({.shape = shape_, .ranks = addresses_})};
  }
  void step(Instant now) {
    for (auto& rank : ranks)
      if (rank) rank->agent->do_work(now);
  }
  // The bytes of a head are a function of layer, head and prompt block.
  void fill(std::span<const BlockId> blocks, uint64_t prompt) {
    for_heads(blocks, prompt,
              [](std::byte* at, const std::string& text) { std::memcpy(at, text.data(), text.size()); });
  }
  int wrong(std::span<const BlockId> blocks, uint64_t prompt) {
    int count = 0;
    for_heads(blocks, prompt, [&](const std::byte* at, const std::string& text) {
      count += std::memcmp(at, text.data(), text.size()) != 0 ? 1 : 0;
    });
    return count;
  }
  uint64_t bytes_received() const {
    uint64_t sum = 0;
    for (const auto& rank : ranks)
      if (rank) sum += rank->agent->counters().bytes_received;
    return sum;
  }
  void all_layers_ready(TransferId id, int32_t tokens) {
    for (auto& rank : ranks)
      for (int layer = 0; rank && layer < rank->geometry.layers; ++layer)
        rank->agent->layer_ready(id, layer, tokens, tokens);
  }

  std::vector<std::unique_ptr<ExchangeSide>> ranks;

 private:
  template <class Each>
  void for_heads(std::span<const BlockId> blocks, uint64_t prompt, Each each) {
    for (size_t r = 0; r < ranks.size(); ++r) {
      const KvPart& own = parts_[r];
      const size_t bytes = head_bytes(ranks[r]->geometry);
      for (int layer = own.first_layer; layer < own.end_layer; ++layer)
        for (int head = own.first_head; head < own.end_head; ++head)
          for (size_t i = 0; i < blocks.size(); ++i) {
            Rng rng(((prompt * 100 + static_cast<uint64_t>(layer)) * 100 + static_cast<uint64_t>(head)) *
                        100 +
                    i);
            std::string text(bytes, '\0');
            for (char& c : text) c = static_cast<char>(rng.next());
            each(ranks[r]->piece(layer - own.first_layer, blocks[i]) +
                     static_cast<size_t>(head - own.first_head) * bytes,
                 text);
          }
    }
  }
  const std::vector<KvPart> parts_;
  ParallelShape shape_;  // with the layers of its stages, as workers say them
  std::vector<std::string> addresses_;
};

constexpr int32_t kPrompt = 3 * 8 - 2;
const std::vector<BlockId> kSource = {BlockId(7), BlockId(2), BlockId(3)};
const std::vector<BlockId> kTarget = {BlockId(1), BlockId(9), BlockId(4)};
const WorkerRef kPrefill{"p-0", Incarnation(5)};
const WorkerRef kDecode{"d-0", Incarnation(6)};

class GroupExchangeTest : public testing::TestWithParam<Fabric> {
 protected:
  void make(const ParallelShape& from, const ParallelShape& to) {
    prefill_ = std::make_unique<Group>(GetParam(), hub_, kPrefill, model(), from);
    decode_ = std::make_unique<Group>(GetParam(), hub_, kDecode, model(), to);
  }
  void step() {
    prefill_->step(now_);
    decode_->step(now_);
  }
  bool until(const std::function<bool()>& done) {
    return transport::drive([&] { step(); }, done);
  }
  void settle() {
    for (int i = 0; i < 60; ++i) step();
  }
  static bool connected(const ExchangeSide& side) {
    return !side.reports.empty() && side.reports.back().connected;
  }
  void pair() {
    ASSERT_TRUE(prefill_->leader().agent->connect(decode_->description()));
    ASSERT_TRUE(decode_->leader().agent->connect(prefill_->description()));
    ASSERT_TRUE(until([&] { return connected(prefill_->leader()) && connected(decode_->leader()); }));
  }
  absl::Status expect(TransferId id, size_t held = 0) {
    return decode_->leader().agent->expect(
        {.transfer = id,
         .request = RequestId(9),
         .source = kPrefill,
         .first_block = static_cast<int32_t>(held),
         .prompt_tokens = kPrompt,
         .blocks = {kTarget.begin() + static_cast<ptrdiff_t>(held), kTarget.end()},
         .generations = std::vector<uint32_t>(kTarget.size() - held, 5)});
  }
  absl::Status send(TransferId id) {
    return prefill_->leader().agent->send({.transfer = id,
                                           .request = RequestId(9),
                                           .destination = kDecode,
                                           .prompt_tokens = kPrompt,
                                           .blocks = kSource});
  }
  void finish(TransferId id) { prefill_->leader().agent->finish(id, {.token = 42}, FinishReason::kNone); }
  bool over(TransferId id) const {
    const ExchangeSide& d = decode_->leader();
    return (d.landed(id) || d.drained(id)) && prefill_->leader().drained(id);
  }
  void move_one(TransferId id) {
    prefill_->fill(kSource, id.value());
    ASSERT_TRUE(expect(id).ok());
    ASSERT_TRUE(send(id).ok());
    prefill_->all_layers_ready(id, kPrompt);
    finish(id);
    ASSERT_TRUE(until([&] { return over(id); }));
    ASSERT_TRUE(decode_->leader().landed(id)) << decode_->leader().error(id);
    EXPECT_EQ(prefill_->leader().error(id), "");
    EXPECT_EQ(decode_->wrong(kTarget, id.value()), 0);
  }
  void expect_idle() {
    for (const auto* group : {prefill_.get(), decode_.get()})
      for (const auto& rank : group->ranks) {
        if (!rank) continue;
        EXPECT_EQ(rank->agent->open_transfers(), 0);
        EXPECT_TRUE(rank->lost.empty());
        EXPECT_TRUE(rank == group->ranks[0] || (rank->landings.empty() && rank->drains.empty()));
      }
  }

  transport::LoopbackHub hub_;
  Instant now_{std::chrono::seconds(5000)};
  std::unique_ptr<Group> prefill_, decode_;
};
INSTANTIATE_TEST_SUITE_P(Fabrics, GroupExchangeTest,
                         testing::Values(Fabric::kLoopbackStream, Fabric::kLoopbackLocal, Fabric::kSocket,
                                         Fabric::kSocketLocal),
                         [](const auto& info) { return transport::fabric_name(info.param); });

// Eight ranks on four heads: neighbours hold the same one. Stages of 2 + 1 and of 1 + 2 layers.
const std::vector<ParallelShape> kShapes = {{1, 1}, {4, 1}, {1, 2}, {1, 2, {1, 2}}, {2, 2, {1, 2}}, {8, 1}};

TEST_P(GroupExchangeTest, EveryShapeIntoEveryOther) {
  uint64_t id = 0;
  for (const ParallelShape& from : kShapes)
    for (const ParallelShape& to : kShapes) {
      SCOPED_TRACE(cat(from.tensor, "x", from.pipeline, " to ", to.tensor, "x", to.pipeline));
      make(from, to);
      ASSERT_NO_FATAL_FAILURE(pair());
      for (int i = 0; i < 2; ++i) ASSERT_NO_FATAL_FAILURE(move_one(TransferId(++id)));
      const KvLanded& landed = decode_->leader().landings.at(TransferId(id));
      EXPECT_EQ(landed.first_token.token, 42);
      EXPECT_EQ(landed.report.request, RequestId(9));
      EXPECT_EQ(landed.report.lane, transport::lane_of(GetParam()));
      // Each byte once, whoever holds it twice.
      uint64_t wanted = 0;
      for (const auto& rank : decode_->ranks)
        wanted +=
            kTarget.size() * rank->geometry.piece_bytes() * static_cast<uint64_t>(rank->geometry.layers);
      EXPECT_EQ(landed.report.bytes, wanted);
      EXPECT_EQ(decode_->bytes_received(), 2 * wanted);
      expect_idle();
    }
}

TEST_P(GroupExchangeTest, EveryRankCopiesItsPartOfABlockToHostMemoryAndBack) {
  uint64_t id = 0;
  for (const ParallelShape& shape : kShapes) {
    Group group(GetParam(), hub_, kPrefill, model(), shape);
    ExchangeSide& leader = group.leader();
    const auto copy = [&](bool out, std::vector<HostCopy::Block> blocks) {
      const size_t before = leader.copied.size();
      leader.agent->copy({.id = HostCopyId(++id), .out = out, .blocks = std::move(blocks)});
      EXPECT_TRUE(transport::drive([&] { group.step(now_); }, [&] { return leader.copied.size() > before; }));
      EXPECT_EQ(leader.copied.back().id, HostCopyId(id));
      return leader.copied.back().error;
    };
    group.fill(kSource, 3);
    EXPECT_EQ(copy(true, {{kSource[0], HostSlot(2)}, {kSource[1], HostSlot(0)}}), "");
    EXPECT_EQ(copy(true, {{kSource[2], HostSlot(3)}}), "");
    group.fill(kSource, 4);
    EXPECT_EQ(copy(false, {{kTarget[2], HostSlot(3)}, {kTarget[0], HostSlot(2)}, {kTarget[1], HostSlot(0)}}),
              "");
    EXPECT_EQ(group.wrong(kTarget, 3), 0);
    EXPECT_THAT(copy(true, {{kSource[0], HostSlot(4)}}), HasSubstr("slot h4 of 4"));
    EXPECT_THAT(copy(false, {{BlockId(12), HostSlot(0)}}), HasSubstr("block b12 of 12"));
    group.ranks.back()->host.error = "no memory";
    EXPECT_EQ(copy(true, {{kSource[0], HostSlot(2)}}), cat("rank ", shape.ranks() - 1, ": no memory"));
  }
}

TEST_P(GroupExchangeTest, WhatTheReceiverHoldsIsNotSent) {
  make({2, 1}, {1, 2});
  ASSERT_NO_FATAL_FAILURE(pair());
  for (const size_t held : {1, 2, 3}) {
    const TransferId id(held);
    prefill_->fill(kSource, held);
    decode_->fill(kTarget, 100 + held);  // all of it; what is sent is overwritten
    ASSERT_TRUE(expect(id, held).ok());
    ASSERT_TRUE(send(id).ok());
    finish(id);
    ASSERT_TRUE(until([&] { return over(id); }));
    ASSERT_TRUE(decode_->leader().landed(id));
    EXPECT_EQ(decode_->leader().landings.at(id).report.bytes,
              (3 - held) * uint64_t{3} * 4 * head_bytes(decode_->leader().geometry));
    EXPECT_EQ(decode_->wrong(std::span(kTarget).first(held), 100 + held), 0);
  }
  expect_idle();
}

// Stage by stage: what is computed goes before the prompt is done, and not one byte more.
TEST_P(GroupExchangeTest, LayersGoAsTheyAreComputed) {
  make({2, 2}, {4, 1});
  ASSERT_NO_FATAL_FAILURE(pair());
  const TransferId id(1);
  prefill_->fill(kSource, 1);
  ASSERT_TRUE(expect(id).ok());
  ASSERT_TRUE(send(id).ok());
  settle();
  EXPECT_EQ(decode_->bytes_received(), 0u);
  const uint64_t layer = uint64_t{2} * 4 * head_bytes(decode_->leader().geometry);  // two whole blocks
  for (auto& rank : {prefill_->ranks[0].get(), prefill_->ranks[1].get()})  // stage 0 has layers 0 and 1
    rank->agent->layer_ready(id, 0, kPrompt, kPrompt);
  ASSERT_TRUE(until([&] { return decode_->bytes_received() == layer; }));
  // Layer 0 of the pool of stage 1 is layer 2 of the model; a word about a layer stands for those before it.
  for (auto& rank : prefill_->ranks)
    rank->agent->layer_ready(id, rank->geometry.layers - 1, kPrompt, kPrompt);
  ASSERT_TRUE(until([&] { return decode_->bytes_received() == 3 * layer; }));
  settle();
  EXPECT_FALSE(decode_->leader().landed(id));
  finish(id);
  ASSERT_TRUE(until([&] { return over(id); }));
  EXPECT_EQ(decode_->wrong(kTarget, 1), 0);
  expect_idle();
}

// Whoever gives up, in whatever phase: everybody drains, and the next transfer is as good as ever.
TEST_P(GroupExchangeTest, EitherSideGivesUpInEachPhase) {
  make({4, 1}, {2, 2});
  ASSERT_NO_FATAL_FAILURE(pair());
  uint64_t next = 0;
  for (const bool receiver : {true, false})
    for (const int phase : {0, 1, 2, 3}) {  // granted; granted and submitted; layers on their way; finished
      const TransferId id(++next);
      const bool both = phase > 0;
      ASSERT_TRUE(!(receiver || both) || expect(id).ok());
      ASSERT_TRUE((receiver && !both) || send(id).ok());
      if (phase >= 2) prefill_->all_layers_ready(id, kPrompt);
      for (int i = 0; i < phase * 2; ++i) step();
      if (phase >= 3) finish(id);
      if (receiver) decode_->leader().agent->abandon(id);
      if (!receiver) prefill_->leader().agent->cancel(id);
      ASSERT_TRUE(until([&] {
        const bool received = decode_->leader().drained(id) || decode_->leader().landed(id);
        const bool sent = prefill_->leader().drained(id);
        return (received || !(receiver || both)) && (sent || (receiver && !both));
      })) << receiver
          << phase;
      settle();
      const TransferId good(++next);
      ASSERT_NO_FATAL_FAILURE(move_one(good));
      expect_idle();
    }
}

TEST_P(GroupExchangeTest, ADeadRankOfThePeerEndsWhatItHadPartIn) {
  make({2, 1}, {1, 2});
  ASSERT_NO_FATAL_FAILURE(pair());
  ASSERT_NO_FATAL_FAILURE(move_one(TransferId(1)));
  // Rank 1 of the prefill worker dies while its half is on its way.
  ASSERT_TRUE(expect(TransferId(2)).ok());
  ASSERT_TRUE(send(TransferId(2)).ok());
  prefill_->ranks[0]->agent->layer_ready(TransferId(2), 0, kPrompt, kPrompt);
  settle();
  prefill_->ranks[1]->agent.reset();
  prefill_->ranks[1].reset();
  ASSERT_TRUE(
      until([&] { return decode_->leader().drained(TransferId(2)) && !connected(decode_->leader()); }));
  EXPECT_THAT(decode_->leader().failures.at(TransferId(2)).reason, HasSubstr("source lost"));
  EXPECT_THAT(decode_->leader().reports.back().error, HasSubstr("to rank 1 of p-0: "));
  // Its own worker knows that this life is over.
  ASSERT_TRUE(until([&] { return !prefill_->leader().lost.empty(); }));
  EXPECT_THAT(prefill_->leader().lost[0], HasSubstr("rank 1"));
  // The survivor is refused nothing but this peer, and serves its next life.
  EXPECT_TRUE(absl::IsFailedPrecondition(expect(TransferId(3))));
  for (auto& rank : decode_->ranks) EXPECT_TRUE(rank->lost.empty());
  ASSERT_TRUE(decode_->leader().agent->fence(kPrefill));
  settle();
  prefill_ = std::make_unique<Group>(GetParam(), hub_, WorkerRef{"p-0", Incarnation(8)}, model(),
                                     ParallelShape{4, 1});
  decode_->leader().reports.clear();
  ASSERT_TRUE(decode_->leader().agent->connect(prefill_->description()));
  ASSERT_TRUE(prefill_->leader().agent->connect(decode_->description()));
  ASSERT_TRUE(until([&] { return connected(prefill_->leader()) && connected(decode_->leader()); }));
  EXPECT_EQ(decode_->leader().agent->open_transfers(), 0);
}

TEST_P(GroupExchangeTest, ADeadRankOfMineIsTheEndOfThisLife) {
  make({1, 1}, {2, 1});
  ASSERT_NO_FATAL_FAILURE(pair());
  ASSERT_TRUE(expect(TransferId(1)).ok());
  settle();
  decode_->ranks[1]->agent.reset();
  decode_->ranks[1].reset();
  ASSERT_TRUE(until([&] { return !decode_->leader().lost.empty(); }));
  EXPECT_FALSE(decode_->leader().drained(TransferId(1)));  // nobody can say what that rank's blocks are
  ASSERT_TRUE(until([&] { return !connected(prefill_->leader()); }));
}

// A rank that stops answering holds its blocks for as long as this life lasts, which is not long.
TEST_P(GroupExchangeTest, ARankThatDoesNotDrainIsReportedAndNothingIsFreed) {
  make({1, 1}, {2, 1});
  ASSERT_NO_FATAL_FAILURE(pair());
  ASSERT_TRUE(expect(TransferId(1)).ok());
  settle();
  decode_->leader().agent->abandon(TransferId(1));
  for (int i = 0; i < 50; ++i) decode_->leader().agent->do_work(now_);  // rank 1 does nothing
  EXPECT_FALSE(decode_->leader().drained(TransferId(1)));
  now_ += timers::kTransferCap;
  decode_->leader().agent->do_work(now_);
  ASSERT_EQ(decode_->leader().lost.size(), 1u);
  EXPECT_THAT(decode_->leader().lost[0], HasSubstr("rank 1 does not end its part of transfer t1"));
  EXPECT_FALSE(decode_->leader().drained(TransferId(1)));
}

TEST_P(GroupExchangeTest, ALayoutThatCannotBeCutByHeadsPairsWithItsLikeOnly) {
  prefill_ = std::make_unique<Group>(GetParam(), hub_, kPrefill, model(), ParallelShape{2, 1}, "kv-rows");
  decode_ = std::make_unique<Group>(GetParam(), hub_, kDecode, model(), ParallelShape{1, 1}, "kv-rows");
  ASSERT_TRUE(decode_->leader().agent->connect(prefill_->description()));
  ASSERT_TRUE(until([&] { return !decode_->leader().reports.empty(); }));
  EXPECT_EQ(decode_->leader().reports[0].error,
            "tensor 1 here, tensor 2 there: KV layout kv-rows cannot be cut by heads");
  decode_ = std::make_unique<Group>(GetParam(), hub_, kDecode, model(), ParallelShape{2, 2}, "kv-rows");
  ASSERT_NO_FATAL_FAILURE(pair());
  ASSERT_NO_FATAL_FAILURE(move_one(TransferId(1)));
}

// Block ids come from rank 0 only: not from another worker that knows no key.
TEST_P(GroupExchangeTest, OrdersOfStrangersAreRefused) {
  make({1, 1}, {2, 1});
  ASSERT_NO_FATAL_FAILURE(pair());
  ExchangeSide& follower = *decode_->ranks[1];
  const KvOrder order = KvExpectOrder{
      .grant = {.transfer = TransferId(1), .prompt_tokens = 8, .blocks = {BlockId(0)}, .generations = {1}},
      .links = {{kPrefill, {0, 3, 2, 4}}}};
  const auto say = [&](ExchangeSide& from, const KvGroupKey& key) {
    const uint64_t before = follower.agent->counters().malformed_messages;
    ASSERT_TRUE(from.plane->send(follower.ref, transport::as_bytes(encode(key, order))).ok());
    ASSERT_TRUE(until([&] { return follower.agent->counters().malformed_messages > before; }));
  };
  say(prefill_->leader(), {1, 2});  // the key, but not rank 0
  say(decode_->leader(), {1, 3});   // rank 0's name, but not the key
  EXPECT_EQ(follower.agent->counters().malformed_messages, 2u);
  EXPECT_EQ(follower.agent->counters().failed, 0u);
}

}  // namespace
}  // namespace baton::worker
