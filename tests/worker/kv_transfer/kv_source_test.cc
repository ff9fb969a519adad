// The sending half alone, over a plane that does what it is told.
#include "worker/kv_transfer/kv_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/timers.h"
#include "tests/worker/kv_transfer/exchange_fixture.h"

namespace baton::worker {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

class ScriptedPlane final : public transport::DataPlane {
 public:
  std::span<std::byte> pool() override { return {}; }
  const std::string& address() const override { return address_; }
  void set_listener(transport::DataPlaneListener&) override {}
  absl::Status connect(const WorkerDescription&, Instant) override { return absl::OkStatus(); }
  void let_in(const WorkerRef&) override {}
  void fence(const WorkerRef&) override {}
  void disconnect(const WorkerRef& peer, const std::string&) override { disconnected.push_back(peer); }
  void doubt(const WorkerRef& peer) override { doubted.push_back(peer); }
  absl::Status send(const WorkerRef&, std::span<const std::byte>) override { return absl::OkStatus(); }
  absl::Status offer(const WorkerRef&, const transport::PieceOffer& piece) override {
    if (refusal.ok()) offered.push_back(piece.cookie);
    return refusal;
  }
  bool connected(const WorkerRef&) const override { return up; }
  bool hung_up(const WorkerRef&) const override { return !up; }
  std::string lane(const WorkerRef&) const override { return "scripted"; }
  double bytes_per_second(const WorkerRef&) const override { return 1e9; }
  size_t max_piece_bytes(const WorkerRef&) const override { return size_t{1} << 20; }
  bool lands_by_itself(const WorkerRef&) const override { return false; }
  int do_work(Instant) override { return 0; }
  Instant next_deadline() const override { return kNever; }
  void wait(Duration) override {}
  void wake() override {}
  transport::DataPlaneCounters counters() const override { return {}; }

  bool up = true;
  absl::Status refusal;
  std::vector<uint64_t> offered;
  std::vector<WorkerRef> doubted, disconnected;

 private:
  const std::string address_;
};

class KvSourceTest : public testing::Test {
 protected:
  // A prompt of 24 tokens, of which the receiver wants everything.
  void send(TransferId id) {
    const KvSend send{.transfer = id,
                      .destination = kPeer,
                      .prompt_tokens = 24,
                      .blocks = {BlockId(0), BlockId(1), BlockId(2)}};
    const KvLink link{.peer = kPeer, .part = kWhole};
    source.send(send, {&link, 1}, now);
    source.on_grant(kPeer, {.transfer = id, .prompt_tokens = 24, .generations = {5, 6, 7}, .part = kWhole},
                    now);
  }
  void finish(TransferId id) {
    source.finish(id, {.token = 1}, FinishReason::kNone, now);
    source.pump(now);
  }
  void answer_all(const absl::Status& verdict = {}) {
    for (const uint64_t cookie : std::exchange(plane.offered, {}))
      source.on_answer(kPeer, cookie, verdict, now);
  }
  // Both halves speak of the transfer, as they do every two seconds.
  void renewed_for(Duration time) {
    for (const Instant end = now + time; now < end;) {
      now += timers::kSourceLeaseRenew;
      source.on_renew(kPeer, {.from = KvSide::kSink, .transfers = {TransferId(1)}}, now);
      source.on_tick(now);
    }
  }

