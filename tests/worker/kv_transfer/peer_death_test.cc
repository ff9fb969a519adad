// I8: a peer's death never ends my process. Real processes, killed and stopped in mid-transfer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>

#include "base/rng.h"
#include "tests/transport/data/plane_fixture.h"
#include "tests/worker/kv_transfer/peer_process.h"
#include "transport/data/process_data_plane.h"
#include "worker/kv_transfer/kv_exchange_agent.h"

namespace baton::worker {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

class VictimProcess {
 public:
  VictimProcess(const std::string& role, const std::string& lane, uint64_t incarnation, int port = 0)
      : ref_{"victim", Incarnation(incarnation)} {
    int pipes[2];
    if (::pipe(pipes) != 0) return;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipes[1], 1);
    posix_spawn_file_actions_addclose(&actions, pipes[0]);
    posix_spawn_file_actions_addclose(&actions, pipes[1]);
    std::string arguments[] = {PEER_PROCESS, role, lane, std::to_string(incarnation), std::to_string(port)};
    char* argv[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(),
                    arguments[3].data(), arguments[4].data(), nullptr};
    EXPECT_EQ(posix_spawn(&pid_, PEER_PROCESS, &actions, nullptr, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    ::close(pipes[1]);
    read_address(pipes[0]);
    ::close(pipes[0]);
  }
  ~VictimProcess() { kill(); }
  void signal(int number) const { ::kill(pid_, number); }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  WorkerDescription description() const { return {.ref = ref_, .data_address = address_}; }
  const WorkerRef& ref() const { return ref_; }
  int port() const { return std::stoi(address_.substr(address_.rfind(':') + 1)); }

 private:
  // The line "address host:port"; UCX may write warnings to stdout before it.
  void read_address(int fd) {
    const std::string key = "address ";
    std::string line;
    for (char c; ::read(fd, &c, 1) == 1;) {
      if (c != '\n') {
        line += c;
      } else if (line.starts_with(key)) {
        address_ = line.substr(key.size());
        return;
      } else {
        line.clear();
      }
    }
  }

  pid_t pid_ = -1;
  WorkerRef ref_;
  std::string address_;
};

// The process that must not die, in the other role. Its clock can be put forward.
class Survivor {
 public:
  explicit Survivor(const std::string& lane, bool sink) : sink_(sink) {
    transport::DataPlaneOptions options{.identity = {.self = {"survivor", Incarnation(1)},
                                                     .host_id = transport::host_id(),
                                                     .kv_layout_hash = kv_layout_hash(geometry, "test")},
                                        .lanes = *transport::parse_lanes(lane),
                                        .pool_bytes = geometry.pool_bytes()};
    plane = *transport::make_process_data_plane(options);
    agent =
        *KvExchangeAgent::create(*plane, {.geometry = geometry,
                                          .events = [this](KvEvent event) { on_event(event); },
                                          .peers = [this](const PeerReport& r) { reports.push_back(r); }});
  }

  Instant now() const { return start_ + (std::chrono::steady_clock::now() - start_) + jump; }
  void step() {
    const Instant at = now();
    if (agent->do_work(at) == 0) plane->wait(1ms);
  }
  bool until(const std::function<bool()>& done) {
    return transport::drive([&] { step(); }, done);
  }
  bool connect(const VictimProcess& victim) {
    reports.clear();
    agent->connect(victim.description());
    return until([&] {
             return plane->connected(victim.ref()) || (!reports.empty() && !reports.back().connected);
           }) &&
           plane->connected(victim.ref());
  }
  // Keeps four transfers open with this life of the victim; it counts its own from 1 too.
  void begin(const WorkerRef& victim) {
    victim_ = victim;
    last_ = 0;
    slots_.clear();
    slots_.resize(kSlots);
    for (uint32_t slot = 0; slot < kSlots; ++slot) next(slot);
  }
  void stop() { victim_.reset(); }

  const kernels::KvGeometry geometry = process_geometry();
  std::unique_ptr<transport::DataPlane> plane;
  std::unique_ptr<KvExchangeAgent> agent;
  std::vector<PeerReport> reports;
  Duration jump{};
  uint64_t completed = 0, failed = 0, wrong = 0;
  std::string last_error;

 private:
  std::vector<BlockId> blocks(uint32_t slot) const {
    std::vector<BlockId> out;
    for (uint32_t i = 0; i < kSlotBlocks; ++i) out.emplace_back(slot * kSlotBlocks + i);
    return out;
  }
  void next(uint32_t slot) {
    if (!victim_) return;
    const TransferId id(++last_);
    slots_[slot] = id;
    const std::vector<uint32_t> generations(kSlotBlocks, 1);
    if (sink_) {
      (void)agent->expect({.transfer = id,
                           .source = *victim_,
                           .prompt_tokens = kPrompt,
                           .blocks = blocks(slot),
                           .generations = generations});
      return;
    }
    if (!agent
             ->send({.transfer = id,
                     .destination = *victim_,
                     .prompt_tokens = kPrompt,
                     .blocks = blocks(slot),
                     .generations = generations})
             .ok())
      return;
    agent->finish(id, {}, FinishReason::kNone);
  }
  uint32_t slot_of(TransferId id) const {
    return static_cast<uint32_t>(std::find(slots_.begin(), slots_.end(), id) - slots_.begin());
  }
  void on_event(const KvEvent& event) {
    if (const auto* landed = std::get_if<KvLanded>(&event)) {
      const uint32_t slot = slot_of(landed->transfer);
      check(slot, landed->transfer);
      ++completed;
      next(slot);
    } else if (const auto* drained = std::get_if<KvDrained>(&event)) {
      const uint32_t slot = slot_of(drained->transfer);
      drained->error.empty() ? ++completed : ++failed;
      if (!drained->error.empty()) last_error = drained->error;
      next(slot);
    }
  }
  void check(uint32_t slot, TransferId id) {
    const auto mine = blocks(slot);
    for (int layer = 0; layer < geometry.layers; ++layer)
      for (uint32_t i = 0; i < kSlotBlocks; ++i)
        if (!piece_is(plane->pool().data() + geometry.piece_offset(layer, mine[i]), geometry.piece_bytes(),
                      id.value(), layer, i))
          ++wrong;
  }

  const bool sink_;
  const Instant start_ = std::chrono::steady_clock::now();
  std::optional<WorkerRef> victim_;
  std::vector<TransferId> slots_;
  uint64_t last_ = 0;
};

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
INSTANTIATE_TEST_SUITE_P(Lanes, PeerDeathTest, testing::Values("local", "socket", "am"),
                         [](const auto& info) { return std::string(info.param); });

// kill -9 of the sender, each time somewhere else in a stream of transfers.
TEST_P(PeerDeathTest, KilledSender) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
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

TEST_P(PeerDeathTest, KilledReceiver) {
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
  EXPECT_THAT(survivor.last_error, HasSubstr("too long"));
  EXPECT_EQ(survivor.agent->counters().deadlines, static_cast<uint64_t>(open));
  EXPECT_TRUE(survivor.plane->connected(victim.ref()));
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
