// A pair whose transfers have become slow: the lane is tested again, and closed when it is wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "base/timers.h"
#include "tests/transport/data/plane_fixture.h"
#include "transport/data/framed_data_plane.h"
#include "transport/data/lane_watch.h"
#include "transport/data/loopback_links.h"
#include "transport/data/session.h"

namespace baton::transport {
namespace {

using testing::HasSubstr;
using Kind = PeerEvent::Kind;

constexpr double kFast = 1e9, kSlow = 1e8;  // bytes a second
constexpr size_t kPiece = 128 << 10;

// ---- when

class LaneWatchTest : public testing::Test {
 protected:
  LaneWatchTest() { watch_.start(kFast); }
  void samples(int n, double rate) {
    for (int i = 0; i < n; ++i) watch_.sample(rate);
  }
  LaneWatch watch_;
  Instant now_{std::chrono::seconds(100)};
};

// 64 MiB are answered in one burst, 4 ms after they were offered: 16 GiB/s, and not what lies between
// answers.
TEST(OfferRateTest, ABurstOfAnswersWaitedForItsFirst) {
  constexpr uint64_t kPiece = 1 << 20;
  OfferRate rate{.bytes_per_second = 16e9};
  Instant now{std::chrono::seconds(10)};
  double least = 1e99, most = 0;
  for (int burst = 0; burst < 50; ++burst) {
    for (uint64_t i = 0; i < 64; ++i) rate.offered(i, kPiece, now);
    now += std::chrono::milliseconds(4);
    for (uint64_t i = 0; i < 64; ++i) {
      now += std::chrono::nanoseconds(200);
      if (rate.answered(i, now) != OfferRate::Answer::kSample) continue;
      least = std::min(least, rate.last_sample);
      most = std::max(most, rate.last_sample);
    }
  }
  EXPECT_GT(least, 0.2e9);
  EXPECT_LT(most, 20e9);
  EXPECT_EQ(rate.answered(7, now), OfferRate::Answer::kUnknown);
}

TEST_F(LaneWatchTest, AFewSlowTransfersAreNoReason) {
  samples(100, 0.6 * kFast);
  EXPECT_EQ(watch_.due(true), kNever);
  for (int i = 0; i < 50; ++i) {
    samples(3, 0.2 * watch_.usual());
    samples(1, kFast);
  }
  EXPECT_EQ(watch_.due(true), kNever);
}

TEST_F(LaneWatchTest, BelowHalfForLongIsAReasonWhileNothingIsUnderWay) {
  samples(4, kSlow);
  EXPECT_LE(watch_.due(true), now_);
  EXPECT_EQ(watch_.due(false), kNever);
  samples(12, kSlow);
  EXPECT_LE(watch_.due(false), now_);  // there is always something under way
  watch_.asked(now_);
  EXPECT_TRUE(watch_.waiting());
  EXPECT_EQ(watch_.due(true), kNever);
  EXPECT_EQ(watch_.deadline(), now_ + timers::kTransferCap);
  EXPECT_GT(watch_.usual(), 0.6 * kFast);
  EXPECT_DOUBLE_EQ(watch_.slow(), kSlow);
}

TEST_F(LaneWatchTest, WhatTransfersGetNowIsUsualFromThenOn) {
  samples(4, kSlow);
  watch_.asked(now_);
  watch_.verified();
  EXPECT_FALSE(watch_.waiting());
  samples(1000, kSlow);
  EXPECT_EQ(watch_.due(true), kNever);
  samples(4, kSlow / 4);
  EXPECT_EQ(watch_.due(true), now_ + timers::kLaneCheckPause);
  samples(1, kSlow);
  EXPECT_EQ(watch_.due(true), kNever);  // it was over before it was due
}

TEST_F(LaneWatchTest, WhatIsUsualFollowsSlowly) {
  watch_.start(kSlow);
  samples(300, kFast);
  EXPECT_GT(watch_.usual(), 0.8 * kFast);
  samples(4, kSlow);
  EXPECT_LE(watch_.due(true), now_);
}

// ---- what comes of it

// Goes on by a little whenever it is read, so that nothing takes no time.
class TickingClock final : public Clock {
 public:
  Instant now() const override { return now_ += std::chrono::microseconds(5); }
  void advance(Duration by) { now_ += by; }

 private:
  mutable Instant now_{};
};

// Loopback links on which bytes take time, by a clock of their own, and test data may come out wrong.
class SlowedLinks final : public Links {
 public:
  struct Path {
    TickingClock clock;
    double bytes_per_second = kFast;
    bool spoil_test_data = false;
  };
  SlowedLinks(LoopbackHub& hub, Path& path) : links_(hub), path_(path) {}

