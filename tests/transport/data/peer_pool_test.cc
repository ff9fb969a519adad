#include "transport/data/peer_pool.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "tests/support/end_with.h"
#include "transport/data/host_id.h"

namespace baton::transport {
namespace {

constexpr size_t kBytes = 1 << 20;

TEST(PeerPool, SeesWhatTheOwnerWrites) {
  auto mine = SharedPool::create(kBytes, false);
  ASSERT_TRUE(mine.ok()) << mine.status();
  auto theirs = PeerPool::map((*mine)->ticket());
  ASSERT_TRUE(theirs.ok()) << theirs.status();
  std::memset((*mine)->bytes().data(), 7, kBytes);
  EXPECT_EQ((*theirs)->bytes()[kBytes - 1], std::byte{7});
  EXPECT_EQ(std::memcmp((*mine)->probe().data(), (*theirs)->probe().data(), kProbeBytes), 0);
}

TEST(PeerPool, ForgedTicketsAreRefused) {
  auto mine = SharedPool::create(kBytes, false);
  ASSERT_TRUE(mine.ok());
  const PoolTicket good = (*mine)->ticket();
  PoolTicket bad = good;
  bad.nonce[1] ^= 1;
  EXPECT_THAT(std::string(PeerPool::map(bad).status().message()), testing::HasSubstr("nonce"));
  bad = good;
  bad.pool_bytes += 4096;
  EXPECT_FALSE(PeerPool::map(bad).ok());
  bad.pool_bytes = ~uint64_t{0};
  EXPECT_FALSE(PeerPool::map(bad).ok());
  bad = good;
  bad.descriptor = 0;  // something that is open, but no pool
  EXPECT_FALSE(PeerPool::map(bad).ok());
  bad.descriptor = 1'000'000;
  EXPECT_FALSE(PeerPool::map(bad).ok());
  bad = good;
  bad.pid = 1u << 30;
  EXPECT_FALSE(PeerPool::map(bad).ok());
}

TEST(PeerPool, AFileThatMayShrinkIsRefused) {
  const int fd = ::memfd_create("baton-kv", MFD_CLOEXEC);
  ASSERT_EQ(::ftruncate(fd, kPoolStart + kBytes), 0);
  const PoolTicket ticket{.pid = static_cast<uint64_t>(::getpid()),
                          .descriptor = static_cast<uint32_t>(fd),
                          .pool_bytes = kBytes};
  EXPECT_THAT(std::string(PeerPool::map(ticket).status().message()), testing::HasSubstr("shrink"));
  ::close(fd);
}

// The reader lives on with all bytes when the owner is killed, and the owner cannot be made to write by it.
TEST(PeerPool, OutlivesItsOwner) {
  int pipes[2];
  ASSERT_EQ(::pipe(pipes), 0);
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) {
    if (!end_with(parent)) _exit(1);
    auto pool = SharedPool::create(kBytes, true);
    std::memset((*pool)->bytes().data(), 9, kBytes);
    const PoolTicket ticket = (*pool)->ticket();
    if (::write(pipes[1], &ticket, sizeof ticket) != sizeof ticket) _exit(1);
    while (true) ::pause();
  }
  PoolTicket ticket;
  ASSERT_EQ(::read(pipes[0], &ticket, sizeof ticket), static_cast<ssize_t>(sizeof ticket));
  auto pool = PeerPool::map(ticket);
  ASSERT_TRUE(pool.ok()) << pool.status();
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  for (size_t i = 0; i < kBytes; i += 512) ASSERT_EQ((*pool)->bytes()[i], std::byte{9});
  EXPECT_FALSE(PeerPool::map(ticket).ok());
  ::close(pipes[0]);
  ::close(pipes[1]);
}

TEST(PeerPool, NoMemoryIsAnError) {
  EXPECT_FALSE(SharedPool::create(0, false).ok());
  EXPECT_FALSE(SharedPool::create(size_t{1} << 50, false).ok());
}

TEST(HostId, IsStable) {
  EXPECT_FALSE(host_id().empty());
  EXPECT_EQ(host_id(), host_id());
}

TEST(HostId, ContainersOfOneMachineAreHostsOfTheirOwn) {
  EXPECT_TRUE(same_machine(host_id(), host_id()));
  EXPECT_TRUE(same_machine("boot/pid:[1]/net:[1]", "boot/pid:[2]/net:[2]"));
  EXPECT_FALSE(same_machine("boot/pid:[1]/net:[1]", "bool/pid:[1]/net:[1]"));
  EXPECT_FALSE(same_machine("", ""));  // nobody knows
}

}  // namespace
}  // namespace baton::transport
