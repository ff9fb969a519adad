// The state machine without planes: what rank 0 says to ranks and to the engine.
#include "worker/kv_transfer/kv_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/rng.h"
#include "base/timers.h"
#include "tests/worker/kv_transfer/model_with.h"

namespace baton::worker {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

const WorkerRef kPeer{"p-0", Incarnation(5)};

// Tensor 2, whose peer has two stages: 2 x 2 streams.
class KvGroupTest : public testing::Test {
 protected:
  void pair() {
    group.on_joined(1);
    group.connect(description());
    for (const int own : {0, 1})
      for (const int theirs : {0, 1}) report(own, theirs, true, own == 0 ? 4e9 : 1e9);
  }
  static WorkerDescription description() { return {.ref = kPeer, .data_address = "ranks 1x2/2+2 a:1 b:2"}; }
  void report(int own, int theirs, bool connected, double rate = 1e9) {
    group.on_note(own,
                  PeerReport{.peer = rank_ref(kPeer, theirs),
                             .connected = connected,
                             .lane = own == 0 ? "local" : "am",
                             .error = connected ? "" : "broke",
                             .bytes_per_second = rate},
                  now);
  }
  void tell(int own, int theirs, KvEvent event) {
    group.on_note(own, KvStreamNote{.peer = rank_ref(kPeer, theirs), .event = std::move(event)}, now);
  }
  void landed(int own, int theirs, uint64_t bytes) {
    tell(own, theirs,
         KvLanded{.transfer = id,
                  .first_token = {.token = 4},
                  .report = {.transfer = id, .ok = true, .bytes = bytes, .lane = "am"}});
  }
  void drained(int own, int theirs, const std::string& error, bool as_source = false) {
    tell(own, theirs, KvDrained{.transfer = id, .as_source = as_source, .error = error});
  }
  void expect() {
    group.expect(
        {.transfer = id, .source = kPeer, .prompt_tokens = 8, .blocks = {BlockId(1)}, .generations = {1}},
        now);
  }
  void send() {
    group.send({.transfer = id, .destination = kPeer, .prompt_tokens = 8, .blocks = {BlockId(1)}}, now);
  }
  void copy(uint64_t number) {
    group.copy({.id = HostCopyId(number), .out = true, .blocks = {{BlockId(1), HostSlot(2)}}}, now);
  }
  void copied_by(int rank, uint64_t number, const std::string& error = "") {
    group.on_note(rank, HostCopied{.id = HostCopyId(number), .error = error}, now);
  }
  template <class Order>
  int count(int rank) const {
    int n = 0;
    for (const auto& [to, order] : orders) n += to == rank && std::holds_alternative<Order>(order);
    return n;
  }

