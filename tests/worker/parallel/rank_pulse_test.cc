#include "worker/parallel/rank_pulse.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "base/timers.h"
#include "tests/support/soon.h"
#include "transport/collectives/thread_ranks.h"

namespace baton::worker {
namespace {

using namespace std::chrono_literals;

// Three ranks as threads, each with a communicator for steps and one for the pulse.
class RankPulseTest : public ::testing::Test {
 protected:
  struct Rank {
    std::unique_ptr<Communicator> world, pulse_lane;
    std::unique_ptr<RankPulse> pulse;
    absl::Status end;
    std::jthread thread;
  };
  RankPulseTest() {
    auto worlds = thread_ranks(3).value(), pulses = thread_ranks(3).value();
    for (int r = 0; r < 3; ++r) {
      ranks_[r].world = std::move(worlds[r]);
      ranks_[r].pulse_lane = std::move(pulses[r]);
      ranks_[r].pulse = std::make_unique<RankPulse>(
          RankPulse::Parts{*ranks_[r].pulse_lane, {ranks_[r].world.get()}, clock_, [this, r] {
                             return RankReport{.steps = ++beats_[r], .step_nanoseconds = r};
                           }});
    }
  }
  void start(int r) {
    ranks_[r].thread =
        std::jthread([this, r](const std::stop_token& stop) { ranks_[r].end = ranks_[r].pulse->run(stop); });
  }
  SteadyClock clock_;
  std::atomic<uint64_t> beats_[3] = {};
  Rank ranks_[3];
};

TEST_F(RankPulseTest, EveryRankHearsOfAll) {
  for (int r = 0; r < 3; ++r) start(r);
  ASSERT_TRUE(support::soon([&] { return ranks_[2].pulse->reports()[0].steps >= 2; }));
  const std::vector<RankReport> reports = ranks_[2].pulse->reports();
  for (int r = 0; r < 3; ++r) EXPECT_EQ(reports[r].step_nanoseconds, r);
  EXPECT_EQ(ranks_[2].world->culprit(), -1);
}

// Rank 1 beats no more, and lives. A step that waits for it far longer ends, on every rank.
TEST_F(RankPulseTest, ASilentRankEndsTheGroup) {
  for (int r = 0; r < 3; ++r) start(r);
  ASSERT_TRUE(support::soon([&] { return ranks_[0].pulse->reports()[1].steps >= 1; }));
  ranks_[1].thread.request_stop();
  std::byte byte{};
  const absl::Status step = ranks_[0].world->receive(1, {&byte, 1}, clock_.now() + 10min);
  EXPECT_TRUE(absl::IsDeadlineExceeded(step)) << step;
  EXPECT_NE(step.message().find("rank 1 of the group did not come"), std::string::npos) << step;
  EXPECT_EQ(ranks_[0].world->culprit(), 1);
  EXPECT_FALSE(ranks_[2].world->alive().ok());
  ranks_[0].thread.join();
  EXPECT_TRUE(absl::IsDeadlineExceeded(ranks_[0].end)) << ranks_[0].end;
}

// Whoever is gone is seen by the others' own waits: what it said before still counts.
TEST_F(RankPulseTest, ARankThatIsGoneIsLeftToTheSteps) {
  for (int r = 0; r < 3; ++r) start(r);
  ASSERT_TRUE(support::soon([&] { return ranks_[0].pulse->reports()[1].steps >= 1; }));
  ranks_[1].thread.request_stop();
  ranks_[1].thread.join();
  ranks_[1].pulse.reset();
  ranks_[1].pulse_lane.reset();
  ranks_[0].thread.join();
  EXPECT_TRUE(absl::IsUnavailable(ranks_[0].end)) << ranks_[0].end;
  EXPECT_TRUE(ranks_[0].world->alive().ok());
}

}  // namespace
}  // namespace baton::worker
