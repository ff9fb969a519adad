// What a peer forges or breaks touches nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/support/seed.h"
#include "tests/worker/kv_transfer/kv_exchange_test.h"
#include "transport/data/byte_codec.h"

namespace baton::worker {
namespace {

using transport::as_bytes;

// A verified peer that lies: a bare data plane under the name of the prefill worker.
class LyingPeerTest : public testing::TestWithParam<transport::Fabric> {
 protected:
  void SetUp() override {
    decode = std::make_unique<ExchangeSide>(GetParam(), hub, "decode");
    auto options = transport::plane_options("liar", 1, transport::lanes_of(GetParam()));
    options.identity.kv_layout_hash = kv_layout_hash(small_geometry(), "test");
    liar = std::make_unique<transport::RecordingPlane>(GetParam(), hub, options);
    ASSERT_TRUE(decode->agent->connect({.ref = liar->ref, .data_address = liar->plane->address()}));
    ASSERT_TRUE(until([&] {
      return liar->plane->connected(decode->ref) && !decode->reports.empty() &&
             decode->reports.back().connected;
    }));
    KvGrant g{.transfer = TransferId(1),
              .request = RequestId(1),
              .source = liar->ref,
              .first_block = 1,
              .prompt_tokens = 30,
              .blocks = {BlockId(5), BlockId(6), BlockId(9)},
              .generations = {11, 12, 13}};
    ASSERT_TRUE(decode->agent->expect(g).ok());
    ASSERT_TRUE(until([&] { return !liar->messages.empty(); }));
    for (uint32_t b = 0; b < 96; ++b) decode->fill(BlockId(b), 4242);
  }
  bool until(const std::function<bool()>& done) {
    return transport::drive(
        [&] {
          decode->agent->do_work(now);
          liar->plane->do_work(now);
        },
        done);
  }
  // The receiver's verdict on an offer of `pieces` pieces with this header.
  absl::Status offer(const std::string& header, uint64_t pieces) {
    const transport::PoolRun run{.offset = 0, .bytes = pieces * 1024};
    const size_t before = liar->answers.size();
    EXPECT_TRUE(
        liar->plane->offer(decode->ref, {.cookie = ++cookie, .header = as_bytes(header), .runs = {&run, 1}})
            .ok());
    EXPECT_TRUE(until([&] { return liar->answers.size() > before; }));
    return liar->answers.back().second;
  }
  absl::Status offer(const KvPieceHeader& header, uint64_t pieces) { return offer(encode(header), pieces); }
  bool untouched() {
    for (uint32_t b = 0; b < 96; ++b)
      if (!decode->holds(BlockId(b), 4242)) return false;
    return true;
  }

