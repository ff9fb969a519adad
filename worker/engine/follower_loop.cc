#include "worker/engine/follower_loop.h"

#include "base/timers.h"

namespace baton::worker {

FollowerLoop::FollowerLoop(const Parts& parts, const PlanLimits& limits)
    : parts_(parts), plans_(parts.links, limits), step_(parts.model, &parts.links, parts.clock) {}

absl::Status FollowerLoop::run(std::stop_token stop) {
  Duration patience = timers::kDead + parts_.start;
  while (!stop.stop_requested()) {
    const Duration before = step_.time().steps;
    ASSIGN_OR_RETURN(const bool goes_on, do_work(parts_.clock.now() + patience));
    if (!goes_on) break;
    // Stages further on may take as long again before rank 0 has the step's tokens.
    patience = timers::kDead + parts_.links.shape().pipeline * (step_.time().steps - before);
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> FollowerLoop::do_work(Instant deadline) {
  ASSIGN_OR_RETURN(const PlanHead head, plans_.receive(deadline));
  if (head.kind == PlanKind::kStop) return false;
  ++(head.kind == PlanKind::kStep ? own_.steps : own_.beats);
  copy_status(head.kind == PlanKind::kStep);
  if (head.kind != PlanKind::kStep) return true;
  RETURN_IF_ERROR(step_.run(StepId(head.step), plans_.rows(), head.micro_batches,
                            [this](int layer) { on_layer(layer); }));
  copy_status(false);
  return true;
}

// As Engine::on_layer does on rank 0: a stage sends its layers as it finishes them.
void FollowerLoop::on_layer(int layer) {
  if (parts_.exchange == nullptr) return;
  const BatchRows& rows = plans_.rows();
  for (const BatchRows::Send& send : rows.sends) {
    const kernels::SequenceRows& sequence = rows.sequences[send.sequence];
    parts_.exchange->layer_ready(send.transfer, layer, sequence.first_position + sequence.row_count,
                                 sequence.row_count);
  }
}

void FollowerLoop::copy_status(bool step_running) {
  own_.last_turn = parts_.clock.now();
  own_.step_running = step_running;
  own_.time = step_.time();
  status_.store(own_);
}

}  // namespace baton::worker
