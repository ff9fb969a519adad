#include "transport/data/frames.h"

#include <gtest/gtest.h>

#include <random>

#include "base/rng.h"
#include "tests/support/seed.h"
#include "transport/data/byte_codec.h"

namespace baton::transport {
namespace {

std::vector<Frame> one_of_each() {
  const HelloFrame hello{.identity = {.protocol_version = 7,
                                      .self = {"prefill-0", Incarnation(42)},
                                      .host_id = "host",
                                      .kv_layout_hash = "kv",
                                      .model_hash = "model",
                                      .numerics_id = "cpu"},
                         .expected = {"decode-0", Incarnation(43)},
                         .lanes = 3,
                         .checksum = true,
                         .pool = {.pid = 99, .descriptor = 5, .nonce = {1, 2}, .pool_bytes = 1 << 20},
                         .probe_checksum = 0xdeadbeef};
  const OfferFrame offer{.cookie = 11,
                         .lane = Lane::kLocal,
                         .bytes = 192,
                         .has_checksum = true,
                         .checksum = 5,
                         .header = std::string("ab\0c", 4),
                         .runs = {{.offset = 0, .bytes = 64}, {.offset = 128, .bytes = 128}}};
  return {{0, hello},
          {1, RefuseFrame{.code = RefuseFrame::Code::kStale, .reason = "old"}},
          {2, PingFrame{.number = 1}},
          {3, PongFrame{.number = 2}},
          {4, ProbeRequestFrame{.bytes = 64}},
          {5, ProbeFrame{.index = 3, .checksum = 4}},
          {6, LanesFrame{.mask = 2, .detail = "local: no"}},
          {7, MessageFrame{}},
          {8, offer},
          {9, AnswerFrame{.cookie = 11, .code = 3, .reason = "no"}},
          {10, CheckLaneFrame{}},
          {11, LaneCheckedFrame{.verified = true, .bytes_per_second = 7, .detail = "no"}}};
}

TEST(Frames, RoundTripOfEveryKind) {
  for (const Frame& frame : one_of_each()) {
    const std::string bytes = encode_frame(frame);
    const auto back = decode_frame(as_bytes(bytes));
    ASSERT_TRUE(back.ok()) << frame.body.index() << back.status();
    EXPECT_EQ(back->number, frame.number);
    EXPECT_EQ(back->body.index(), frame.body.index());
    EXPECT_EQ(encode_frame(*back), bytes);
  }
}

TEST(Frames, EveryTruncationAndEveryExtraByteIsRefused) {
  for (const Frame& frame : one_of_each()) {
    const std::string bytes = encode_frame(frame);
    for (size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(decode_frame(as_bytes(bytes.substr(0, n))).ok());
    EXPECT_FALSE(decode_frame(as_bytes(bytes + "x")).ok());
  }
}

TEST(Frames, CountsAndLengthsAreNotBelieved) {
  // An offer that says it has 2^32-1 runs must not make room for them.
  OfferFrame offer{.header = "h"};
  std::string bytes = encode_frame({0, offer});
  for (size_t i = 0; i < 4; ++i) bytes[bytes.size() - 1 - i] = '\xff';
  EXPECT_FALSE(decode_frame(as_bytes(bytes)).ok());
  offer.header = std::string(kMaxPieceHeader + 1, 'h');
  EXPECT_FALSE(decode_frame(as_bytes(encode_frame({0, offer}))).ok());
  offer.header = "h";
  offer.runs.resize(kMaxRuns + 1);
  EXPECT_FALSE(decode_frame(as_bytes(encode_frame({0, offer}))).ok());
  offer.runs.clear();
  offer.lane = static_cast<Lane>(7);
  EXPECT_FALSE(decode_frame(as_bytes(encode_frame({0, offer}))).ok());
}

// Whatever decodes encodes to the same bytes again; nothing crashes or reads outside (ASan).
TEST(Frames, RandomDamage) {
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
  Rng rng(seed);
  const auto frames = one_of_each();
  int decoded = 0;
  for (int i = 0; i < 50'000; ++i) {
    std::string bytes = encode_frame(frames[rng.below(frames.size())]);
    for (uint64_t n = rng.below(4); n > 0; --n)
      bytes[rng.below(bytes.size())] = static_cast<char>(rng.next());
    if (rng.below(4) == 0) bytes.resize(rng.below(bytes.size() + 8));
    const auto frame = decode_frame(as_bytes(bytes));
    if (!frame.ok()) continue;
    ++decoded;
    ASSERT_EQ(encode_frame(*frame).size(), bytes.size());
  }
  EXPECT_GT(decoded, 1000);
}

TEST(Frames, RandomBytes) {
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
  Rng rng(seed);
  for (int i = 0; i < 50'000; ++i) {
    std::string bytes(rng.below(64), '\0');
    for (char& b : bytes) b = static_cast<char>(rng.next());
    EXPECT_FALSE(decode_frame(as_bytes(bytes)).ok() && bytes.substr(0, 4) != "BTN4");
  }
}

TEST(Lanes, Names) {
  EXPECT_EQ(*parse_lanes("auto"), (AllowedLanes{.local = true, .stream = true, .get_if_rdma = true}));
  EXPECT_EQ(*parse_lanes("local"), (AllowedLanes{.local = true, .stream = false}));
  EXPECT_EQ(*parse_lanes("socket"), (AllowedLanes{.local = false, .stream = true}));
  EXPECT_EQ(*parse_lanes("am"), (AllowedLanes{.local = false, .stream = true, .fabric = StreamFabric::kAm}));
  EXPECT_EQ(*parse_lanes("get"), (AllowedLanes{.local = false, .stream = false, .get = true}));
  EXPECT_EQ(*parse_lanes("get-emulated"),
            (AllowedLanes{.local = false, .stream = false, .get = true, .emulate_get = true}));
  EXPECT_EQ(parse_lanes("rdma").status().message(), "lane: want auto, local, socket, am or get, got rdma");
  EXPECT_EQ(lane_names(0, "am"), "none");
  EXPECT_EQ(lane_names(2, "socket"), "socket");
  EXPECT_EQ(lane_names(3, "am"), "local am");
}

}  // namespace
}  // namespace baton::transport
