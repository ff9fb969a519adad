#pragma once

#include <functional>
#include <memory>
#include <variant>
#include <vector>

#include "tests/sim/event_log.h"
#include "tests/support/fake_host_copies.h"
#include "tests/support/fake_kv_exchange.h"
#include "tests/support/kvhash_executor.h"
#include "worker/engine/engine.h"

namespace baton::sim {

// Puts an action on the heap of virtual time.
using Schedule = std::function<void(Instant when, std::function<void()> action)>;

struct SimWorkerOptions {
  WorkerDescription description;
  support::KvHashOptions model;
  worker::SchedulerOptions scheduler;
  HashKey hash_key;
  int layers = 2;
  int64_t host_blocks = 0;
};

// One life of a worker: the real engine, scheduler and block pool, with a model whose tokens are a hash of
// the KV it reads. Takes the place of EngineLoop: steps last as long as the model says, and what arrives
// meanwhile waits. A life that is killed keeps its memory (the fabric may hold references), but nothing moves
// in it any more.
class SimWorker {
 public:
  using Publish = std::function<void(WorkerMessage)>;

  SimWorker(const SimWorkerOptions& options, support::FakeKvFabric& fabric, const Clock& clock,
            Schedule schedule, Publish publish);

  void receive(CoordinatorMessage message);
  void wake();  // its deadline has come
  void kill();
  void stand_still() { stands_still_ = true; }  // the step that runs, or the next one, never ends
  Duration step_age() const { return step_runs_ ? clock_.now() - step_began_ : Duration::zero(); }
  bool alive() const { return alive_; }
  Instant next_deadline() const { return alive_ && !step_runs_ ? engine_->next_deadline() : kNever; }

  const WorkerRef& ref() const { return options_.description.ref; }
  const WorkerDescription& description() const { return options_.description; }
  const worker::Engine& engine() const { return *engine_; }
  // I2: the pool recounted; with `poison`, what is FREE is made garbage, which must not matter to anybody.
  void check(bool poison);

 private:
  using Input = std::variant<CoordinatorMessage, worker::KvEvent, worker::HostCopied>;
  void take(Input input);
  void turn();
  void handle(const Input& input);
  void step_done();
  void publish();
  void copy();  // what host memory is due to do, when it is due

  const SimWorkerOptions options_;
  const Clock& clock_;
  support::FakeKvFabric& fabric_;
  const Schedule schedule_;
  const Publish publish_;
  support::KvHashPool pool_;
  support::KvHashExecutor executor_;
  support::FakeHostCopies host_;
  std::unique_ptr<worker::Engine> engine_;
  std::vector<Input> inbox_;
  std::vector<WorkerMessage> outgoing_;
  worker::StepResult result_;
  Instant step_began_{};
  bool step_runs_ = false;
  bool stands_still_ = false;
  bool copies_scheduled_ = false;
  bool alive_ = true;
};

}  // namespace baton::sim
