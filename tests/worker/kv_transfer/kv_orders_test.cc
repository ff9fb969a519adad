#include "worker/kv_transfer/kv_orders.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/rng.h"
#include "transport/data/byte_codec.h"
#include "worker/kv_transfer/kv_wire.h"

namespace baton::worker {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using transport::as_bytes;

constexpr KvGroupKey kKey = {11, 12};
const WorkerRef kPeer{"decode-0.1", Incarnation(7)};

std::vector<KvOrder> orders() {
  const KvLink link{kPeer, {1, 4, 2, 3}};
  const KvGrant grant{.transfer = TransferId(1),
                      .request = RequestId(2),
                      .first_block = 1,
                      .prompt_tokens = 33,
                      .blocks = {BlockId(9), BlockId(4)},
                      .generations = {3, 5}};
  const KvSend send{.transfer = TransferId(1),
                    .request = RequestId(2),
                    .destination = {"decode-0", Incarnation(7)},
                    .prompt_tokens = 20,
                    .blocks = {BlockId(8), BlockId(1)}};
  return {
      KvExpectOrder{grant, {link, link}},
      KvSendOrder{send, {link}},
      KvAbandonOrder{TransferId(4)},
      KvFinishOrder{TransferId(5), {.token = 3, .logprob = -1, .top = {{4, -2, 1}}}, FinishReason::kLength},
      KvCancelOrder{TransferId(6)},
      KvConnectOrder{{kPeer}, {"socket:127.0.0.1:1"}},
      KvFenceOrder{kPeer, 4},
      KvCopyOrder{{.id = HostCopyId(7),
                   .out = true,
                   .blocks = {{BlockId(3), HostSlot(8)}, {BlockId(4), HostSlot(1)}}}}};
}

std::vector<KvNote> notes() {
  const TransferReport report{.transfer = TransferId(1),
                              .request = RequestId(2),
                              .ok = true,
                              .error = "e",
                              .bytes = 99,
                              .duration = std::chrono::milliseconds(3),
                              .exposed = std::chrono::milliseconds(1),
                              .lane = "local"};
  return {KvStreamNote{kPeer, KvLanded{TransferId(1), {.token = 3}, FinishReason::kNone, report}},
          KvStreamNote{kPeer, KvFailed{TransferId(1), "why", report}},
          KvStreamNote{kPeer, KvDrained{TransferId(1), true, "why"}},
          PeerReport{.peer = kPeer, .connected = true, .lane = "local", .bytes_per_second = 1e9},
          PeerReport{.peer = kPeer, .error = "that life is over", .over = true},
          KvPaceNote{.worker = kPeer, .bytes_per_second = 2e9},
          HostCopied{.id = HostCopyId(7), .error = "why"}};
}

TEST(KvOrders, EveryMessageComesBackAsItWas) {
  for (const KvOrder& order : orders()) {
    const std::string text = encode(kKey, order);
    EXPECT_TRUE(is_group_message(as_bytes(text)));
    EXPECT_FALSE(decode_message(as_bytes(text)).ok());  // not what workers say to each other
    const auto back = decode_order(kKey, as_bytes(text));
    ASSERT_TRUE(back.ok()) << order.index();
    EXPECT_EQ(back->index(), order.index());
    EXPECT_EQ(encode(kKey, *back), text);
  }
  for (const KvNote& note : notes()) {
    const std::string text = encode(kKey, note);
    EXPECT_TRUE(is_group_message(as_bytes(text)));
    const auto back = decode_note(kKey, as_bytes(text));
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(encode(kKey, *back), text);
  }
  const auto expect = std::get<KvExpectOrder>(*decode_order(kKey, as_bytes(encode(kKey, orders()[0]))));
  EXPECT_EQ(expect.grant.first_block, 1);
  EXPECT_THAT(expect.grant.blocks, ElementsAre(BlockId(9), BlockId(4)));
  EXPECT_EQ(expect.links[1], (KvLink{kPeer, {1, 4, 2, 3}}));
  const auto send = std::get<KvSendOrder>(*decode_order(kKey, as_bytes(encode(kKey, orders()[1]))));
  EXPECT_EQ(send.send.destination, (WorkerRef{"decode-0", Incarnation(7)}))
      << "its pace is told by that name";
  const auto copy = std::get<KvCopyOrder>(*decode_order(kKey, as_bytes(encode(kKey, orders().back())))).copy;
  EXPECT_TRUE(copy.out);
  EXPECT_EQ(copy.id, HostCopyId(7));
  ASSERT_EQ(copy.blocks.size(), 2u);
  EXPECT_EQ(copy.blocks[1].block, BlockId(4));
  EXPECT_EQ(copy.blocks[1].slot, HostSlot(1));
}

TEST(KvOrders, AnotherGroupsOrBrokenMessagesAreRefused) {
  for (const KvOrder& order : orders()) {
    const std::string text = encode(kKey, order);
    EXPECT_FALSE(decode_order({11, 13}, as_bytes(text)).ok());
    EXPECT_FALSE(decode_note(kKey, as_bytes(text)).ok());
    for (size_t cut = 0; cut < text.size(); ++cut)
      EXPECT_FALSE(decode_order(kKey, as_bytes(text.substr(0, cut))).ok()) << cut;
    EXPECT_FALSE(decode_order(kKey, as_bytes(text + "x")).ok());
  }
  EXPECT_FALSE(decode_order(kKey, as_bytes(encode(kKey, KvConnectOrder{{kPeer}, {}}))).ok());
  EXPECT_FALSE(decode_order(kKey, as_bytes(encode(kKey, KvFenceOrder{kPeer, 1 << 20}))).ok());
  Rng rng(5);
  for (int i = 0; i < 20'000; ++i) {  // what is accepted is sane; nothing reads beyond the end
    std::string text = encode(kKey, orders()[rng.below(orders().size())]);
    text[17 + rng.below(text.size() - 17)] = static_cast<char>(rng.next());
    decode_order(kKey, as_bytes(text)).status().IgnoreError();
    decode_note(kKey, as_bytes(text)).status().IgnoreError();
  }
}

TEST(KvAddress, OfOneRankAndOfMore) {
  EXPECT_EQ(to_text({.ranks = {"socket:127.0.0.1:1"}}), "socket:127.0.0.1:1");
  EXPECT_THAT(parse_kv_address("socket:127.0.0.1:1")->ranks, ElementsAre("socket:127.0.0.1:1"));
  const std::map<std::string, ParallelShape> shapes = {{"ranks 1x2 a:1 b:2", {1, 2}},
                                                       {"ranks 2x1 a:1 b:2", {2, 1}},
                                                       {"ranks 1x2/16+14 a:1 b:2", {1, 2, {16, 14}}}};
  for (const auto& [text, shape] : shapes) {
    EXPECT_EQ(to_text({.shape = shape, .ranks = {"a:1", "b:2"}}), text);
    const auto back = parse_kv_address(text);
    ASSERT_TRUE(back.ok()) << text;
    EXPECT_EQ(back->shape, shape);
    EXPECT_THAT(back->ranks, ElementsAre("a:1", "b:2"));
  }
  for (const char* bad :
       {"ranks ", "ranks 2", "ranks 2x", "ranks 2x1 a", "ranks 0x1", "ranks -1x-1 a", "ranks 2x1y a b",
        "ranks 99999x99999 a", "ranks 1x2/ a b", "ranks 1x2/30 a b", "ranks 1x2/1+2+3 a b",
        "ranks 1x2/0+30 a b", "ranks 1x2/-1+31 a b", "ranks 1x2/1+9999999999 a b", "ranks 1x2/1+70000 a b",
        "ranks 1x2/16+14/ a b", "ranks 1x2/16+14x a b", "ranks 1x2x1 a b"})
    EXPECT_THAT(std::string(parse_kv_address(bad).status().message()), HasSubstr("want a shape")) << bad;
}

TEST(RankRef, RankZeroIsTheWorker) {
  const WorkerRef worker{"decode-0", Incarnation(7)};
  EXPECT_EQ(rank_ref(worker, 0), worker);
  EXPECT_EQ(rank_ref(worker, 1), kPeer);
}

}  // namespace
}  // namespace baton::worker
