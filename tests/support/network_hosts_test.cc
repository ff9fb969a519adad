#include "tests/support/network_hosts.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

namespace baton {
namespace {

sockaddr_in port_of(const std::string& address, uint16_t port) {
  sockaddr_in a{.sin_family = AF_INET, .sin_port = htons(port)};
  ::inet_pton(AF_INET, address.c_str(), &a.sin_addr);
  return a;
}

// Datagram sockets of two hosts, to see which packets arrive.
struct Ends {
  const NetworkHosts& hosts;
  int fd[2] = {-1, -1};

  explicit Ends(const NetworkHosts& h) : hosts(h) {
    for (int i = 0; i < 2; ++i)
      hosts.inside(i, [&] {
        fd[i] = ::socket(AF_INET, SOCK_DGRAM, 0);
        const sockaddr_in own = port_of(hosts.address(i), 7000);
        EXPECT_EQ(::bind(fd[i], reinterpret_cast<const sockaddr*>(&own), sizeof own), 0);
      });
  }
  ~Ends() {
    for (const int f : fd) ::close(f);
  }
  bool arrives(int from, int to) const {
    const sockaddr_in there = port_of(hosts.address(to), 7000);
    EXPECT_EQ(::sendto(fd[from], "x", 1, 0, reinterpret_cast<const sockaddr*>(&there), sizeof there), 1);
    pollfd entry{.fd = fd[to], .events = POLLIN, .revents = 0};
    char byte = 0;
    return ::poll(&entry, 1, 300) == 1 && ::recv(fd[to], &byte, 1, 0) == 1;
  }
};

TEST(NetworkHosts, PacketsRunUntilALinkIsCutOneWay) {
  auto made = NetworkHosts::make(2);
  if (!made.ok()) GTEST_SKIP() << made.status();
  NetworkHosts& hosts = **made;
  const Ends ends(hosts);
  EXPECT_TRUE(ends.arrives(0, 1));
  EXPECT_TRUE(ends.arrives(1, 0));
  ASSERT_TRUE(hosts.cut(0, 1).ok());
  EXPECT_FALSE(ends.arrives(0, 1));
  EXPECT_TRUE(ends.arrives(1, 0));
  ASSERT_TRUE(hosts.heal(0, 1).ok());
  EXPECT_TRUE(ends.arrives(0, 1));
}

TEST(NetworkHosts, AProgramSeesOnlyItsHost) {
  auto made = NetworkHosts::make(2);
  if (!made.ok()) GTEST_SKIP() << made.status();
  const pid_t child = (*made)->start_inside(
      1,
      {"sh", "-c",
       "ip -4 address show | grep -q 10.77.1.2 && test -e /sys/class/net/eth0 && ! ip link | grep -q host0"});
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(NetworkHosts, AForkedChildRunsInsideAndTheCallerStaysOutside) {
  auto made = NetworkHosts::make(1);
  if (!made.ok()) GTEST_SKIP() << made.status();
  const auto can_bind = [&] {
    const int fd = ::socket(AF_INET, SOCK_DGRAM, 0);
    const sockaddr_in own = port_of((*made)->address(0), 0);
    const bool bound = ::bind(fd, reinterpret_cast<const sockaddr*>(&own), sizeof own) == 0;
    ::close(fd);
    return bound;
  };
  const pid_t child = (*made)->fork_inside(0, [&] { return can_bind() ? 7 : 8; });
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_FALSE(can_bind());
}

TEST(NetworkHosts, ARateLimitHolds) {
  auto made = NetworkHosts::make(2);
  if (!made.ok()) GTEST_SKIP() << made.status();
  const absl::Status s = (*made)->limit_rate(1, 50);
  if (!s.ok()) GTEST_SKIP() << "no token bucket in this kernel: " << s;
  const Ends ends(**made);
  EXPECT_TRUE(ends.arrives(0, 1));
}

}  // namespace
}  // namespace baton
