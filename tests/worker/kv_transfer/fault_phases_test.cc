// I8, I2: a peer that is killed or stopped in each phase of a transfer, on this host and on another one.
// BATON_FAULT_LIVES: lives of each (faults.sh: 30 of all); without it, 30 on this host and 3 on the other and
// of `get`.
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <utility>

#include "base/rng.h"
#include "tests/support/seed.h"
#include "tests/worker/kv_transfer/two_peers.h"

namespace baton::worker {
namespace {

constexpr uint64_t kTransferBytes = 3 << 20;

enum class Phase { kBeforeTheGrant, kInTransfer, kLastLayer, kDecode };

struct Fault {
  const char* lane;
  const char* victim;  // its role
  Phase phase;
  int signal;
  bool other_host;
};

uint64_t lives_of(const Fault& f) {
  const char* wanted = std::getenv("BATON_FAULT_LIVES");
  const bool few = f.other_host || std::string(f.lane) == "get";
  return wanted ? std::strtoull(wanted, nullptr, 10) : few ? 3 : 30;
}

std::string name_of(const Fault& f) {
  const char* phases[] = {"before_the_grant", "in_transfer", "last_layer", "decode"};
  const std::string lane = std::string(f.lane) == "socket-tls" ? "socket_tls" : f.lane;
  return lane + "_" + f.victim + "_" + phases[static_cast<int>(f.phase)] +
         (f.signal == SIGKILL ? "_killed" : "_stopped") + (f.other_host ? "_on_another_host" : "");
}

std::vector<Fault> faults() {
  std::vector<Fault> all;
  for (const auto& [lane, other_host] : {std::pair{"local", false},
                                         {"socket", false},
                                         {"get", false},
                                         {"socket", true},
                                         {"socket-tls", true},
                                         {"am", true},
                                         {"get", true}})
    for (const char* victim : {"source", "sink"}) {
      // UCX aborts a sender whose reader dies while it answers in RDMA's place (docs/adr/0016).
      if (std::string(lane) == "get" && std::string(victim) == "sink") continue;
      for (const Phase phase :
           {Phase::kBeforeTheGrant, Phase::kInTransfer, Phase::kLastLayer, Phase::kDecode})
        for (const int signal : {SIGKILL, SIGSTOP}) all.push_back({lane, victim, phase, signal, other_host});
    }
  return all;
}

class FaultPhasesTest : public testing::TestWithParam<Fault> {
 protected:
  // Goes to the phase with the victim's current life.
  bool reach(Survivor& survivor, Rng& rng) const {
    const bool sink = std::string(GetParam().victim) == "source";
    const uint64_t completed = survivor.completed;
    const uint64_t received = survivor.agent->counters().bytes_received;
    // As the source's side sees it, a transfer is over when the receiver confirms it.
    const auto moved = [&](uint64_t bytes) {
      return sink ? survivor.agent->counters().bytes_received - received >= bytes
                  : (survivor.completed - completed) * kTransferBytes >= bytes;
    };
    switch (GetParam().phase) {
      case Phase::kBeforeTheGrant:
        for (uint64_t i = 1 + rng.below(20); i > 0; --i) survivor.step();
        return survivor.agent->open_transfers() == kSlots;
      case Phase::kInTransfer: {
        const uint64_t bytes = 1 + rng.below(kSlots * kTransferBytes / 2);
        return survivor.until([&] { return moved(bytes); });
      }
      case Phase::kLastLayer: {  // all slots move at once: 7 of 8 layers of each
        const uint64_t bytes = kSlots * kTransferBytes / 8 * 7;
        return survivor.until([&] { return moved(bytes); });
      }
      case Phase::kDecode: {
        const uint64_t enough = completed + kSlots + rng.below(4);
        return survivor.until([&] { return survivor.completed >= enough; });
      }
    }
    return false;
  }
  void live_and_let_die(TwoPeers* peers);  // null: on this host
  static void late_words_touch_nothing(Survivor& survivor, VictimProcess& victim);
};

INSTANTIATE_TEST_SUITE_P(Faults, FaultPhasesTest, testing::ValuesIn(faults()),
                         [](const auto& info) { return name_of(info.param); });

void FaultPhasesTest::live_and_let_die(TwoPeers* peers) {
  const Fault& fault = GetParam();
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
  Rng rng(seed);
  const bool sink = std::string(fault.victim) == "source";
  const auto made = peers ? peers->survivor(fault.lane, sink) : std::make_unique<Survivor>(fault.lane, sink);
  Survivor& survivor = *made;
  const std::string role = fault.phase == Phase::kBeforeTheGrant ? "silent" : fault.victim;
  for (uint64_t life = 1; life <= lives_of(fault); ++life) {
    const auto victim = peers ? peers->victim(role, fault.lane, life)
                              : std::make_unique<VictimProcess>(role, fault.lane, life);
    ASSERT_TRUE(survivor.connect(*victim)) << survivor.reports.back().error;
    ASSERT_EQ(survivor.reports.back().lane, fault.lane);
    survivor.begin(victim->ref());
    ASSERT_TRUE(reach(survivor, rng));
    survivor.stop();
    victim->signal(fault.signal);
    if (fault.signal == SIGSTOP) {
      for (int i = 0; i < 20; ++i) survivor.step();  // what was on its way
      survivor.jump += 11s;
    }
    ASSERT_TRUE(survivor.until([&] { return survivor.agent->open_transfers() == 0; }));
    EXPECT_TRUE(survivor.keeps_what_landed());
    if (fault.signal == SIGSTOP) late_words_touch_nothing(survivor, *victim);
    ASSERT_TRUE(survivor.until([&] { return !survivor.plane->connected(victim->ref()); }));
  }
  EXPECT_EQ(survivor.wrong, 0u);
  // A source's ids of earlier lives are refused at once and count as failed.
  EXPECT_GE(survivor.completed + survivor.failed, lives_of(fault) * kSlots);
  if (fault.phase == Phase::kBeforeTheGrant) {
    EXPECT_EQ(survivor.completed, 0u);
  }
}

// The blocks are somebody else's now; what a stopped victim still has to say touches nothing.
void FaultPhasesTest::late_words_touch_nothing(Survivor& survivor, VictimProcess& victim) {
  std::fill(survivor.plane->pool().begin(), survivor.plane->pool().end(), std::byte{0x5a});
  victim.signal(SIGCONT);
  for (int i = 0; i < 30; ++i) survivor.step();
  for (const std::byte b : survivor.plane->pool()) ASSERT_EQ(b, std::byte{0x5a});
  victim.kill();
}

TEST_P(FaultPhasesTest, TheSurvivorGetsItsBlocksBackAndServesTheNextLife) {
  if (!GetParam().other_host) return live_and_let_die(nullptr);
  const auto peers = TwoPeers::make();
  if (!peers.ok()) GTEST_SKIP() << peers.status();
  (*peers)->on_host_0([&] { live_and_let_die(peers->get()); });
}

}  // namespace
}  // namespace baton::worker
