#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/transport/data/plane_fixture.h"
#include "tests/worker/kv_transfer/model_with.h"
#include "tests/worker/kv_transfer/peer_process.h"
#include "transport/data/process_data_plane.h"
#include "worker/kv_transfer/kv_exchange_agent.h"

// Real processes that are killed and stopped, and the one that must not die.
namespace baton::worker {

using namespace std::chrono_literals;

// "socket_tls": a test's name has no hyphen.
inline std::string name_of_lane(const testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::ranges::replace(name, '-', '_');
  return name;
}

class VictimProcess {
 public:
  VictimProcess(const std::string& role, const std::string& lane, uint64_t incarnation, int port = 0,
                const std::string& address = "127.0.0.1")
      : ref_{"victim", Incarnation(incarnation)} {
    (void)security_of(lane);  // certificates that it will find
    int pipes[2];
    if (::pipe(pipes) != 0) return;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipes[1], 1);
    posix_spawn_file_actions_addclose(&actions, pipes[0]);
    posix_spawn_file_actions_addclose(&actions, pipes[1]);
    std::string arguments[] = {PEER_PROCESS,         role,   lane, std::to_string(incarnation),
                               std::to_string(port), address};
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, PEER_PROCESS, &actions, nullptr, argv.data(), environ), 0);
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
  Survivor(const std::string& lane, bool sink, const std::string& address = "127.0.0.1") : sink_(sink) {
    transport::DataPlaneOptions options{.identity = {.self = {"survivor", Incarnation(1)},
                                                     .host_id = transport::host_id(),
                                                     .kv_layout_hash = kv_layout_hash(geometry, "test")},
                                        .listen_host = address,
                                        .lanes = lanes_of(lane),
                                        .tls = security_of(lane),
                                        .pool_bytes = geometry.pool_bytes()};
    plane = *transport::make_process_data_plane(options);
    agent =
        *KvExchangeAgent::create(*plane, {.geometry = geometry,
                                          .layout = "kv-head-test",
                                          .model = model_with(geometry),
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
  // After stop(), when all transfers ended: the victim goes on with its next ones, and so do we.
  void resume(const WorkerRef& victim) {
    victim_ = victim;
    for (uint32_t slot = 0; slot < kSlots; ++slot) next(slot);
  }
  // The transfers that landed last in their slots are still there.
  bool keeps_what_landed() const {
    for (const auto& [slot, id] : landed_)
      if (!holds(slot, id)) return false;
    return true;
  }

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
    landed_.erase(slot);
    if (sink_) {
      (void)agent->expect({.transfer = id,
                           .source = *victim_,
                           .prompt_tokens = kPrompt,
                           .blocks = blocks(slot),
                           .generations = std::vector<uint32_t>(kSlotBlocks, 1)});
      return;
    }
    if (!agent
             ->send(
                 {.transfer = id, .destination = *victim_, .prompt_tokens = kPrompt, .blocks = blocks(slot)})
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
      if (!holds(slot, landed->transfer)) ++wrong;
      landed_[slot] = landed->transfer;
      ++completed;
      next(slot);
    } else if (const auto* drained = std::get_if<KvDrained>(&event)) {
      const uint32_t slot = slot_of(drained->transfer);
      drained->error.empty() ? ++completed : ++failed;
      if (!drained->error.empty()) last_error = drained->error;
      next(slot);
    }
  }
  bool holds(uint32_t slot, TransferId id) const {
    const auto mine = blocks(slot);
    for (int layer = 0; layer < geometry.layers; ++layer)
      for (uint32_t i = 0; i < kSlotBlocks; ++i)
        if (!piece_is(plane->pool().data() + geometry.piece_offset(layer, mine[i]), geometry.piece_bytes(),
                      id.value(), layer, i))
          return false;
    return true;
  }

  const bool sink_;
  const Instant start_ = std::chrono::steady_clock::now();
  std::optional<WorkerRef> victim_;
  std::vector<TransferId> slots_;
  std::map<uint32_t, TransferId> landed_;
  uint64_t last_ = 0;
};

}  // namespace baton::worker