  void set_listener(LinksListener& listener) override { links_.set_listener(listener); }
  std::string_view stream_lane() const override { return links_.stream_lane(); }
  size_t segment_bytes() const override { return links_.segment_bytes(); }
  const std::string& address() const override { return links_.address(); }
  absl::StatusOr<LinkId> connect(const std::string& address) override { return links_.connect(address); }
  void close(LinkId link) override { links_.close(link); }
  int poll() override { return links_.poll(); }
  void wait(Duration timeout) override { links_.wait(timeout); }
  void wake() override { links_.wake(); }
  void send(LinkId link, OutgoingFrame frame) override {
    size_t bytes = frame.body.size();
    for (const auto part : frame.payload) bytes += part.size();
    path_.clock.advance(from_seconds(static_cast<double>(bytes) / path_.bytes_per_second));
    const auto what = decode_frame(std::as_bytes(std::span(frame.head)));
    if (path_.spoil_test_data && what.ok() && std::holds_alternative<ProbeFrame>(what->body)) {
      frame.body.assign(bytes, 'x');
      frame.payload.clear();
    }
    links_.send(link, std::move(frame));
  }

 private:
  LoopbackLinks links_;
  Path& path_;
};

class LaneCheckTest : public testing::Test {
 protected:
  std::unique_ptr<RecordingPlane> make(const std::string& name, AllowedLanes lanes) {
    const DataPlaneOptions options = plane_options(name, 1, lanes);
    auto pool = SharedPool::create(options.pool_bytes, false);
    EXPECT_TRUE(pool.ok());
    return std::make_unique<RecordingPlane>(
        options.identity.self,
        std::make_unique<FramedDataPlane>(options, *std::move(pool),
                                          std::make_unique<SlowedLinks>(hub_, path_), &path_.clock));
  }
  void start(AllowedLanes lanes) {
    a_ = make("a", lanes);
    b_ = make("b", lanes);
    join();
  }
  void join() {
    ASSERT_TRUE(a_->plane->connect(describe(*b_->plane, b_->ref), now_).ok());
    ASSERT_TRUE(until([&] { return a_->plane->connected(b_->ref) && b_->plane->connected(a_->ref); }))
        << a_->peers.back().detail;
  }
  void step() {
    a_->plane->do_work(now_);
    b_->plane->do_work(b_now_ == Instant{} ? now_ : b_now_);
  }
  bool until(const std::function<bool()>& done) {
    return drive([this] { step(); }, done);
  }
  // One piece after the other, from a to b.
  void move(int pieces, double rate) {
    path_.bytes_per_second = rate;
    const PoolRun run{.offset = 0, .bytes = kPiece};
    for (int i = 0; i < pieces && a_->plane->connected(b_->ref); ++i) {
      const size_t answered = a_->answers.size();
      ASSERT_TRUE(a_->plane->offer(b_->ref, {.cookie = ++cookie_, .runs = {&run, 1}}).ok());
      // A local copy takes no time on the links.
      if (a_->plane->lane(b_->ref) == "local") path_.clock.advance(from_seconds(kPiece / rate));
      ASSERT_TRUE(until([&] { return a_->answers.size() > answered || !a_->plane->connected(b_->ref); }));
    }
    for (int i = 0; i < 20; ++i) step();  // a test that is due now
  }
  uint64_t tested() const { return a_->plane->counters().lanes_tested_again; }
  std::byte* probe_of(RecordingPlane& p) { return p.plane->pool().data() - kPoolStart + kProbeStart; }

