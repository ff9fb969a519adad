#include "cli/cluster/worker_address.h"

#include <gmock/gmock.h>

#include "base/cat.h"
#include "cli/cluster/host_address.h"

namespace baton::cli {
namespace {

using ::testing::HasSubstr;

// A machine with 10.0.0.2 towards everybody but "lost", and 10.1.0.2 beside it.
LocalNetwork machine() {
  return {.source_of = [](const std::string& host) -> absl::StatusOr<std::string> {
            if (host == "lost") return absl::UnavailableError("lost: Name or service not known");
            return "10.0.0.2";
          },
          .addresses = [] { return std::vector<std::string>{"127.0.0.1", "10.0.0.2", "10.1.0.2"}; }};
}

// "control_listen control_host data", or why not.
std::string choose(AddressQuestion q) {
  q.control_protected = q.data_protected = true;
  const auto a = choose_addresses(q, machine());
  if (!a.ok()) return std::string(a.status().message());
  return cat(a->control_listen, " ", a->control_host, " ", a->data_host, ":", a->data_port);
}

TEST(HostAddress, ClientsOfThisMachineComeOverLoopbackOrTheAddressThatListens) {
  for (const char* own : {"127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"})
    EXPECT_TRUE(from_this_machine(own, "0.0.0.0")) << own;
  EXPECT_TRUE(from_this_machine("10.0.0.1", "10.0.0.1"));
  EXPECT_TRUE(from_this_machine("::ffff:10.0.0.1", "10.0.0.1"));
  for (const char* other : {"10.0.0.2", "::ffff:10.0.0.2", "fd00::1", "127.evil", ""})
    EXPECT_FALSE(from_this_machine(other, "10.0.0.1")) << other;
  EXPECT_FALSE(from_this_machine("10.0.0.1", "0.0.0.0"));
}

TEST(WorkerAddress, FollowsTheRouteToTheCoordinator) {
  EXPECT_EQ(choose({.join = "127.0.0.1:8001"}), "127.0.0.1:0 127.0.0.1 127.0.0.1:0");
  EXPECT_EQ(choose({.join = "10.0.0.1:8001"}), "10.0.0.2:0 10.0.0.2 10.0.0.2:0");
  EXPECT_EQ(choose({.join = "coordinator:8001"}), "10.0.0.2:0 10.0.0.2 10.0.0.2:0");
  EXPECT_THAT(choose({.join = "lost:8001"}), HasSubstr("The route to lost:8001 would say, but: lost: Name"));
}

TEST(WorkerAddress, OtherRanksFollowTheRouteToRankZero) {
  EXPECT_EQ(choose({.rendezvous = "10.0.0.1:7100"}), "10.0.0.2:0 10.0.0.2 10.0.0.2:0");
  EXPECT_EQ(choose({.rendezvous = "unix:@x"}), "127.0.0.1:0 127.0.0.1 127.0.0.1:0");
}

TEST(WorkerAddress, TheManifestNamesAnAddressOrANetwork) {
  const AddressQuestion q{
      .network = {.control = "10.0.0.0/24", .control_port = 7200, .data = "10.1.0.0/16", .data_port = 7300},
      .join = "10.0.0.1:8001",
      .number = 3};
  EXPECT_EQ(choose(q), "10.0.0.2:7203 10.0.0.2 10.1.0.2:7303");
  EXPECT_EQ(choose({.network = {.data = "10.1.0.2"}, .join = "10.0.0.1:8001"}),
            "10.0.0.2:0 10.0.0.2 10.1.0.2:0");
  EXPECT_EQ(choose({.network = {.data = "127.0.0.1"}, .join = "10.0.0.1:8001"}),
            "10.0.0.2:0 10.0.0.2 127.0.0.1:0");
  EXPECT_THAT(
      choose({.network = {.control = "10.9.0.0/16"}, .join = "10.0.0.1:8001"}),
      HasSubstr("network.control 10.9.0.0/16: this machine has no such address; it has 127.0.0.1, 10.0.0.2"));
}

TEST(WorkerAddress, MetricsStayOnLoopbackUnlessTold) {
  const auto metrics = [](const NetworkManifest& network, const std::string& flag = "") {
    const auto a = choose_addresses({.metrics = flag,
                                     .network = network,
                                     .join = "10.0.0.1:8001",
                                     .number = 2,
                                     .control_protected = true,
                                     .data_protected = true},
                                    machine());
    return a.ok() ? cat(a->metrics_listen, " ", a->metrics_host) : std::string(a.status().message());
  };
  const NetworkManifest allowed{.insecure_metrics = true};
  EXPECT_EQ(metrics({}), "127.0.0.1:0 127.0.0.1");
  EXPECT_EQ(metrics({.metrics = "10.0.0.0/24", .metrics_port = 9100, .insecure_metrics = true}),
            "10.0.0.2:9102 10.0.0.2");
  EXPECT_EQ(metrics(allowed, "0.0.0.0:9100"), "0.0.0.0:9100 10.0.0.2");
  EXPECT_THAT(metrics({}, "0.0.0.0:9100"), HasSubstr("insecureAllowPlaintextMetricsOffLoopback: true"));
}

TEST(WorkerAddress, FlagsComeFirst) {
  EXPECT_EQ(choose({.listen = "10.1.0.2:7200", .network = {.control = "10.0.0.2"}, .join = "10.0.0.1:8001"}),
            "10.1.0.2:7200 10.1.0.2 10.1.0.2:0");
  EXPECT_EQ(choose({.listen = "0.0.0.0:7200", .data = "10.1.0.2:7300", .join = "10.0.0.1:8001"}),
            "0.0.0.0:7200 10.0.0.2 10.1.0.2:7300");
  EXPECT_EQ(choose({.listen = "0.0.0.0:7200", .advertise = "decode.example", .join = "10.0.0.1:8001"}),
            "0.0.0.0:7200 decode.example 10.0.0.2:0");
  EXPECT_THAT(choose({.listen = "eth0", .join = "10.0.0.1:8001"}),
              HasSubstr("--listen eth0: want an address"));
  EXPECT_THAT(choose({.data = "0.0.0.0:1", .join = "10.0.0.1:8001"}), HasSubstr("want one address"));
}

TEST(WorkerAddress, NothingIsOnTheNetworkThatNobodyAllowed) {
  const auto why = [](bool control, bool data) {
    return std::string(
        choose_addresses({.join = "10.0.0.1:8001", .control_protected = control, .data_protected = data},
                         machine())
            .status()
            .message());
  };
  EXPECT_THAT(why(false, true), HasSubstr("control.insecureAllowPlaintextOffLoopback: true"));
  EXPECT_THAT(why(true, false), HasSubstr("transfer.insecureAllowPlaintextOffLoopback: true"));
  EXPECT_EQ(why(true, true), "");
  EXPECT_TRUE(choose_addresses({.join = "127.0.0.1:8001"}, machine()).ok());
}

TEST(WorkerAddress, ThisMachineHasARouteToItself) {
  const LocalNetwork here = local_network();
  EXPECT_THAT(here.addresses(), ::testing::Contains("127.0.0.1"));
  const auto source = here.source_of("127.0.0.1");
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(*source, "127.0.0.1");
  EXPECT_FALSE(here.source_of("no-such-host.invalid").ok());
}

TEST(HostAddress, HostAndPort) {
  EXPECT_EQ(split_host_port("10.0.0.1:8001")->port, 8001);
  EXPECT_EQ(split_host_port("[::1]:80")->host, "::1");
  for (const char* bad : {"", "8001", ":8001", "h:", "h:65536", "h:-1", "::1:80", "h:8x"})
    EXPECT_FALSE(split_host_port(bad)) << bad;
  EXPECT_EQ(join_host_port("::1", 80), "[::1]:80");
  EXPECT_EQ(join_host_port("a", 80), "a:80");
}

TEST(HostAddress, Networks) {
  EXPECT_TRUE(in_network("10.0.0.77", "10.0.0.64/26"));
  EXPECT_FALSE(in_network("10.0.0.128", "10.0.0.64/26"));
  EXPECT_TRUE(in_network("10.0.0.1", "0.0.0.0/0"));
  EXPECT_TRUE(in_network("fd00::7", "fd00::/16"));
  EXPECT_FALSE(in_network("10.0.0.1", "fd00::/16"));
  for (const char* bad : {"10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "x/8"})
    EXPECT_FALSE(is_network(bad)) << bad;
  EXPECT_FALSE(is_loopback_host("127.example.org"));
  EXPECT_TRUE(is_loopback_host("127.0.0.1"));
}

}  // namespace
}  // namespace baton::cli