  const TransferId id{3};
  Instant now{std::chrono::seconds(100)};
  std::vector<std::pair<int, KvOrder>> orders;
  std::vector<KvEvent> events;
  std::vector<PeerReport> reports;
  std::vector<std::string> lost;
  std::vector<HostCopied> copied;
  KvGroup group{{.model = model_with({.layers = 4, .kv_heads = 4, .head_dim = 16}),
                 .shape = {.tensor = 2},
                 .heads_apart = true,
                 .addresses = {"10.0.0.1:7300", "10.0.0.1:7301"},
                 .host_id = "here"},
                {.order = [this](int rank, const KvOrder& order) { orders.emplace_back(rank, order); },
                 .events = [this](KvEvent event) { events.push_back(std::move(event)); },
                 .peers = [this](const PeerReport& report) { reports.push_back(report); },
                 .lost = [this](const std::string& why) { lost.push_back(why); },
                 .copied = [this](const HostCopied& end) { copied.push_back(end); }}};
};

TEST_F(KvGroupTest, APeerIsConnectedWhenEveryPairOfRanksIs) {
  group.connect(description());
  EXPECT_EQ(count<KvConnectOrder>(0), 1);
  EXPECT_EQ(count<KvConnectOrder>(1), 0);  // not there yet
  group.on_joined(1);
  ASSERT_EQ(count<KvConnectOrder>(1), 1);
  const auto& order = std::get<KvConnectOrder>(orders.back().second);
  EXPECT_THAT(order.peers, ElementsAre(kPeer, rank_ref(kPeer, 1)));
  EXPECT_THAT(order.addresses, ElementsAre("a:1", "b:2"));
  report(0, 0, true, 4e9);
  report(0, 1, true, 4e9);
  report(1, 0, true);
  EXPECT_THAT(reports, SizeIs(0));
  report(1, 1, true);
  ASSERT_THAT(reports, SizeIs(1));
  EXPECT_TRUE(reports[0].connected);
  EXPECT_EQ(reports[0].peer, kPeer);
  EXPECT_EQ(reports[0].lane, "am+local");
  // Two quarters at 1 GB/s, one after the other, are the slowest rank's part.
  EXPECT_DOUBLE_EQ(reports[0].bytes_per_second, 2e9);
  report(0, 1, false);
  ASSERT_THAT(reports, SizeIs(2));
  EXPECT_FALSE(reports[1].connected);
  EXPECT_EQ(reports[1].error, "rank 0 to rank 1 of p-0: broke");
  group.connect(description());  // asked again: it tries, and the other pairs are told again
  EXPECT_EQ(count<KvConnectOrder>(0), 2);
}

TEST_F(KvGroupTest, TheRateIsThatOfAHandOverNotOfItsStreamsAdded) {
  group.on_joined(1);
  group.connect(description());
  for (const int own : {0, 1})
    for (const int theirs : {0, 1})
      group.on_note(
          own,
          PeerReport{
              .peer = rank_ref(kPeer, theirs), .connected = true, .lane = "local", .bytes_per_second = 40e9},
          now);
  ASSERT_THAT(reports, SizeIs(1));
  EXPECT_DOUBLE_EQ(reports[0].bytes_per_second, 40e9) << "four copies, one memory";
  const auto pace = [&](int rank, double rate) { group.on_note(rank, KvPaceNote{kPeer, rate}, now); };
  pace(0, 3e9);
  ASSERT_THAT(reports, SizeIs(1)) << "the other half is not measured yet";
  pace(1, 5e9);
  ASSERT_THAT(reports, SizeIs(2));
  EXPECT_DOUBLE_EQ(reports[1].bytes_per_second, 6e9) << "halves side by side, at 3 and at 5 GB/s";
  report(0, 0, true, 90e9);  // what one stream says of itself is no news
  EXPECT_DOUBLE_EQ(reports.back().bytes_per_second, 6e9);
  group.on_note(0, KvPaceNote{{"p-9", Incarnation(5)}, 1e9}, now);  // nobody we know
  EXPECT_DOUBLE_EQ(reports.back().bytes_per_second, 6e9);
}

TEST_F(KvGroupTest, WhoReceivesLeavesTheRateToTheSender) {
  pair();
  EXPECT_GT(reports.back().bytes_per_second, 0);
  expect();
  for (const int own : {0, 1})
    for (const int theirs : {0, 1}) landed(own, theirs, 10);
  EXPECT_TRUE(reports.back().connected);
  EXPECT_EQ(reports.back().bytes_per_second, 0);
  ASSERT_THAT(reports, SizeIs(2));
}

TEST_F(KvGroupTest, AShapeThatTheModelDoesNotTakeIsRefused) {
  group.connect({.ref = kPeer, .data_address = "ranks 3x1 a b c"});
  ASSERT_THAT(reports, SizeIs(1));
  EXPECT_THAT(reports[0].error, HasSubstr("parallel.tensor 3"));
  group.connect({.ref = kPeer, .data_address = "ranks 3x1 a b"});
  EXPECT_THAT(reports[1].error, HasSubstr("want a shape and as many addresses"));
  group.connect({.ref = kPeer, .data_address = "ranks 1x2/3+2 a b"});
  EXPECT_THAT(reports[2].error, HasSubstr("parallel.stageLayers: want 2 numbers"));
  group.connect({.ref = kPeer, .data_address = "ranks 1x2 a b"});
  EXPECT_THAT(reports[3].error, HasSubstr("does not say how many layers each of its 2 stages has"));
}

// Where the peer's stages are cut is what it says, not what this worker would do.
TEST_F(KvGroupTest, ThePeersStagesAreAsItSays) {
  group.on_joined(1);
  group.connect({.ref = kPeer, .data_address = "ranks 1x2/1+3 a b"});
  report(0, 0, true);
  report(0, 1, true);
  report(1, 0, true);
  report(1, 1, true);
  expect();
  const auto parts = [&](int rank) {
    std::vector<KvPart> out;
    for (const auto& [to, order] : orders)
      if (const auto* expected = std::get_if<KvExpectOrder>(&order); expected != nullptr && to == rank)
        for (const KvLink& link : expected->links) out.push_back(link.part);
    return out;
  };
  EXPECT_THAT(parts(0), ElementsAre(KvPart{0, 1, 0, 2}, KvPart{1, 4, 0, 2}));
  EXPECT_THAT(parts(1), ElementsAre(KvPart{0, 1, 2, 4}, KvPart{1, 4, 2, 4}));
}

TEST_F(KvGroupTest, ALinkToLoopbackOfAnotherMachineSaysSo) {
  WorkerDescription peer = description();
  peer.data_address = "ranks 1x1 socket:127.0.0.1:7300";
  for (const char* host : {"here", "there"}) {
    peer.host_id = host;
    peer.ref.incarnation = Incarnation(peer.ref.incarnation.value() + 1);
    group.connect(peer);
    group.on_note(0, PeerReport{.peer = peer.ref, .error = "refused"}, now);
  }
  ASSERT_THAT(reports, SizeIs(2));
  EXPECT_THAT(reports[0].error, testing::Not(HasSubstr("127.0.0.1")));
  EXPECT_THAT(reports[1].error,
              HasSubstr("refused; p-0 listens for KV on socket:127.0.0.1:7300, which only its own "
                        "machine reaches: start it with --data ADDRESS"));
}

TEST_F(KvGroupTest, LandedWhenAllStreamsHave) {
  pair();
  expect();
  ASSERT_EQ(count<KvExpectOrder>(0), 1);
  ASSERT_EQ(count<KvExpectOrder>(1), 1);
  const auto& order = std::get<KvExpectOrder>(orders.back().second);
  EXPECT_THAT(order.links,
              ElementsAre(KvLink{kPeer, {0, 2, 2, 4}}, KvLink{rank_ref(kPeer, 1), {2, 4, 2, 4}}));
  landed(0, 0, 10);
  landed(1, 1, 10);
  landed(1, 0, 10);
  EXPECT_THAT(events, SizeIs(0));
  landed(0, 1, 10);
  ASSERT_THAT(events, SizeIs(1));
  const auto& whole = std::get<KvLanded>(events[0]);
  EXPECT_EQ(whole.report.bytes, 40u);
  EXPECT_EQ(whole.first_token.token, 4);
  EXPECT_EQ(group.next_deadline(), kNever);
}

TEST_F(KvGroupTest, OneThatFailsEndsTheOthersAndDrainedComesLast) {
  pair();
  expect();
  landed(0, 0, 10);
  tell(1, 0, KvFailed{.transfer = id, .reason = "checksum"});
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(std::get<KvFailed>(events[0]).reason, "checksum");
  EXPECT_EQ(count<KvAbandonOrder>(0), 1);
  EXPECT_EQ(count<KvAbandonOrder>(1), 1);
  drained(1, 0, "checksum");
  tell(1, 1, KvFailed{.transfer = id, .reason = "too"});  // crossed the order
  drained(1, 1, "too");
  EXPECT_THAT(events, SizeIs(1));
  landed(0, 1, 10);  // so did this
  ASSERT_THAT(events, SizeIs(2));
  EXPECT_EQ(std::get<KvDrained>(events[1]).error, "checksum");
  landed(0, 1, 10);
  EXPECT_EQ(group.unknown_notes(), 1u);
}

TEST_F(KvGroupTest, TheSourceIsDrainedWhenAllRanksAre) {
  pair();
  send();
  group.finish(id, {.token = 4}, FinishReason::kNone);
  EXPECT_EQ(count<KvFinishOrder>(0) + count<KvFinishOrder>(1), 2);
  drained(0, 0, "", true);
  drained(0, 1, "", true);
  drained(1, 0, "late", true);
  EXPECT_EQ(count<KvCancelOrder>(0), 0);  // has nothing open
  EXPECT_EQ(count<KvCancelOrder>(1), 1);
  EXPECT_THAT(events, SizeIs(0));
  drained(1, 1, "cancelled", true);
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(std::get<KvDrained>(events[0]).error, "late");
  EXPECT_TRUE(std::get<KvDrained>(events[0]).as_source);
}

TEST_F(KvGroupTest, WithoutItsPeerATransferEndsAtOnce) {
  expect();
  ASSERT_THAT(events, SizeIs(2));
  EXPECT_TRUE(std::holds_alternative<KvFailed>(events[0]));
  EXPECT_TRUE(std::holds_alternative<KvDrained>(events[1]));
  events.clear();
  send();
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_TRUE(std::get<KvDrained>(events[0]).as_source);
  EXPECT_THAT(orders, SizeIs(0));
}

TEST_F(KvGroupTest, ARankThatDoesNotEndItsStreamsIsLost) {
  pair();
  expect();
  group.abandon(id, now);
  drained(0, 0, "abandoned");
  drained(0, 1, "abandoned");
  EXPECT_EQ(group.next_deadline(), now + timers::kTransferCap);
  now = group.next_deadline();
  group.on_tick(now);
  EXPECT_THAT(lost, ElementsAre("rank 1 does not end its part of transfer t3"));
  group.on_tick(now);
  EXPECT_THAT(lost, SizeIs(1));
  EXPECT_THAT(events, SizeIs(0));  // its blocks are not drained
}

TEST_F(KvGroupTest, AfterAPauseOfItsOwnARankHasTimeToEndItsStreams) {
  pair();
  expect();
  group.abandon(id, now);
  now = group.next_deadline() + timers::kOwnPause + std::chrono::milliseconds(1);
  group.on_tick(now);
  EXPECT_THAT(lost, SizeIs(0));
  EXPECT_EQ(group.next_deadline(), now + timers::kRankSilent);
  now = group.next_deadline();
  group.on_tick(now);
  EXPECT_THAT(lost, SizeIs(1));
}

TEST_F(KvGroupTest, AFenceGoesToAllRanksAndNamesAllOfThePeers) {
  pair();
  group.fence(kPeer);
  EXPECT_EQ(count<KvFenceOrder>(0) + count<KvFenceOrder>(1), 2);
  EXPECT_EQ(std::get<KvFenceOrder>(orders.back().second).ranks, 2);
}

// Workers come and go under ever new names: what is over is forgotten, and no rank that joins later looks for
// it.
TEST_F(KvGroupTest, AFencedPeerIsForgotten) {
  pair();
  group.fence(kPeer);
  ASSERT_FALSE(reports.empty());
  EXPECT_FALSE(reports.back().connected);
  orders.clear();
  reports.clear();
  group.on_joined(0);
  EXPECT_EQ(count<KvConnectOrder>(0), 0);
  report(0, 0, false);
  EXPECT_THAT(reports, SizeIs(0));
  expect();
  EXPECT_TRUE(std::holds_alternative<KvFailed>(events.at(0)));
  WorkerDescription next = description();
  next.ref.incarnation = Incarnation(kPeer.incarnation.value() + 1);
  group.connect(next);
  EXPECT_EQ(count<KvConnectOrder>(0), 1);
}

// Any order of ends: exactly one event sequence as kv_exchange.h promises, and it comes after the last end.
TEST_F(KvGroupTest, EveryOrderOfEndsIsOneEnd) {
  pair();
  const uint64_t seed = 77;
  SCOPED_TRACE(seed);
  Rng rng(seed);
  for (int round = 0; round < 3000; ++round) {
    const bool source = rng.below(2) == 0;
    events.clear();
    source ? send() : expect();
    std::vector<std::pair<int, int>> open = {{0, 0}, {0, 1}, {1, 0}, {1, 1}};
    int failures = 0;
    while (!open.empty()) {
      for (const KvEvent& e : events) ASSERT_TRUE(std::holds_alternative<KvFailed>(e));
      const size_t i = rng.below(open.size());
      const auto [own, theirs] = open[i];
      open.erase(open.begin() + static_cast<ptrdiff_t>(i));
      const uint64_t how = rng.below(4);
      if (how == 3) source ? group.cancel(id, now) : group.abandon(id, now);
      failures += how >= 2;
      if (source) {
        drained(own, theirs, how >= 2 ? "no" : "", true);
      } else if (how >= 2) {
        tell(own, theirs, KvFailed{.transfer = id, .reason = "no"});
        drained(own, theirs, "no");
      } else {
        landed(own, theirs, 1);
      }
    }
    ASSERT_FALSE(events.empty());
    if (failures == 0 && !source) {
      ASSERT_THAT(events, SizeIs(1));
      ASSERT_TRUE(std::holds_alternative<KvLanded>(events[0]));
    } else {
      ASSERT_LE(events.size(), source ? 1u : 2u);
      ASSERT_EQ(std::get<KvDrained>(events.back()).error.empty(), failures == 0);
    }
    ASSERT_EQ(group.next_deadline(), kNever);
  }
}

// ---- copies to and from host memory

TEST_F(KvGroupTest, ACopyEndsWhenItHasEndedOnAllRanksInTheOrderGiven) {
  group.on_joined(1);
  copy(1);
  copy(2);
  EXPECT_EQ(count<KvCopyOrder>(0), 2);
  EXPECT_EQ(count<KvCopyOrder>(1), 2);
  copied_by(0, 1);
  copied_by(0, 2);
  EXPECT_THAT(copied, SizeIs(0));
  copied_by(1, 2);  // a rank that refuses one may say so early
  EXPECT_THAT(copied, SizeIs(0));
  copied_by(1, 1);
  ASSERT_THAT(copied, SizeIs(2));
  EXPECT_EQ(copied[0].id, HostCopyId(1));
  EXPECT_EQ(copied[1].id, HostCopyId(2));
  EXPECT_EQ(copied[0].error + copied[1].error, "");
  EXPECT_EQ(group.unknown_notes(), 0u);
  copied_by(1, 2);
  copied_by(0, 9);
  EXPECT_EQ(group.unknown_notes(), 2u);
  EXPECT_THAT(copied, SizeIs(2));
  EXPECT_EQ(group.next_deadline(), kNever);
}

TEST_F(KvGroupTest, ARankThatJoinsLaterIsToldOfTheCopiesThatWait) {
  copy(1);
  copied_by(0, 1);
  copy(2);
  EXPECT_EQ(count<KvCopyOrder>(1), 0);
  EXPECT_THAT(copied, SizeIs(0));
  group.on_joined(1);
  ASSERT_EQ(count<KvCopyOrder>(1), 2);
  EXPECT_EQ(std::get<KvCopyOrder>(orders.back().second).copy.id, HostCopyId(2));
  copied_by(1, 1);
  EXPECT_THAT(copied, SizeIs(1));
}

TEST_F(KvGroupTest, ACopyThatFailsOnOneRankHasFailed) {
  group.on_joined(1);
  copy(1);
  copied_by(1, 1, "no memory");
  EXPECT_THAT(copied, SizeIs(0)) << "rank 0 still copies";
  copied_by(0, 1);
  ASSERT_THAT(copied, SizeIs(1));
  EXPECT_EQ(copied[0].error, "rank 1: no memory");
}

TEST_F(KvGroupTest, ARankThatDoesNotCopyIsLost) {
  group.on_joined(1);
  copy(1);
  copy(2);
  now += timers::kTransferCap;
  copied_by(0, 1);
  copied_by(1, 1);
  copied_by(0, 2);
  now += 2 * timers::kTransferCap - Duration(1);  // the next one's time begins when it is its turn
  group.on_tick(now);
  EXPECT_THAT(lost, SizeIs(0));
  now = group.next_deadline();
  group.on_tick(now);
  group.on_tick(now + std::chrono::hours(1));
  EXPECT_THAT(lost, ElementsAre("rank 1 does not end its part of copy c2"));
}

}  // namespace
}  // namespace baton::worker
