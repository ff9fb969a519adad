#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/rng.h"
#include "coordinator/request/control_core.h"
#include "tests/sim/sim_worker.h"

namespace baton::sim {

struct SimOptions {
  uint64_t seed = 1;
  int64_t blocks = 128;  // of each worker
  int64_t host_blocks = 0;
  int32_t block_tokens = 16;
  int32_t context_tokens = 1024;
  int layers = 2;
  std::vector<std::string> workers = {"p0", "p1", "d0", "d1", "a0"};  // role by the first letter
  coordinator::ControlOptions control;
  double lag = 0.01;  // chance of a message to take up to 20 ms: streams overtake each other
  double stall = 0;   // chance of a message, and all behind it, to take up to 1.1 s: late answers, suspects
  double transfer_fault = 0;       // chance of each moved piece
  bool drains_after_death = true;  // see FakeKvFabric
};

// A coordinator and its workers on one heap of virtual time: the real ControlCore (membership, router,
// request flow) and real engines; only the network, the clock and the model are made up. One seed decides
// everything: a run is a pure function of SimOptions and of what the scenario schedules. Messages keep their
// order on each stream and take a random time. After every event the worker it touched is checked (I2, and
// I5: what it holds stands in the ledger).
class SimCluster final : public coordinator::WorkerStreams {
 public:
  explicit SimCluster(const SimOptions& options);
  ~SimCluster() override;

  Instant now() const { return clock_.now(); }
  Rng& rng() { return rng_; }
  EventLog& log() { return log_; }
  void at(Instant when, std::function<void()> action);
  void after(Duration delay, std::function<void()> action) { at(now() + delay, std::move(action)); }

  void submit(GenerateRequest request, std::shared_ptr<coordinator::RequestSink> sink);
  void cancel(RequestId request);
  // The process ends, its stream closes soon after (or, frozen, it just falls silent); it comes again as a
  // new life.
  void kill(const std::string& worker, bool frozen, Duration restart_after);
  // Its engine does not move any more; the process speaks on.
  void stand_still(const std::string& worker);

  // Runs until `done` says so, at most to `limit`. False when the limit was reached.
  bool run(const std::function<bool()>& done, Instant limit);

  const coordinator::ControlCore& core() const { return *core_; }
  const std::map<std::string, SimWorker*>& workers() const { return live_; }
  size_t open_transfers() const { return fabric_->open(); }
  uint64_t events() const { return events_; }
  // Everything given back: no request, ledger entry, transfer; every block free or cached.
  bool quiet() const;
  std::string why_not_quiet() const;

  // WorkerStreams
  void send(const WorkerRef& worker, CoordinatorMessage message) override;
  void connect(const WorkerRef& worker, const std::string& address) override;
  void disconnect(const WorkerRef& worker) override;
  Instant tick(Instant) override { return kNever; }

 private:
  struct Stream {
    SimWorker* worker = nullptr;
    Instant last_down{}, last_up{};  // order is kept each way
    bool open = false;
  };
  void start(const std::string& name);
  void join(SimWorker& worker);
  void heartbeat(SimWorker& worker);
  void publish(SimWorker& worker, WorkerMessage message);
  void to_coordinator(const WorkerRef& worker, WorkerMessage message, Instant when);
  void deliver(SimWorker& worker, CoordinatorMessage message);
  void command(coordinator::ControlCommand command);
  Duration jitter(Duration around);
  Duration way();  // of one message
  Instant next_worker_deadline() const;
  bool one_event();
  void check();
  void check_holdings(const SimWorker& worker) const;
  std::string not_quiet_on(const SimWorker& worker) const;

  const SimOptions options_;
  Rng rng_;
  ManualClock clock_;
  EventLog log_;
  std::map<std::pair<Instant, uint64_t>, std::function<void()>> heap_;
  uint64_t next_event_ = 0;
  uint64_t events_ = 0;
  std::unique_ptr<support::FakeKvFabric> fabric_;
  std::unique_ptr<coordinator::ControlCore> core_;
  std::vector<std::unique_ptr<SimWorker>> lives_;  // all that ever were
  std::map<std::string, SimWorker*> live_;
  std::map<WorkerRef, Stream> streams_;
  std::set<SimWorker*> touched_;
  uint64_t next_incarnation_ = 1;
};

}  // namespace baton::sim
