#include "cli/cluster/cores.h"

#include <gmock/gmock.h>

namespace baton::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

ClusterManifest pools(std::initializer_list<PoolManifest> list) {
  ClusterManifest manifest;
  manifest.pools = list;
  return manifest;
}

AllowedCores ours(std::vector<int> cpus) { return allowed_cores(std::move(cpus), 0); }

std::vector<int> threads(const std::vector<WorkerCores>& split) {
  std::vector<int> out;
  for (const WorkerCores& w : split) out.push_back(w.threads);
  return out;
}

TEST(Cores, OneWorkerHasThemAll) {
  const auto split = split_cores(pools({{.name = "any"}}), ours({4, 6, 7}));
  ASSERT_EQ(split.size(), 1u);
  EXPECT_EQ(split[0].threads, 3);
  EXPECT_THAT(split[0].cpus, ElementsAre(4, 6, 7));
}

TEST(Cores, TheExampleOfTheHeader) {
  const auto split = split_cores(pools({{.name = "prefill", .cpu = 2}, {.name = "decode", .replicas = 2}}),
                                 ours({0, 1, 2, 3, 4}));
  EXPECT_THAT(threads(split), ElementsAre(2, 2, 1));
  EXPECT_THAT(split[0].cpus, ElementsAre(0, 1));
  EXPECT_THAT(split[1].cpus, ElementsAre(2, 3));
  EXPECT_THAT(split[2].cpus, ElementsAre(4));
}

TEST(Cores, TheRanksOfAWorkerHaveCoresOfTheirOwn) {
  const auto split = split_cores(pools({{.name = "any", .tensor = 2, .pipeline = 2}}), ours({0, 1, 2, 3, 4}));
  EXPECT_THAT(threads(split), ElementsAre(2, 1, 1, 1));
  EXPECT_THAT(split[0].cpus, ElementsAre(0, 1));
  EXPECT_THAT(split[3].cpus, ElementsAre(4));
}

TEST(Cores, TwoWorkersOnTwoCoresHaveOneEach) {
  for (const auto& manifest :
       {pools({{.name = "any", .replicas = 2}}), pools({{.name = "prefill"}, {.name = "decode"}})}) {
    const auto split = split_cores(manifest, ours({0, 1}));
    EXPECT_THAT(threads(split), ElementsAre(1, 1));
    EXPECT_THAT(split[0].cpus, ElementsAre(0));
    EXPECT_THAT(split[1].cpus, ElementsAre(1));
  }
}

TEST(Cores, MoreWorkersThanCoresHaveOneThreadEachAndNoPins) {
  for (const WorkerCores& w : split_cores(pools({{.name = "any", .replicas = 3}}), ours({0, 1}))) {
    EXPECT_EQ(w.threads, 1);
    EXPECT_THAT(w.cpus, IsEmpty());
  }
}

TEST(Cores, WhoAsksForMoreThanThereIsGetsItUnpinned) {
  const auto split = split_cores(pools({{.name = "a", .cpu = 4}, {.name = "b"}}), ours({0, 1}));
  EXPECT_THAT(threads(split), ElementsAre(4, 1));
  for (const WorkerCores& w : split) EXPECT_THAT(w.cpus, IsEmpty());
}

// No core has two owners, and none is left over while somebody shares.
TEST(Cores, EverySplitIsAPartition) {
  for (int cores = 1; cores <= 12; ++cores) {
    for (int a = 1; a <= 4; ++a) {
      for (int fixed = 0; fixed <= 3; ++fixed) {
        std::vector<int> all;
        for (int i = 0; i < cores; ++i) all.push_back(3 * i);
        const auto split =
            split_cores(pools({{.name = "a", .replicas = a}, {.name = "b", .cpu = fixed}}), ours(all));
        std::vector<int> owned;
        for (const WorkerCores& w : split) owned.insert(owned.end(), w.cpus.begin(), w.cpus.end());
        const int wanted = fixed > 0 ? a + fixed : a + 1;
        if (wanted <= cores) {
          EXPECT_EQ(owned, all) << cores << " " << a << " " << fixed;
        } else {
          EXPECT_THAT(owned, IsEmpty());
        }
      }
    }
  }
}

TEST(Cores, AQuotaIsWholeCores) {
  EXPECT_EQ(cores_of_quota("200000 100000"), 2);
  EXPECT_EQ(cores_of_quota("250000 100000"), 2);
  EXPECT_EQ(cores_of_quota("50000 100000"), 1);
  EXPECT_EQ(cores_of_quota("max 100000"), 0);
  EXPECT_EQ(cores_of_quota(""), 0);
  EXPECT_EQ(cores_of_quota("-5 0"), 0);
  EXPECT_GE(allowed_cores().count, 1);
}

// Other containers with a quota would be pinned to the same first cores.
TEST(Cores, AQuotaGivesThreadsAndPinsNobody) {
  const AllowedCores cores = allowed_cores({0, 1, 2, 3, 4, 5, 6, 7}, 3);
  const auto split = split_cores(pools({{.name = "prefill"}, {.name = "decode"}}), cores);
  EXPECT_THAT(threads(split), ElementsAre(2, 1));
  for (const WorkerCores& w : split) EXPECT_THAT(w.cpus, IsEmpty());
}

TEST(Cores, AQuotaOfAllCoresOrMoreCutsNothing) {
  for (const int quota : {2, 16}) {
    const auto split = split_cores(pools({{.name = "any"}}), allowed_cores({5, 7}, quota));
    EXPECT_EQ(split[0].threads, 2);
    EXPECT_THAT(split[0].cpus, ElementsAre(5, 7));
  }
}

TEST(Cores, AreSaid) {
  EXPECT_EQ(cores_text(2, {0, 1}), "2 threads on cores 0,1");
  EXPECT_EQ(cores_text(1, {3}), "1 thread on core 3");
  EXPECT_EQ(cores_text(4, {}), "4 threads, not pinned");
}

}  // namespace
}  // namespace baton::cli
