#include "cli/bench/bench_transfer.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <boost/json.hpp>
#include <csignal>
#include <utility>

#include "base/cat.h"
#include "cli/bench/remote_receiver.h"
#include "cli/cluster/version.h"
#include "tests/support/network_hosts.h"
#include "transport/data/socket_address.h"

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

// ---- two machines

// `--serve` in a process of its own.
class OtherMachine {
 public:
  OtherMachine() {
    int said[2];
    EXPECT_EQ(::pipe(said), 0);
    process_ = ::fork();
    if (process_ == 0) {
      const auto listening = [&](const std::string& address) {
        (void)!::write(said[1], address.data(), address.size());
      };
      const auto end =
          serve_receivers({.address = "127.0.0.1:0", .most_pool_bytes = 16 << 20, .listening = listening});
      ::_exit(end.ok() ? 0 : 1);
    }
    ::close(said[1]);
    std::array<char, 64> text{};
    EXPECT_GT(::read(said[0], text.data(), text.size() - 1), 0);
    ::close(said[0]);
    address = text.data();
  }
  ~OtherMachine() { end(); }
  void end() {
    if (process_ <= 0) return;
    ::kill(process_, SIGKILL);
    ::waitpid(std::exchange(process_, -1), nullptr, 0);
  }
  // A connection of its own, and what is answered to these lines.
  std::string answers(const std::string& lines) const {
    const auto host_port = *transport::split_address(address);
    const auto to = *transport::parse_address(host_port.first, host_port.second);
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    EXPECT_EQ(::connect(fd, to.get(), to.size), 0);
    EXPECT_EQ(::send(fd, lines.data(), lines.size(), 0), static_cast<ssize_t>(lines.size()));
    ::shutdown(fd, SHUT_WR);
    std::string all;
    std::array<char, 256> some;
    for (ssize_t n; (n = ::recv(fd, some.data(), some.size(), 0)) > 0;)
      all.append(some.data(), static_cast<size_t>(n));
    ::close(fd);
    return all;
  }

  std::string address;

 private:
  pid_t process_ = -1;
};

TEST(BenchTransfer, TheReceiversMayBeOnAnotherMachine) {
  OtherMachine there;
  BenchTransferOptions options = small();
  options.lanes = {"socket", "am"};
  options.pieces = {65536};
  options.to = there.address;
  for (int again = 0; again < 2; ++again) {
    const auto report = measure_transfer(options);
    ASSERT_TRUE(report.ok()) << report.status();
    ASSERT_EQ(report->rows.size(), 5u);
    EXPECT_EQ(report->rows.back().lane, "am");
    EXPECT_GT(report->rows.back().of_baseline, 0);
    EXPECT_GT(report->rows.back().cpu_s_per_gb, 0);
    EXPECT_EQ(boost::json::parse(to_json(*report)).at("to").as_string(), there.address);
  }
  const auto refused = [&](auto change) {
    BenchTransferOptions changed = options;
    change(changed);
    return std::string(measure_transfer(changed).status().message());
  };
  EXPECT_THAT(refused([](auto& o) { o.lanes = {"local"}; }),
              HasSubstr("lane local: not between two machines"));
  EXPECT_THAT(refused([](auto& o) { o.lanes = {"socket-tls"}; }), HasSubstr("not between two machines"));
  EXPECT_THAT(refused([](auto& o) { o.pool_bytes = 32 << 20; }), HasSubstr("16777216 at most here"));
  EXPECT_THAT(refused([](auto& o) { o.sender.network = "a"; }), HasSubstr("without --sender"));
  EXPECT_THAT(refused([](auto& o) { o.to = "there:1"; }), HasSubstr("there"));
  there.end();
  EXPECT_THAT(refused([](auto&) {}), HasSubstr("no `baton bench transfer --serve` at 127.0.0.1:"));
}

TEST(BenchTransfer, StrangersAreAnsweredInWordsAndLeaveNothing) {
  OtherMachine there;
  const std::string hello = cat("baton-transfer ", kVersion, "\n");
  EXPECT_THAT(there.answers("GET / HTTP/1.1\n"), HasSubstr("error here is baton-transfer "));
  EXPECT_THAT(there.answers(std::string(5000, 'x')), testing::IsEmpty());
  EXPECT_EQ(
      there.answers(hello + "start socket 99999999999 1\nstart local 65536 1\nstart x -1\nend 0\ncpu x\n\n"),
      "ok\nerror a pool of 99999999999 bytes: 16777216 at most here (--pool-mib)\n"
      "error lane local: not between two machines\n" +
          std::string("error not understood\n") +
          "error not understood\nerror not understood\n"
          "error not understood\n");
  std::string many = hello;
  for (int i = 0; i < 9; ++i) many += "start rawsocket 65536 1\n";
  EXPECT_THAT(there.answers(many + "end 0\nstart rawsocket 65536 1\n"),
              testing::AllOf(HasSubstr("ok 7 "), HasSubstr("error too many at once\nok\nok 8 ")));
  EXPECT_THAT(std::string(serve_receivers({.address = "192.0.2.1:0"}).message()),
              HasSubstr("--insecure-allow-plaintext-off-loopback"));
  EXPECT_THAT(std::string(serve_receivers({.address = "0.0.0.0:0", .insecure_plaintext = true}).message()),
              HasSubstr("want one address of this machine"));
  EXPECT_THAT(std::string(serve_receivers({.address = "192.0.2.1:0", .insecure_plaintext = true}).message()),
              HasSubstr("listen on 192.0.2.1:0"));
}

}  // namespace
}  // namespace baton::cli