  LoopbackHub hub_;
  SlowedLinks::Path path_;
  Instant now_{std::chrono::seconds(1000)};
  Instant b_now_{};  // when b's clock is another
  uint64_t cookie_ = 0;
  std::unique_ptr<RecordingPlane> a_, b_;
};

constexpr AllowedLanes kStreamOnly{.local = false, .stream = true};
constexpr AllowedLanes kLocalOnly{.local = true, .stream = false};

class LaneCheckOnEachLane : public LaneCheckTest, public testing::WithParamInterface<AllowedLanes> {};
INSTANTIATE_TEST_SUITE_P(Lanes, LaneCheckOnEachLane, testing::Values(kStreamOnly, kLocalOnly),
                         [](const auto& info) { return info.param.local ? "local" : "stream"; });

TEST_P(LaneCheckOnEachLane, ASlowedPairIsTestedOnceAndToldOnce) {
  start(GetParam());
  move(400, kFast);
  const size_t told = a_->peers.size();
  const uint64_t tested_before = tested();  // a local copy of what is in the cache beats all transfers
  now_ += timers::kLaneCheckPause;
  move(400, kSlow);
  EXPECT_EQ(tested(), tested_before + 1);
  ASSERT_EQ(a_->peers.size(), told + 1);
  EXPECT_EQ(a_->peers.back().kind, Kind::kConnected);
  EXPECT_THAT(a_->peers.back().detail, HasSubstr("tested again and right"));
  EXPECT_LT(a_->peers.back().bytes_per_second, kFast / 2);
  EXPECT_EQ(b_->peers.size(), 1u);
  EXPECT_EQ(a_->plane->counters().lanes_failed + b_->plane->counters().lanes_failed, 0u);
}

TEST_P(LaneCheckOnEachLane, ALaneThatIsWrongIsClosedOnBothSides) {
  start(GetParam());
  move(400, kFast);
  now_ += timers::kLaneCheckPause;
  path_.spoil_test_data = true;
  probe_of(*a_)[77] ^= std::byte{1};
  move(400, kSlow);
  for (const auto* p : {a_.get(), b_.get()}) {
    ASSERT_EQ(p->peers.back().kind, Kind::kDown);
    EXPECT_THAT(p->peers.back().detail, HasSubstr("tested again: the test transfer came out wrong"));
    EXPECT_EQ(p->plane->counters().lanes_failed, 1u);
  }
  const PoolRun run{.offset = 0, .bytes = kPiece};
  EXPECT_FALSE(a_->plane->offer(b_->ref, {.cookie = ++cookie_, .runs = {&run, 1}}).ok());
  // It can be met again, by a lane that works only.
  ASSERT_TRUE(a_->plane->connect(describe(*b_->plane, b_->ref), now_).ok());
  ASSERT_TRUE(until([&] { return a_->peers.back().kind != Kind::kDown; }));
  EXPECT_EQ(a_->peers.back().kind, Kind::kRefused);
  EXPECT_THAT(a_->peers.back().detail, HasSubstr("no lane works both ways"));
}

// Only a new handshake may choose another lane, and it says why.
TEST_F(LaneCheckTest, NothingFallsToAnotherLaneByItself) {
  start({.local = true, .stream = true});
  ASSERT_EQ(a_->plane->lane(b_->ref), "local");
  move(400, kFast);
  now_ += timers::kLaneCheckPause;
  probe_of(*a_)[77] ^= std::byte{1};
  move(400, kSlow);
  ASSERT_EQ(a_->peers.back().kind, Kind::kDown);
  EXPECT_EQ(a_->plane->lane(b_->ref), "");
  join();
  EXPECT_EQ(a_->plane->lane(b_->ref), "loopback");
  EXPECT_THAT(a_->peers.back().detail, HasSubstr("local: the test transfer came out wrong"));
}

TEST_F(LaneCheckTest, NotSoonerThanAMinuteLater) {
  start(kStreamOnly);
  move(400, kFast);
  move(400, kSlow);
  ASSERT_EQ(tested(), 1u);
  move(400, kSlow / 10);
  EXPECT_EQ(tested(), 1u);
  EXPECT_EQ(a_->plane->next_deadline(), now_ + timers::kLaneCheckPause);
  now_ += timers::kLaneCheckPause;
  for (int i = 0; i < 20; ++i) step();
  EXPECT_EQ(tested(), 2u);
}

TEST_F(LaneCheckTest, NoAnswerIsAnEnd) {
  start(kStreamOnly);
  move(400, kFast);
  path_.bytes_per_second = kSlow;
  const PoolRun run{.offset = 0, .bytes = kPiece};
  for (int i = 0; a_->plane->next_deadline() != now_ + timers::kTransferCap; ++i) {  // until it has asked
    ASSERT_LT(i, 400);
    const size_t answered = a_->answers.size();
    ASSERT_TRUE(a_->plane->offer(b_->ref, {.cookie = ++cookie_, .runs = {&run, 1}}).ok());
    while (a_->answers.size() == answered) {
      b_->plane->do_work(now_);
      a_->plane->do_work(now_);
    }
  }
  now_ += timers::kTransferCap;
  a_->plane->do_work(now_);
  EXPECT_EQ(a_->peers.back().kind, Kind::kDown);
  EXPECT_THAT(a_->peers.back().detail, HasSubstr("asked for a test transfer and got no answer"));
}

TEST_F(LaneCheckTest, WhoAsksTooOftenIsCutOff) {
  start(kStreamOnly);
  move(400, kFast);
  b_now_ = now_;  // b's clock stands still, a's goes on
  move(400, kSlow);
  ASSERT_EQ(tested(), 1u);
  now_ += timers::kLaneCheckPause;
  move(400, kSlow / 10);
  EXPECT_EQ(tested(), 1u);
  EXPECT_EQ(b_->plane->counters().malformed_frames, 1u);
  EXPECT_EQ(a_->peers.back().kind, Kind::kDown);
}

}  // namespace
}  // namespace baton::transport
