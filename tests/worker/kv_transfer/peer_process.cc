// A worker to be killed: `peer_process source|sink|silent LANE INCARNATION PORT HOST`. Prints its data
// address, waits for the survivor to connect, then moves transfers 1, 2, 3, ... for ever, four at a time.
// `silent` only connects: it neither grants nor sends.
#include <sys/prctl.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>

#include "tests/support/network_hosts.h"
#include "tests/worker/kv_transfer/model_with.h"
#include "tests/worker/kv_transfer/peer_process.h"
#include "transport/data/host_id.h"
#include "transport/data/process_data_plane.h"
#include "worker/kv_transfer/kv_exchange_agent.h"

namespace baton::worker {
namespace {

class Peer {
 public:
  Peer(const std::string& role, transport::DataPlane& plane)
      : source_(role == "source"), silent_(role == "silent"), plane_(plane) {
    auto agent = KvExchangeAgent::create(plane, {.geometry = process_geometry(),
                                                 .layout = "kv-head-test",
                                                 .model = model_with(process_geometry()),
                                                 .events = [this](KvEvent event) { on_event(event); },
                                                 .peers = [this](const PeerReport& r) { on_peer(r); }});
    agent_ = *std::move(agent);
    // Told who it is; the way is the other one's to find.
    agent_->connect({.ref = {"survivor", Incarnation(1)}, .data_address = "nowhere"});
  }
  void run() {
    const SteadyClock clock;
    while (true) {
      if (agent_->do_work(clock.now()) == 0) agent_->wait(clock.now());
      while (!silent_ && survivor_ && !free_.empty()) start();
    }
  }

 private:
  void on_peer(const PeerReport& report) {
    survivor_.reset();
    if (report.connected) survivor_ = report.peer;
  }
  void on_event(const KvEvent& event) {
    if (const auto* landed = std::get_if<KvLanded>(&event)) free_slot(landed->transfer);
    if (const auto* drained = std::get_if<KvDrained>(&event)) free_slot(drained->transfer);
  }
  void free_slot(TransferId transfer) {
    free_.push_back(busy_[transfer]);
    busy_.erase(transfer);
  }
  void start() {
    const uint32_t slot = free_.back();
    const TransferId id(++last_);
    std::vector<BlockId> blocks;
    for (uint32_t i = 0; i < kSlotBlocks; ++i) blocks.emplace_back(slot * kSlotBlocks + i);
    const std::vector<uint32_t> generations(kSlotBlocks, static_cast<uint32_t>(id.value()));
    const absl::Status started = source_ ? send(id, blocks)
                                         : agent_->expect({.transfer = id,
                                                           .source = *survivor_,
                                                           .prompt_tokens = kPrompt,
                                                           .blocks = blocks,
                                                           .generations = generations});
    if (!started.ok()) return survivor_.reset();
    free_.pop_back();
    busy_[id] = slot;
  }
  absl::Status send(TransferId id, const std::vector<BlockId>& blocks) {
    const kernels::KvGeometry geometry = process_geometry();
    const KvSend send{.transfer = id, .destination = *survivor_, .prompt_tokens = kPrompt, .blocks = blocks};
    if (absl::Status status = agent_->send(send); !status.ok()) return status;
    for (int layer = 0; layer < geometry.layers; ++layer) {
      for (uint32_t i = 0; i < kSlotBlocks; ++i)
        fill_piece(plane_.pool().data() + geometry.piece_offset(layer, blocks[i]), geometry.piece_bytes(),
                   id.value(), layer, i);
      agent_->layer_ready(id, layer, kPrompt, kPrompt);
    }
    agent_->finish(id, {.token = static_cast<TokenId>(id.value())}, FinishReason::kNone);
    return absl::OkStatus();
  }

  const bool source_;
  const bool silent_;
  transport::DataPlane& plane_;
  std::unique_ptr<KvExchangeAgent> agent_;
  std::optional<WorkerRef> survivor_;
  std::vector<uint32_t> free_ = {0, 1, 2, 3};
  std::map<TransferId, uint32_t> busy_;
  uint64_t last_ = 0;
};

int run(char** argv) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // On a host of its own: UCX looks into /sys for its interface.
  if (std::string(argv[5]) != "127.0.0.1" && !NetworkHosts::show_own_interfaces()) return 1;
  const kernels::KvGeometry geometry = process_geometry();
  auto plane = transport::make_process_data_plane(
      {.identity = {.self = {"victim", Incarnation(std::strtoull(argv[3], nullptr, 10))},
                    .host_id = transport::host_id(),
                    .kv_layout_hash = kv_layout_hash(geometry, "test")},
       .listen_host = argv[5],
       .listen_port = static_cast<uint16_t>(std::atoi(argv[4])),
       .lanes = lanes_of(argv[2]),
       .tls = security_of(argv[2]),
       .pool_bytes = geometry.pool_bytes()});
  if (!plane.ok()) {
    std::printf("failed: %s\n", std::string(plane.status().message()).c_str());
    return 1;
  }
  std::printf("address %s\n", (*plane)->address().c_str());
  std::fflush(stdout);
  Peer(argv[1], **plane).run();
  return 0;
}

}  // namespace
}  // namespace baton::worker

int main(int argc, char** argv) { return argc == 6 ? baton::worker::run(argv) : 2; }
