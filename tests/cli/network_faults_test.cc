// A cluster on three hosts while things break: kill -9 of a worker, links cut both ways and one way, losses,
// a slow network.
#include "tests/cli/faults_fixture.h"

namespace baton::cli {
namespace {

constexpr int kCoordinator = 0, kPrefill = 1, kDecode = 2;  // hosts

class NetworkFaults : public FaultsOnHosts {
 protected:
  void SetUp() override {
    ClusterOnHosts::SetUp();
    if (IsSkipped() || HasFailure()) return;
    serve("prefill: {kv: {memory: 8Mi}}, decode: {kv: {memory: 8Mi}}",
          {{kPrefill, "prefill", "prefill-0"}, {kDecode, "decode", "decode-0"}}, {});
  }
};

TEST_F(NetworkFaults, KilledWorkersComeBackAsNewLives) {
  const auto running = load();
  for (int round = 0; round < 5; ++round)
    for (Process* victim : {&processes_[1], &processes_[0]}) {
      ASSERT_TRUE(serves(*running, 4));
      std::this_thread::sleep_for(std::chrono::milliseconds(7 * round));
      kill(victim->pid);
      victim->pid = 0;
      victim->kept_down = true;
      EXPECT_TRUE(serves(*running, 4)) << "the other worker does not serve";
      victim->kept_down = false;
      ASSERT_TRUE(ready_again());
    }
  end(*running);
}

TEST_F(NetworkFaults, CoordinatorAndDecodeCut) {
  cut_and_heal({{kCoordinator, kDecode}, {kDecode, kCoordinator}});
}
TEST_F(NetworkFaults, CoordinatorToDecodeCut) { cut_and_heal({{kCoordinator, kDecode}}); }
TEST_F(NetworkFaults, DecodeToCoordinatorCut) { cut_and_heal({{kDecode, kCoordinator}}); }
TEST_F(NetworkFaults, CoordinatorAndPrefillCut) {
  cut_and_heal({{kCoordinator, kPrefill}, {kPrefill, kCoordinator}});
}
TEST_F(NetworkFaults, PairCut) { cut_and_heal({{kPrefill, kDecode}, {kDecode, kPrefill}}); }
TEST_F(NetworkFaults, PrefillToDecodeCut) { cut_and_heal({{kPrefill, kDecode}}); }
TEST_F(NetworkFaults, DecodeToPrefillCut) { cut_and_heal({{kDecode, kPrefill}}); }

TEST_F(NetworkFaults, OnePercentOfPacketsLost) {
  for (int from = 0; from < 3; ++from)
    for (int to = 0; to < 3; ++to)
      if (from != to)
        if (const absl::Status s = hosts_->lose(from, to, 1); !s.ok()) GTEST_SKIP() << s;
  serve_on(40);
}

TEST_F(NetworkFaults, FiftyMegabitsASecond) {
  for (int host = 0; host < 3; ++host)
    if (const absl::Status s = hosts_->limit_rate(host, 50); !s.ok()) GTEST_SKIP() << s;
  EXPECT_EQ(serve_on(40), 0) << "slow is no fault";
}

}  // namespace
}  // namespace baton::cli
