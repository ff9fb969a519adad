#include "worker/engine/engine_loop.h"

#include <algorithm>
#include <utility>

namespace baton::worker {

EngineLoop::EngineLoop(const Parts& parts, Publish publish)
    : parts_(parts),
      publish_(std::move(publish)),
      results_(static_cast<size_t>(std::max(parts.engine.scheduler().options().plans_in_flight, 1))),
      listener_([this](int layer) { on_layer(layer); }) {}

absl::Status EngineLoop::run(std::stop_token stop) {
  while (!stop.stop_requested() && !parts_.mailbox.closed()) {
    const absl::StatusOr<bool> worked = do_work(parts_.clock.now());
    if (!worked.ok()) return worked.status();
    if (!*worked && !take_ahead())
      parts_.mailbox.wait_until(std::min(parts_.engine.next_deadline(), parts_.executor.next_deadline()));
  }
  return absl::OkStatus();
}

bool EngineLoop::take_ahead() {
  return parts_.ahead != nullptr && parts_.ahead->take(parts_.engine.cache().pool().used_end());
}

// A turn starts a plan, or finishes the oldest, or both when no other may run beside the one started.
absl::StatusOr<bool> EngineLoop::do_work(Instant now) {
  const bool worked = drain(now);
  parts_.engine.on_tick(now);
  const StepPlan* next = plan(now);
  publish();  // replies do not wait for the step
  const bool runs = parts_.engine.oldest() != nullptr;
  copy_status(now, runs);
  if (!runs) {
    absl::Status status = parts_.executor.on_tick(now);
    if (status.ok()) return worked;
    fail(status);
    return status;
  }
  const Duration computed = computed_;
  absl::Status status = step(next);
  publish();
  const Instant end = parts_.clock.now();
  host_ += end - now - (computed_ - computed);
  active_ += end - now;
  if (status.ok()) return true;
  copy_status(end, false);
  return status;
}

const StepPlan* EngineLoop::plan(Instant now) {
  const StepPlan* next = parts_.engine.plan(now);
  if (next != nullptr) planning_ += parts_.clock.now() - now;
  return next;
}

void EngineLoop::on_layer(int layer) {
  parts_.engine.on_layer(*told_, layer);
  if (layer > 0) return;
  const Instant begun = parts_.clock.now();
  parts_.engine.prepare();
  const Duration took = parts_.clock.now() - begun;
  planning_ += took;
  host_ += took;  // inside the executor's time, but not arithmetic
}

bool EngineLoop::drain(Instant now) {
  commands_.clear();
  if (parts_.mailbox.drain(commands_) == 0) return false;
  for (const EngineCommand& command : commands_) handle(command, now);
  return true;
}

void EngineLoop::handle(const EngineCommand& command, Instant now) {
  Engine& engine = parts_.engine;
  if (const auto* message = std::get_if<CoordinatorMessage>(&command)) engine.on_message(*message, now);
  if (const auto* event = std::get_if<KvEvent>(&command)) engine.on_kv_event(*event, now);
  if (const auto* copied = std::get_if<HostCopied>(&command)) engine.on_host_copied(*copied, now);
  if (const auto* key = std::get_if<SetHashKey>(&command)) engine.set_hash_key(key->key);
  if (const auto* draining = std::get_if<SetDraining>(&command)) engine.set_draining(draining->draining);
  if (const auto* up = std::get_if<GiveUp>(&command)) engine.give_up(up->why);
}

absl::Status EngineLoop::step(const StepPlan* next) {
  absl::Status status = next == nullptr ? absl::OkStatus() : start(*next);
  if (status.ok() && (next == nullptr || parts_.engine.full())) status = finish(*parts_.engine.oldest());
  if (!status.ok()) fail(status);
  return status;
}

absl::Status EngineLoop::start(const StepPlan& plan) {
  Running& running = running_of(plan);
  StepResult& result = running.result;
  result.id = plan.id;
  result.sampled.clear();
  result.duration = Duration::zero();
  result.compute = Duration::zero();
  result.links = Duration::zero();
  running.begun = parts_.clock.now();
  told_ = &plan;
  absl::Status status = parts_.executor.start(plan, listener_, result);
  computed_ += result.compute;
  links_ += result.links;
  return status;
}

absl::Status EngineLoop::finish(const StepPlan& plan) {
  Running& running = running_of(plan);
  StepResult& result = running.result;
  told_ = &plan;
  computed_ -= result.compute;
  links_ -= result.links;
  RETURN_IF_ERROR(parts_.executor.finish(plan, listener_, result));
  computed_ += result.compute;
  links_ += result.links;
  const Instant done = parts_.clock.now();
  if (result.duration == Duration::zero()) result.duration = done - running.begun;
  parts_.engine.on_step_done(result, done);
  return absl::OkStatus();
}

void EngineLoop::fail(const absl::Status& status) {
  parts_.engine.break_off(std::string(status.message()));
  publish();
}

void EngineLoop::publish() {
  messages_.clear();
  parts_.engine.drain_messages(messages_);
  if (!messages_.empty()) publish_(messages_);
}

void EngineLoop::copy_status(Instant now, bool step_running) {
  status_.store({.load = parts_.engine.load(),
                 .counters = parts_.engine.counters(),
                 .draining = parts_.engine.draining(),
                 .idle = parts_.engine.idle(),
                 .last_turn = now,
                 .step_running = step_running,
                 .host_seconds = to_seconds(host_),
                 .planning_seconds = to_seconds(planning_),
                 .link_seconds = to_seconds(links_),
                 .step_seconds = to_seconds(computed_),
                 .active_seconds = to_seconds(active_)});
}

EngineStatus EngineLoop::status() const { return status_.load(); }

}  // namespace baton::worker
