#include "tests/sim/sim_worker.h"

#include "base/check.h"

namespace baton::sim {

SimWorker::SimWorker(const SimWorkerOptions& options, support::FakeKvFabric& fabric, const Clock& clock,
                     Schedule schedule, Publish publish)
    : options_(options),
      clock_(clock),
      fabric_(fabric),
      schedule_(std::move(schedule)),
      publish_(std::move(publish)),
      pool_(options.layers, options.description.blocks_total, options.description.block_tokens),
      executor_(pool_, options.model),
      host_(pool_, clock, {}, [this](worker::HostCopied event) { take(std::move(event)); }) {
  auto& exchange = fabric.join(ref(), pool_, [this](worker::KvEvent event) { take(std::move(event)); });
  const worker::EngineOptions engine{.blocks = options.description.blocks_total,
                                     .block_tokens = options.description.block_tokens,
                                     .host = {.slots = options.host_blocks, .copies = &host_},
                                     .scheduler = options.scheduler};
  engine_ = std::make_unique<worker::Engine>(engine, exchange);
  engine_->set_hash_key(options.hash_key);
}

void SimWorker::receive(CoordinatorMessage message) { take(std::move(message)); }

void SimWorker::take(Input input) {
  if (!alive_) return;
  inbox_.push_back(std::move(input));
  if (!step_runs_) turn();
}

void SimWorker::wake() {
  if (alive_ && !step_runs_) turn();
}

void SimWorker::handle(const Input& input) {
  if (const auto* event = std::get_if<worker::KvEvent>(&input)) {
    engine_->on_kv_event(*event, clock_.now());
  } else if (const auto* copied = std::get_if<worker::HostCopied>(&input)) {
    engine_->on_host_copied(*copied, clock_.now());
  } else if (const auto* fence = std::get_if<FencePeer>(&std::get<CoordinatorMessage>(input))) {
    fabric_.fence(ref(), fence->peer);  // as WorkerControl does
  } else {
    engine_->on_message(std::get<CoordinatorMessage>(input), clock_.now());
  }
}

void SimWorker::turn() {
  std::vector<Input> inputs;
  inputs.swap(inbox_);
  for (const Input& input : inputs) handle(input);
  engine_->on_tick(clock_.now());
  const worker::StepPlan* const plan = engine_->plan(clock_.now());
  if (plan != nullptr) {
    step_runs_ = true;
    step_began_ = clock_.now();
    const absl::Status ran =
        executor_.run(*plan, [this, plan](int layer) { engine_->on_layer(*plan, layer); }, result_);
    engine_->prepare();                             // as EngineLoop does
    BATON_CHECK(ran.ok(), ran.ToString().c_str());  // somebody else's bytes in a block
    schedule_(clock_.now() + result_.duration, [this] { step_done(); });
  }
  publish();
  copy();
}

void SimWorker::copy() {
  if (copies_scheduled_ || host_.next_event() == kNever) return;
  copies_scheduled_ = true;
  schedule_(host_.next_event(), [this] {
    copies_scheduled_ = false;
    if (!alive_) return;
    host_.run_due();
    copy();
  });
}

void SimWorker::step_done() {
  if (!alive_ || stands_still_) return;
  step_runs_ = false;
  engine_->on_step_done(result_, clock_.now());
  publish();
  turn();
}

void SimWorker::publish() {
  outgoing_.clear();
  engine_->drain_messages(outgoing_);
  for (WorkerMessage& message : outgoing_) publish_(std::move(message));
}

void SimWorker::kill() {
  alive_ = false;
  fabric_.leave(ref());
}

void SimWorker::check(bool poison) {
  if (!alive_) return;
  engine_->check_invariants();
  if (poison) pool_.poison_free(engine_->cache().pool());
}

}  // namespace baton::sim
