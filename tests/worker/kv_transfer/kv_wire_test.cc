#include "worker/kv_transfer/kv_wire.h"

#include <gtest/gtest.h>

#include <climits>
#include <random>

#include "base/rng.h"
#include "tests/support/seed.h"
#include "transport/data/byte_codec.h"
#include "worker/kv_transfer/kv_layout.h"

namespace baton::worker {
namespace {

using transport::as_bytes;

std::vector<KvMessage> one_of_each() {
  return {
      KvGrantMessage{.transfer = TransferId(5),
                     .first_block = 2,
                     .prompt_tokens = 40,
                     .generations = {7, 8, 9},
                     .part = {1, 4, 2, 3}},
      KvFinishMessage{.transfer = TransferId(6),
                      .first_token = {.token = 17, .logprob = -0.5f, .top = {{17, -0.5f, 0}, {4, -2.f, 1}}},
                      .finish = FinishReason::kLength},
      KvEndMessage{.transfer = TransferId(7), .from = KvSide::kSink, .ok = true, .reason = "because"},
      KvRenewMessage{.from = KvSide::kSource, .transfers = {TransferId(1), TransferId(2)}}};
}

TEST(KvWire, RoundTrip) {
  for (const KvMessage& message : one_of_each()) {
    const std::string bytes = encode(message);
    const auto back = decode_message(as_bytes(bytes));
    ASSERT_TRUE(back.ok()) << message.index();
    EXPECT_EQ(back->index(), message.index());
    EXPECT_EQ(encode(*back), bytes);
  }
  const auto finish = decode_message(as_bytes(encode(one_of_each()[1])));
  EXPECT_EQ(std::get<KvFinishMessage>(*finish).first_token,
            std::get<KvFinishMessage>(one_of_each()[1]).first_token);
  const KvPieceHeader header{.transfer = TransferId(9), .layer = 3, .first_block = 4, .generations = {1, 2}};
  const auto back = decode_piece_header(as_bytes(encode(header)));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->generations, header.generations);
  EXPECT_EQ(back->layer, 3);
}

TEST(KvWire, TruncatedExtendedAndInsaneAreRefused) {
  for (const KvMessage& message : one_of_each()) {
    const std::string bytes = encode(message);
    for (size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(decode_message(as_bytes(bytes.substr(0, n))).ok());
    EXPECT_FALSE(decode_message(as_bytes(bytes + "x")).ok());
  }
  EXPECT_FALSE(decode_message(as_bytes(encode(KvEndMessage{.from = static_cast<KvSide>(2)}))).ok());
  EXPECT_FALSE(
      decode_message(as_bytes(encode(KvFinishMessage{.finish = static_cast<FinishReason>(99)}))).ok());
  EXPECT_FALSE(decode_message(as_bytes(std::string("\x09"))).ok());
  for (const KvPart part : {KvPart{}, KvPart{0, 2, 3, 3}, KvPart{-1, 2, 0, 2}, KvPart{0, 2, 0, 1 << 30},
                            KvPart{0, INT_MIN, 0, 2}, KvPart{INT_MAX, INT_MIN, INT_MAX, INT_MIN}})
    EXPECT_FALSE(decode_message(as_bytes(encode(KvGrantMessage{.prompt_tokens = 1, .part = part}))).ok());
  KvPieceHeader header;
  header.generations.resize(kMaxPieceBlocks + 1);
  EXPECT_FALSE(decode_piece_header(as_bytes(encode(header))).ok());
}

TEST(KvWire, RandomDamageNeverCrashes) {
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
  Rng rng(seed);
  const auto messages = one_of_each();
  int decoded = 0;
  for (int i = 0; i < 100'000; ++i) {
    std::string bytes = encode(messages[rng.below(messages.size())]);
    for (uint64_t n = rng.below(4); n > 0; --n)
      bytes[rng.below(bytes.size())] = static_cast<char>(rng.next());
    if (rng.below(4) == 0) bytes.resize(rng.below(bytes.size() + 8));
    const auto message = decode_message(as_bytes(bytes));
    if (message.ok()) {
      ++decoded;
      ASSERT_EQ(encode(*message).size(), bytes.size());
    }
    (void)decode_piece_header(as_bytes(bytes));
  }
  EXPECT_GT(decoded, 1000);
}

TEST(KvLayout, HashSeesEverythingButTheNumberOfBlocks) {
  const kernels::KvGeometry base{
      .layers = 30, .kv_heads = 3, .head_dim = 64, .block_tokens = 16, .blocks = 10};
  const std::string hash = kv_layout_hash(base, "plain");
  EXPECT_EQ(hash.substr(0, hash.find(" [")), "30 layers, 3 heads x 64, 16 tokens, bf16, layout plain");
  auto other = base;
  other.blocks = 11;
  EXPECT_EQ(kv_layout_hash(other, "plain"), hash);
  EXPECT_NE(kv_layout_hash(base, "tiled"), hash);
  for (int field = 0; field < 5; ++field) {
    other = base;
    if (field == 0) other.layers = 31;
    if (field == 1) other.kv_heads = 4;
    if (field == 2) other.head_dim = 128;
    if (field == 3) other.block_tokens = 32;
    if (field == 4) other.type = kernels::KvType::kF16;
    EXPECT_NE(kv_layout_hash(other, "plain"), hash) << field;
  }
}

// The example of the header.
TEST(KvLayout, AdjacentBlocksAreOneRun) {
  const kernels::KvGeometry g{.layers = 30, .kv_heads = 3, .head_dim = 64, .block_tokens = 16, .blocks = 100};
  const BlockId blocks[] = {BlockId(4), BlockId(5), BlockId(9)};
  const std::vector<transport::PoolRun> want = {{49152, 24576}, {110592, 12288}};
  EXPECT_EQ(pool_runs(g, 0, blocks), want);
  EXPECT_EQ(pool_runs(g, 2, blocks)[0].offset, 2 * g.layer_bytes() + 49152);
  EXPECT_TRUE(pool_runs(g, 0, {}).empty());
}

TEST(KvLayout, WhatCannotBeTransferredIsRefused) {
  kernels::KvGeometry g{
      .layers = 1, .kv_heads = 1, .head_dim = 8, .block_tokens = 1, .blocks = 4};  // 32 B pieces
  EXPECT_FALSE(check_transferable(g, 1 << 20).ok());
  g.block_tokens = 16;
  EXPECT_TRUE(check_transferable(g, 1 << 20).ok());
  EXPECT_FALSE(check_transferable(g, g.pool_bytes() - 1).ok());
  g.layers = 0;
  EXPECT_FALSE(check_transferable(g, 1 << 20).ok());
}

}  // namespace
}  // namespace baton::worker