  const WorkerRef kPeer{"decode", Incarnation(1)};
  const KvPart kWhole{.first_layer = 0, .end_layer = 3, .first_head = 0, .end_head = 2};
  ScriptedPlane plane;
  KvTransferCounters counters;
  std::vector<std::string> drained;
  const KvStreamEvents events = [this](const WorkerRef&, const KvEvent& event) {
    drained.push_back(std::get<KvDrained>(event).error);
  };
  const KvTransferScope scope{plane, small_geometry(), kWhole, events, counters};
  KvSource source{scope};
  Instant now{1000s};
};

TEST_F(KvSourceTest, AnOfferThatThePlaneRefusesEndsTheTransfer) {
  send(TransferId(1));
  plane.refusal = absl::InternalError("the device does not copy");
  finish(TransferId(1));
  EXPECT_THAT(drained, UnorderedElementsAre(HasSubstr("cannot be offered: the device does not copy")));
  EXPECT_EQ(source.open(), 0u);
}

TEST_F(KvSourceTest, AnOfferToALostPeerWaitsForThatWord) {
  send(TransferId(1));
  plane.refusal = absl::UnavailableError("not connected");
  plane.up = false;
  finish(TransferId(1));
  EXPECT_TRUE(drained.empty());
  source.on_peer_down(kPeer, "closed", now);
  EXPECT_THAT(drained, UnorderedElementsAre(HasSubstr("destination lost: closed")));
}

TEST_F(KvSourceTest, RenewalsKeepATransferThatIsComputed) {
  send(TransferId(1));
  renewed_for(60s);
  finish(TransferId(1));
  EXPECT_EQ(plane.offered.size(), 3u);
  answer_all();
  source.on_end(kPeer, {.transfer = TransferId(1), .from = KvSide::kSink, .ok = true}, now);
  EXPECT_THAT(drained, UnorderedElementsAre(""));
}

// All of it was taken, and the receiver says that it still waits: somebody is wrong.
TEST_F(KvSourceTest, RenewalsAloneDoNotKeepATransferThatWasSent) {
  send(TransferId(1));
  finish(TransferId(1));
  answer_all();
  renewed_for(timers::kSourceLease);
  EXPECT_THAT(drained, UnorderedElementsAre(HasSubstr("deadline")));
}

TEST_F(KvSourceTest, WhatIsUnderWayIsLeasedUntilItIsAnswered) {
  send(TransferId(1));
  finish(TransferId(1));
  source.cancel(TransferId(1), now);
  EXPECT_TRUE(drained.empty());
  answer_all(absl::NotFoundError("not expected"));
  EXPECT_THAT(drained, UnorderedElementsAre("cancelled"));
  EXPECT_EQ(source.next_deadline() - now, timers::kSourceLeaseRenew);  // to no transfer: the last one
}

TEST_F(KvSourceTest, WhatIsUnderWayKeepsItsRoomInTheWindow) {
  send(TransferId(1));
  source.layer_ready(TransferId(1), 2, 24);
  while (source.pump(now) > 0) {
  }
  const size_t pieces = plane.offered.size();
  ASSERT_EQ(pieces, 3u);  // one of each layer
  for (uint64_t id = 2; id <= 22; ++id) {
    send(TransferId(id));
    source.layer_ready(TransferId(id), 2, 24);
    source.pump(now);
  }
  EXPECT_EQ(plane.offered.size(), 64u);  // the window of a peer
  for (uint64_t id = 1; id <= 20; ++id) source.cancel(TransferId(id), now);
  EXPECT_EQ(source.pump(now), 0);
  EXPECT_TRUE(drained.empty());
  now += 1ms;
  answer_all();
  EXPECT_EQ(drained.size(), 20u);
  EXPECT_GT(source.pump(now), 0);
}

// It answers, too late: transfers end, the pair does not.
TEST_F(KvSourceTest, APeerThatHasBecomeSlowIsNotGivenUp) {
  send(TransferId(1));
  source.layer_ready(TransferId(1), 0, 24);
  source.pump(now);
  source.layer_ready(TransferId(1), 1, 24);
  source.pump(now);
  finish(TransferId(1));
  const std::vector<uint64_t> cookies = std::exchange(plane.offered, {});
  ASSERT_EQ(cookies.size(), 3u);
  for (const uint64_t cookie : cookies) {
    now += 900ms;
    source.on_tick(now);
    source.on_answer(kPeer, cookie, {}, now);
  }
  EXPECT_EQ(counters.deadlines, 1u);
  EXPECT_THAT(drained, UnorderedElementsAre(HasSubstr("deadline")));
  EXPECT_TRUE(plane.disconnected.empty());
  EXPECT_TRUE(plane.doubted.empty());
}

TEST_F(KvSourceTest, APeerThatOwesAnswersIsDoubtedAndThenDisconnected) {
  send(TransferId(1));
  finish(TransferId(1));
  const Instant deadline = source.next_deadline();
  EXPECT_LT(deadline - now, timers::kTransferBase + 100ms);
  now = deadline;
  source.on_tick(now);
  EXPECT_THAT(plane.doubted, UnorderedElementsAre(kPeer));
  EXPECT_EQ(counters.deadlines, 1u);
  EXPECT_TRUE(drained.empty() && plane.disconnected.empty());
  now += timers::kQuarantineBeforeTeardown;
  source.on_tick(now);
  EXPECT_THAT(plane.disconnected, UnorderedElementsAre(kPeer));
  source.on_peer_down(kPeer, "given up", now);
  EXPECT_THAT(drained, UnorderedElementsAre(HasSubstr("deadline")));
  EXPECT_EQ(source.on_tick(now), 0);
}

}  // namespace
}  // namespace baton::worker
