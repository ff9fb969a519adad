#include "cli/cluster/host_places.h"

#include <gmock/gmock.h>

namespace baton::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const HostNames kNode{{"node-b.example", "node-b", "10.0.0.2"}};

PoolManifest pool(std::vector<std::string> hosts, int replicas, int tensor = 1) {
  return {.name = "p", .replicas = replicas, .tensor = tensor, .hosts = std::move(hosts)};
}

ClusterManifest cluster(const std::string& listen, std::vector<PoolManifest> pools) {
  ClusterManifest m;
  m.control.listen = listen;
  m.pools = std::move(pools);
  return m;
}

TEST(HostPlaces, AMachineKnowsItselfByNameAndAddress) {
  for (const char* name : {"node-b", "Node-B", "node-b.example", "10.0.0.2"})
    EXPECT_TRUE(kNode.has(name)) << name;
  for (const char* name : {"node", "10.0.0.1", ""}) EXPECT_FALSE(kNode.has(name)) << name;
  EXPECT_THAT(own_host_names().names, ::testing::Not(::testing::Contains("127.0.0.1")));
}

TEST(HostPlaces, TheProcessesOfThisMachine) {
  EXPECT_THAT(places_here(pool({"a", "node-b"}, 2), kNode), ElementsAre(ProcessPlace{1, 0}));
  EXPECT_THAT(places_here(pool({"a", "node-b"}, 1, 2), kNode), ElementsAre(ProcessPlace{0, 1}));
  EXPECT_THAT(places_here(pool({"a", "node-b"}, 2, 2), kNode),
              ElementsAre(ProcessPlace{1, 0}, ProcessPlace{1, 1}));
  EXPECT_THAT(places_here(pool({"a"}, 1), kNode), IsEmpty());
  EXPECT_THAT(places_here(pool({}, 1, 2), kNode), ElementsAre(ProcessPlace{0, 0}, ProcessPlace{0, 1}));
}

TEST(HostPlaces, RanksTakeGpusInOrder) {
  PoolManifest two = pool({}, 2, 2);
  two.device = "cuda";
  EXPECT_EQ(device_of(two, {0, 1}), "cuda:1");
  EXPECT_EQ(device_of(two, {1, 0}), "cuda:2");
  two.device = "cuda:4";
  EXPECT_EQ(device_of(two, {0, 0}), "cuda:4");
  EXPECT_EQ(device_of(two, {1, 1}), "cuda:7");
  two.hosts = {"a", "b"};  // a worker each
  EXPECT_EQ(device_of(two, {1, 1}), "cuda:5");
  PoolManifest one = pool({}, 3);
  one.device = "cuda:1";
  EXPECT_EQ(device_of(one, {2, 0}), "cuda:1") << "who has no other ranks shares it";
  two.device = "cpu";
  EXPECT_EQ(device_of(two, {1, 1}), "cpu");
}

TEST(HostPlaces, AProcessFindsItself) {
  const auto own = own_place(pool({"a", "node-b"}, 2), {-1, -1}, kNode);
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ(*own, (ProcessPlace{1, 0}));
  EXPECT_EQ(*own_place(pool({"a", "node-b"}, 1, 2), {-1, -1}, kNode), (ProcessPlace{0, 1}));
  EXPECT_EQ(*own_place(pool({"node-b", "node-b"}, 2), {1, -1}, kNode), (ProcessPlace{1, -1}));
  EXPECT_EQ(*own_place(pool({"a"}, 1), {0, -1}, kNode), (ProcessPlace{0, -1})) << "flags come first";
  EXPECT_EQ(*own_place(pool({}, 3), {-1, -1}, kNode), (ProcessPlace{0, -1}));
  EXPECT_THAT(std::string(own_place(pool({"a"}, 1), {-1, -1}, kNode).status().message()),
              HasSubstr("this machine (node-b.example, node-b, 10.0.0.2) is none of its hosts (a)"));
  EXPECT_THAT(std::string(own_place(pool({"node-b"}, 1, 2), {-1, -1}, kNode).status().message()),
              HasSubstr("--index 0 --rank 0 or --index 0 --rank 1"));
}

TEST(HostPlaces, RankZeroIsWhereTheOthersMeet) {
  EXPECT_EQ(rendezvous_from_hosts(pool({"a", "b"}, 1, 2), 0), "a:7100");
  EXPECT_EQ(rendezvous_from_hosts(pool({"a", "b"}, 2, 2), 1), "b:7101");
  EXPECT_EQ(rendezvous_from_hosts(pool({"a"}, 1), 0), "");
  EXPECT_EQ(rendezvous_from_hosts(pool({}, 1, 2), 0), "");
}

TEST(HostPlaces, ServeStartsWhatBelongsHere) {
  const auto here = [](const std::string& listen, std::vector<PoolManifest> pools) {
    const ClusterManifest m = cluster(listen, std::move(pools));
    return std::pair(coordinator_here(m, kNode), processes_here(m, kNode));
  };
  EXPECT_EQ(here("127.0.0.1:0", {pool({}, 2)}), std::pair(true, std::vector{2}));
  EXPECT_EQ(here("10.0.0.1:8001", {pool({"node-b"}, 1), pool({"c"}, 1), pool({}, 3)}),
            std::pair(false, (std::vector{1, 0, 0})));
  EXPECT_EQ(here("10.0.0.2:8001", {pool({"a"}, 1), pool({}, 3)}), std::pair(true, (std::vector{0, 3})));
}

}  // namespace
}  // namespace baton::cli
