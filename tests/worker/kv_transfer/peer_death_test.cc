// I8: a peer's death never ends my process. Real processes, killed and stopped in mid-transfer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <random>

#include "base/rng.h"
#include "tests/support/seed.h"
#include "tests/worker/kv_transfer/victim.h"

namespace baton::worker {
namespace {

using testing::HasSubstr;

size_t open_descriptors() {
  size_t n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++n;
  return n;
}

size_t pool_mappings() {
  std::ifstream maps("/proc/self/maps");
  size_t n = 0;
  for (std::string line; std::getline(maps, line);)
    n += line.find("memfd:baton-kv") != std::string::npos ? 1 : 0;
  return n;
}

class PeerDeathTest : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Lanes, PeerDeathTest, testing::Values("local", "socket", "socket-tls", "am", "get"),
                         name_of_lane);

// kill -9 of the sender, each time somewhere else in a stream of transfers.
TEST_P(PeerDeathTest, KilledSender) {
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
  Rng rng(seed);
  Survivor survivor(GetParam(), true);
  size_t descriptors = 0;
  for (uint64_t life = 1; life <= 24; ++life) {
    VictimProcess victim("source", GetParam(), life);
    ASSERT_TRUE(survivor.connect(victim)) << survivor.reports.back().error;
    EXPECT_EQ(survivor.reports.back().lane, GetParam());
    survivor.begin(victim.ref());
    const uint64_t before = survivor.agent->counters().bytes_received;
    const uint64_t moved = before + 1 + rng.below(12 << 20);
    ASSERT_TRUE(survivor.until([&] { return survivor.agent->counters().bytes_received >= moved; }));
    survivor.stop();
    victim.kill();
    ASSERT_TRUE(survivor.until([&] { return survivor.agent->open_transfers() == 0; }));
    EXPECT_FALSE(survivor.plane->connected(victim.ref()));
    if (life == 4) descriptors = open_descriptors();
  }
  EXPECT_EQ(survivor.wrong, 0u);
  EXPECT_GE(survivor.failed, 24u);
  EXPECT_LE(open_descriptors(), descriptors + 2);
  EXPECT_LE(pool_mappings(), 1u);  // the peers' pools are gone
}

// Not `get`: UCX aborts a sender whose reader dies while it answers in RDMA's place (docs/adr/0016).
class ReceiverDeathTest : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Lanes, ReceiverDeathTest, testing::Values("local", "socket", "socket-tls", "am"),
                         name_of_lane);

TEST_P(ReceiverDeathTest, KilledReceiver) {
  Survivor survivor(GetParam(), false);
  for (uint64_t life = 1; life <= 6; ++life) {
    VictimProcess victim("sink", GetParam(), life);
    ASSERT_TRUE(survivor.connect(victim)) << survivor.reports.back().error;
    survivor.begin(victim.ref());
    const uint64_t enough = survivor.completed + 3 + life;
    ASSERT_TRUE(survivor.until([&] { return survivor.completed >= enough; }));
    survivor.stop();
    victim.kill();
    ASSERT_TRUE(survivor.until([&] { return survivor.agent->open_transfers() == 0; }));
  }
  EXPECT_GT(survivor.failed, 0u);
}

// UCX does not notice: our own deadline does. The victim's late pieces meet transfers that are over.
TEST_P(PeerDeathTest, StoppedSender) {
  Survivor survivor(GetParam(), true);
  VictimProcess victim("source", GetParam(), 1);
  ASSERT_TRUE(survivor.connect(victim));
  survivor.begin(victim.ref());
  ASSERT_TRUE(survivor.until([&] { return survivor.completed >= 3; }));
  survivor.stop();
  victim.signal(SIGSTOP);
  for (int i = 0; i < 20; ++i) survivor.step();  // what was on its way
  const int open = survivor.agent->open_transfers();
  ASSERT_GT(open, 0);
  survivor.jump = 11s;
  ASSERT_TRUE(survivor.until([&] { return survivor.agent->open_transfers() == 0; }));
  if (std::string(GetParam()) == "get" && !survivor.plane->connected(victim.ref())) {
    // A read that the victim does not serve: only the end of the endpoint gives its place back.
    EXPECT_THAT(survivor.last_error, HasSubstr("did not end in time"));
  } else {
    EXPECT_THAT(survivor.last_error, HasSubstr("too long"));
    EXPECT_EQ(survivor.agent->counters().deadlines, static_cast<uint64_t>(open));
    EXPECT_TRUE(survivor.plane->connected(victim.ref()));
  }
  std::fill(survivor.plane->pool().begin(), survivor.plane->pool().end(), std::byte{0x5a});
  victim.signal(SIGCONT);
  for (int i = 0; i < 300; ++i) survivor.step();
  for (const std::byte b : survivor.plane->pool()) ASSERT_EQ(b, std::byte{0x5a});
  EXPECT_EQ(survivor.wrong, 0u);
}

// F8: the same port, another life. Whoever wants the old one is told.
TEST_P(PeerDeathTest, RestartOnTheSamePort) {
  Survivor survivor(GetParam(), true);
  auto old = std::make_unique<VictimProcess>("source", GetParam(), 1);
  const int port = old->port();
  const WorkerDescription before = old->description();
  ASSERT_TRUE(survivor.connect(*old));
  survivor.begin(old->ref());
  ASSERT_TRUE(survivor.until([&] { return survivor.completed >= 2; }));
  survivor.stop();
  old->kill();
  VictimProcess young("source", GetParam(), 2, port);
  ASSERT_EQ(young.port(), port);
  ASSERT_TRUE(survivor.until([&] { return survivor.agent->open_transfers() == 0; }));
  survivor.reports.clear();
  survivor.agent->connect(before);
  ASSERT_TRUE(survivor.until([&] { return !survivor.reports.empty(); }));
  EXPECT_FALSE(survivor.reports.back().connected);
  EXPECT_THAT(survivor.reports.back().error, HasSubstr("incarnation"));
  ASSERT_TRUE(survivor.connect(young)) << survivor.reports.back().error;
  survivor.begin(young.ref());
  const uint64_t enough = survivor.completed + 3;
  ASSERT_TRUE(survivor.until([&] { return survivor.completed >= enough; }));
  survivor.stop();
  EXPECT_EQ(survivor.wrong, 0u);
}

}  // namespace
}  // namespace baton::worker