  transport::LoopbackHub hub;
  Instant now{std::chrono::seconds(5000)};
  std::unique_ptr<ExchangeSide> decode;
  std::unique_ptr<transport::RecordingPlane> liar;
  uint64_t cookie = 0;
};

INSTANTIATE_TEST_SUITE_P(Fabrics, LyingPeerTest, testing::ValuesIn(kEveryFabric), name_of_fabric);

TEST_P(LyingPeerTest, ForgedPiecesTouchNothing) {
  const TransferId id(1);
  EXPECT_EQ(offer({.transfer = TransferId(2), .first_block = 1, .generations = {11}}, 1).code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(offer({.transfer = id, .layer = 3, .first_block = 1, .generations = {11}}, 1).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(offer({.transfer = id, .layer = -1, .first_block = 1, .generations = {11}}, 1).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(offer({.transfer = id, .first_block = 0, .generations = {10, 11}}, 2).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(offer({.transfer = id, .first_block = 3, .generations = {13, 14}}, 2).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(offer({.transfer = id, .first_block = 2147483647, .generations = {1}}, 1).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(offer({.transfer = id, .first_block = 1, .generations = {}}, 1).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(offer({.transfer = id, .first_block = 1, .generations = {11, 99}}, 2).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(offer({.transfer = id, .first_block = 1, .generations = {11}}, 2).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(offer(std::string("short"), 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      offer(encode(KvPieceHeader{.transfer = id, .first_block = 1, .generations = {11}}) + "x", 1).code(),
      absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(untouched());
  EXPECT_EQ(decode->agent->counters().unknown_transfers, 1u);
  EXPECT_EQ(decode->agent->counters().refused_pieces, 8u);
  EXPECT_EQ(decode->agent->counters().malformed_messages, 2u);
  EXPECT_EQ(decode->agent->open_transfers(), 1);
  // The true one lands; the same again does not.
  EXPECT_TRUE(offer({.transfer = id, .first_block = 1, .generations = {11}}, 1).ok());
  EXPECT_EQ(offer({.transfer = id, .first_block = 1, .generations = {11}}, 1).code(),
            absl::StatusCode::kAlreadyExists);
}

// Also while it is under way: on `get` the first would be done before the second has stopped writing.
TEST_P(LyingPeerTest, APieceIsTakenOnce) {
  const std::string header =
      encode(KvPieceHeader{.transfer = TransferId(1), .first_block = 1, .generations = {11}});
  const transport::PoolRun run{.offset = 0, .bytes = 1024};
  for (uint64_t i = 1; i <= 3; ++i)
    ASSERT_TRUE(
        liar->plane->offer(decode->ref, {.cookie = i, .header = as_bytes(header), .runs = {&run, 1}}).ok());
  ASSERT_TRUE(until([&] { return liar->answers.size() == 3; }));
  int taken = 0;
  for (const auto& [cookie, verdict] : liar->answers) {
    taken += verdict.ok();
    EXPECT_TRUE(verdict.ok() || absl::IsAlreadyExists(verdict)) << verdict;
  }
  EXPECT_EQ(taken, 1);
  EXPECT_EQ(decode->agent->counters().refused_pieces, 2u);
}

// Not everything landed, whatever the peer says: coverage is the receiver's own count.
TEST_P(LyingPeerTest, FinishAloneLandsNothing) {
  const auto say = [&](const KvMessage& message) {
    ASSERT_TRUE(liar->plane->send(decode->ref, as_bytes(encode(message))).ok());
  };
  ASSERT_TRUE(
      offer({.transfer = TransferId(1), .layer = 1, .first_block = 1, .generations = {11, 12, 13}}, 3).ok());
  say(KvFinishMessage{.transfer = TransferId(1), .first_token = {.token = 4}});
  say(KvFinishMessage{.transfer = TransferId(77)});
  say(KvEndMessage{.transfer = TransferId(77), .from = KvSide::kSource});
  say(KvEndMessage{.transfer = TransferId(77), .from = KvSide::kSink, .ok = true});
  say(KvRenewMessage{.from = KvSide::kSink, .transfers = {TransferId(77)}});
  const size_t before = liar->messages.size();
  ASSERT_TRUE(until([&] { return liar->messages.size() >= before + 2; }));
  EXPECT_FALSE(decode->landed(TransferId(1)));
  ASSERT_TRUE(
      offer({.transfer = TransferId(1), .layer = 0, .first_block = 1, .generations = {11, 12, 13}}, 3).ok());
  ASSERT_TRUE(
      offer({.transfer = TransferId(1), .layer = 2, .first_block = 1, .generations = {11, 12, 13}}, 3).ok());
  EXPECT_TRUE(decode->landed(TransferId(1)));
}

TEST_P(LyingPeerTest, RandomMessagesNeverCrash) {
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
  Rng rng(seed);
  const KvMessage kinds[] = {
      KvGrantMessage{.transfer = TransferId(3), .prompt_tokens = 8, .generations = {1}, .part = {0, 3, 0, 2}},
      KvFinishMessage{.transfer = TransferId(1)}, KvEndMessage{.transfer = TransferId(4)},
      KvRenewMessage{.from = KvSide::kSource, .transfers = {TransferId(1), TransferId(5)}}};
  const uint64_t rounds = 2000;
  for (uint64_t i = 0; i < rounds; ++i) {
    std::string bytes = encode(kinds[rng.below(4)]);
    for (uint64_t n = rng.below(3); n > 0; --n)
      bytes[rng.below(bytes.size())] = static_cast<char>(rng.next());
    if (rng.below(4) == 0) bytes.resize(rng.below(bytes.size() + 4));
    ASSERT_TRUE(liar->plane->send(decode->ref, as_bytes(bytes)).ok());
    if (i % 16 == 0) {
      decode->agent->do_work(now);
      liar->plane->do_work(now);
    }
  }
  ASSERT_TRUE(until([&] { return decode->agent->counters().malformed_messages > 100; }));
  EXPECT_TRUE(decode->plane->connected(liar->ref));
  EXPECT_TRUE(untouched());
}

}  // namespace
}  // namespace baton::worker
