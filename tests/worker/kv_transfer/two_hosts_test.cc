// Transfers between two hosts (network namespaces): the lane that runs, links that are cut, lossy and slow.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/network_hosts.h"
#include "tests/worker/kv_transfer/victim.h"

namespace baton::worker {
namespace {

using testing::HasSubstr;

// The survivor lives on host 0, the victim on host 1.
class TwoHostsTest : public testing::Test {
 protected:
  void SetUp() override {
    auto made = NetworkHosts::make(2);
    if (!made.ok()) GTEST_SKIP() << made.status();
    hosts_ = *std::move(made);
  }
  // The test's own thread stays on host 0.
  void on_host_0(const std::function<void()>& body) {
    if (hosts_) hosts_->inside(0, body);
  }
  std::unique_ptr<VictimProcess> victim(const std::string& role, const std::string& lane, uint64_t life = 1) {
    std::unique_ptr<VictimProcess> made;
    hosts_->inside(1,
                   [&] { made = std::make_unique<VictimProcess>(role, lane, life, 0, hosts_->address(1)); });
    return made;
  }
  std::unique_ptr<NetworkHosts> hosts_;
};

TEST_F(TwoHostsTest, AutoTakesTheSocketAndLocalIsRefused) {
  on_host_0([&] {
    Survivor survivor("auto", true, hosts_->address(0));
    const auto peer = victim("source", "auto");
    ASSERT_TRUE(survivor.connect(*peer)) << survivor.reports.back().error;
    EXPECT_EQ(survivor.reports.back().lane, "socket");
    EXPECT_THAT(survivor.reports.back().error, HasSubstr("another host"));
    survivor.begin(peer->ref());
    ASSERT_TRUE(survivor.until([&] { return survivor.completed >= 8; }));
    EXPECT_EQ(survivor.wrong, 0u);

    Survivor strict("local", true, hosts_->address(0));
    const auto other = victim("source", "local");
    EXPECT_FALSE(strict.connect(*other));
    EXPECT_THAT(strict.reports.back().error, HasSubstr("no lane works both ways"));
  });
}

// Cut in mid-transfer; the transfers end by their own deadline, nothing late is written, and when the link is
// there again the same pair goes on.
void cut_and_heal(NetworkHosts& hosts, VictimProcess& victim, Survivor& survivor,
                  const std::vector<std::pair<int, int>>& cuts) {
  ASSERT_TRUE(survivor.connect(victim)) << survivor.reports.back().error;
  survivor.begin(victim.ref());
  ASSERT_TRUE(survivor.until([&] { return survivor.completed >= 3; }));
  for (const auto& [from, to] : cuts) ASSERT_TRUE(hosts.cut(from, to).ok());
  survivor.stop();
  for (int i = 0; i < 20; ++i) survivor.step();  // what was on its way
  ASSERT_GT(survivor.agent->open_transfers(), 0);
  survivor.jump += 11s;
  ASSERT_TRUE(survivor.until([&] { return survivor.agent->open_transfers() == 0; }));
  EXPECT_GT(survivor.agent->counters().deadlines, 0u);
  EXPECT_TRUE(survivor.plane->connected(victim.ref()));  // nobody was told anything
  std::fill(survivor.plane->pool().begin(), survivor.plane->pool().end(), std::byte{0x5a});
  for (const auto& [from, to] : cuts) ASSERT_TRUE(hosts.heal(from, to).ok());
  const auto heard = std::chrono::steady_clock::now() + 1s;
  while (std::chrono::steady_clock::now() < heard) survivor.step();
  for (const std::byte b : survivor.plane->pool()) ASSERT_EQ(b, std::byte{0x5a});
  const uint64_t enough = survivor.completed + 4;
  survivor.resume(victim.ref());
  ASSERT_TRUE(survivor.until([&] { return survivor.completed >= enough; })) << survivor.last_error;
  survivor.stop();
  EXPECT_EQ(survivor.wrong, 0u);
}

TEST_F(TwoHostsTest, CutBothWays) {
  on_host_0([&] {
    Survivor survivor("auto", true, hosts_->address(0));
    const auto peer = victim("source", "auto");
    cut_and_heal(*hosts_, *peer, survivor, {{0, 1}, {1, 0}});
  });
}
TEST_F(TwoHostsTest, TheBytesAreCutOff) {
  on_host_0([&] {
    Survivor survivor("auto", true, hosts_->address(0));
    const auto peer = victim("source", "auto");
    cut_and_heal(*hosts_, *peer, survivor, {{1, 0}});
  });
}
TEST_F(TwoHostsTest, TheAnswersAreCutOff) {
  on_host_0([&] {
    Survivor survivor("auto", true, hosts_->address(0));
    const auto peer = victim("source", "auto");
    cut_and_heal(*hosts_, *peer, survivor, {{0, 1}});
  });
}

TEST_F(TwoHostsTest, OnePercentOfThePacketsIsLost) {
  on_host_0([&] {
    for (const auto& [from, to] : {std::pair{0, 1}, std::pair{1, 0}})
      if (const absl::Status lossy = hosts_->lose(from, to, 1); !lossy.ok())
        GTEST_SKIP() << "no iptables here: " << lossy;
    Survivor survivor("auto", true, hosts_->address(0));
    const auto peer = victim("source", "auto");
    ASSERT_TRUE(survivor.connect(*peer)) << survivor.reports.back().error;
    survivor.begin(peer->ref());
    ASSERT_TRUE(survivor.until([&] { return survivor.completed >= 30; }));
    survivor.stop();
    EXPECT_EQ(survivor.wrong, 0u);
    EXPECT_EQ(survivor.failed, 0u);
  });
}

TEST_F(TwoHostsTest, FiftyMegabits) {
  on_host_0([&] {
    ASSERT_TRUE(hosts_->limit_rate(0, 50).ok());
    Survivor survivor("auto", true, hosts_->address(0));
    const auto peer = victim("source", "auto");
    ASSERT_TRUE(survivor.connect(*peer)) << survivor.reports.back().error;
    // What the router will count with. The first 256 KiB pass the shaper at once.
    EXPECT_LT(survivor.reports.back().bytes_per_second, 20e6);
    survivor.begin(peer->ref());
    ASSERT_TRUE(survivor.until([&] { return survivor.completed >= 6; }));
    survivor.stop();
    EXPECT_EQ(survivor.wrong, 0u);
    EXPECT_EQ(survivor.failed, 0u);
  });
}

// A link that was fast when the pair met: what does not arrive in time fails by its deadline, nothing hangs,
// and the sender learns the new rate.
TEST_F(TwoHostsTest, AFastLinkBecomesSlow) {
  on_host_0([&] {
    Survivor survivor("auto", false, hosts_->address(0));
    const auto peer = victim("sink", "auto");
    ASSERT_TRUE(survivor.connect(*peer)) << survivor.reports.back().error;
    survivor.begin(peer->ref());
    ASSERT_TRUE(survivor.until([&] { return survivor.completed >= 8; }));
    const double fast = survivor.plane->bytes_per_second(peer->ref());
    ASSERT_TRUE(hosts_->limit_rate(1, 50).ok());
    const uint64_t enough = survivor.completed + 6;
    ASSERT_TRUE(survivor.until([&] { return survivor.completed >= enough; })) << survivor.last_error;
    EXPECT_LT(survivor.plane->bytes_per_second(peer->ref()), fast / 2);
    // The coordinator is told, once a second at most.
    ASSERT_TRUE(survivor.until([&] { return survivor.reports.back().bytes_per_second < fast / 1.5; }));
    EXPECT_TRUE(survivor.reports.back().connected);
    survivor.stop();
    ASSERT_TRUE(survivor.until([&] { return survivor.agent->open_transfers() == 0; }));
  });
}

}  // namespace
}  // namespace baton::worker
