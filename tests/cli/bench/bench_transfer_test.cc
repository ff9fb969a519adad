#include "cli/bench/bench_transfer.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <boost/json.hpp>
#include <csignal>

#include "base/cat.h"
#include "tests/support/network_hosts.h"

namespace baton::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

BenchTransferOptions small() {
  return {.lanes = {"local", "socket", "socket-tls"},
          .pieces = {4096, 65536},
          .pool_bytes = 8 << 20,
          .total_bytes = 4 << 20,
          .repetitions = 2};
}

TEST(BenchTransfer, EveryLaneStandsBesideItsBaseline) {
  const auto report = measure_transfer(small());
  ASSERT_TRUE(report.ok()) << report.status();
  std::vector<std::string> lanes;
  for (const TransferRow& row : report->rows) {
    lanes.push_back(row.lane);
    EXPECT_GT(row.gb_s, 0);
    EXPECT_GT(row.cpu_s_per_gb, 0);
    EXPECT_EQ(row.of_baseline > 0, row.lane == "local" || row.lane.starts_with("socket"));
  }
  EXPECT_THAT(lanes, ElementsAre("memcpy", "memcpy", "memcpy_nt", "memcpy_nt", "rawsocket", "rawsocket",
                                 "local", "local", "socket", "socket", "socket-tls", "socket-tls"));
  EXPECT_EQ(report->rows[7].baseline, "memcpy");
  EXPECT_EQ(report->rows[9].baseline, "rawsocket");
  EXPECT_EQ(report->rows[9].piece_bytes, 65536u);
  EXPECT_EQ(report->rows[9].repetitions, 2);
  const auto parsed = boost::json::parse(to_json(*report));
  EXPECT_EQ(parsed.at("rows").as_array().size(), 12u);
  EXPECT_EQ(parsed.at("rows").at(6).at("lane").as_string(), "local");
  EXPECT_THAT(to_table(*report), HasSubstr("of rawsocket"));
}

TEST(BenchTransfer, TheProcessesOfAPairMayBeOnHostsOfTheirOwn) {
  auto hosts = NetworkHosts::make(2);
  if (!hosts.ok()) GTEST_SKIP() << hosts.status();
  BenchTransferOptions options = small();
  options.lanes = {"socket", "am"};
  options.pieces = {65536};
  std::array<pid_t, 2> living{};
  for (int i = 0; i < 2; ++i) {
    int arrived[2];
    ASSERT_EQ(::pipe(arrived), 0);
    const pid_t child = (*hosts)->fork_inside(i, [&] {
      (void)!::write(arrived[1], "", 1);
      return ::pause();
    });
    living[static_cast<size_t>(i)] = child;
    ::close(arrived[1]);
    char byte;
    EXPECT_EQ(::read(arrived[0], &byte, 1), 1);
    ::close(arrived[0]);
    (i == 0 ? options.sender : options.receiver) = {.network = cat("/proc/", child, "/ns/net"),
                                                    .address = (*hosts)->address(i)};
  }
  const auto report = measure_transfer(options);  // nobody else has these addresses
  for (const pid_t child : living) {
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
  }
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->rows.size(), 5u);
  EXPECT_EQ(report->rows.back().lane, "am");
  EXPECT_GT(report->rows.back().of_baseline, 0);
}

TEST(BenchTransfer, WhatCannotBeMeasuredIsRefused) {
  const auto refused = [](auto change) {
    BenchTransferOptions options = small();
    change(options);
    return std::string(measure_transfer(options).status().message());
  };
  EXPECT_THAT(refused([](auto& o) { o.pieces = {100}; }), HasSubstr("multiple of 64"));
  EXPECT_THAT(refused([](auto& o) { o.pieces = {4 << 20}; }), HasSubstr("a quarter of the pool"));
  EXPECT_THAT(refused([](auto& o) { o.pieces = {}; }), HasSubstr("no pieces"));
  EXPECT_THAT(refused([](auto& o) { o.lanes = {"auto"}; }), HasSubstr("lane: want"));
  EXPECT_THAT(refused([](auto& o) { o.lanes = {"rdma"}; }), HasSubstr("lane: want"));
  EXPECT_THAT(refused([](auto& o) { o.sender.address = "here"; }), HasSubstr("here"));
  EXPECT_THAT(refused([](auto& o) { o.receiver.network = "no-such-host"; }), HasSubstr("not between hosts"));
  EXPECT_THAT(refused([](auto& o) {
                o.lanes = {"socket"};
                o.receiver.network = "no-such-host";
              }),
              HasSubstr("/run/netns/no-such-host"));
}

}  // namespace
}  // namespace baton::cli
