#include "coordinator/request/control_loop.h"

#include <algorithm>

namespace baton::coordinator {
namespace {

// Tells nothing about connections, opens and closes none.
bool leaves_connections(const ControlCommand& command) {
  return std::holds_alternative<WorkerMessageArrived>(command) ||
         std::holds_alternative<SubmitRequest>(command) || std::holds_alternative<CancelRequest>(command);
}

// Says that the worker is there, as before.
bool is_quiet_pong(const ControlCommand& command) {
  const auto* arrived = std::get_if<WorkerMessageArrived>(&command);
  const auto* pong = arrived == nullptr ? nullptr : std::get_if<Pong>(&arrived->message);
  return pong != nullptr && !pong->draining;
}

}  // namespace

ControlLoop::ControlLoop(const ControlLoopOptions& options, ControlCore& core, WorkerStreams& streams,
                         const Clock& clock)
    : options_(options),
      core_(core),
      streams_(streams),
      clock_(clock),
      mailbox_(options.mailbox, options.wake),
      next_request_(options.first_request),
      status_(std::make_shared<const ClusterStatus>()) {}

RequestId ControlLoop::next_id() { return RequestId(next_request_.fetch_add(1)); }

void ControlLoop::submit(GenerateRequest request, std::shared_ptr<RequestSink> sink, QueueWait wait) {
  const RequestId id = request.id;
  const bool room = waiting_submits_.fetch_add(1) < options_.submits || wait == QueueWait::kAllItsTime;
  if (room && mailbox_.post(SubmitRequest{std::move(request), sink, wait})) return;
  waiting_submits_.fetch_sub(1);
  sink->on_event(
      id, Failed{.status = mailbox_.closed() ? absl::UnavailableError("the coordinator is stopping")
                                             : absl::ResourceExhaustedError("too many requests at once"),
                 .retry_after = std::chrono::seconds(1)});
}

void ControlLoop::cancel(RequestId request) {
  if (mailbox_.post(CancelRequest{request})) return;
  std::lock_guard lock(mutex_);
  cancels_.push_back(request);
}

std::shared_ptr<const ClusterStatus> ControlLoop::status() const {
  std::lock_guard lock(mutex_);
  return status_;
}

FlowCounters ControlLoop::counters() const {
  std::lock_guard lock(mutex_);
  return counters_;
}

void ControlLoop::run(std::stop_token stop) {
  std::stop_callback wake(stop, [this] { mailbox_.close(); });
  while (!stop.stop_requested()) mailbox_.wait_until(turn(clock_.now()));
  finish();
}

void ControlLoop::finish() {
  mailbox_.close();
  turn(clock_.now());  // what was posted before the close
  core_.fail_all("the coordinator is stopping", clock_.now());
  publish(clock_.now());
}

Instant ControlLoop::turn(Instant now) {
  mailbox_.drain(commands_);
  {
    std::lock_guard lock(mutex_);
    for (const RequestId request : cancels_) commands_.emplace_back(CancelRequest{request});
    cancels_.clear();
  }
  stale_ = stale_ || !commands_.empty();
  for (ControlCommand& command : commands_) {
    if (std::holds_alternative<SubmitRequest>(command)) waiting_submits_.fetch_sub(1);
    urgent_ = urgent_ || !is_quiet_pong(command);
    if (!leaves_connections(command)) streams_due_ = now;
    core_.handle(std::move(command), now);
  }
  commands_.clear();
  if (core_.next_deadline() <= now) {
    core_.on_tick(now);
    stale_ = urgent_ = true;
    streams_due_ = now;
  }
  if (streams_due_ <= now) streams_due_ = streams_.tick(now);
  // A worker that came or went is seen at once, the rest a little later: what only pongs say with the next
  // turn.
  const bool membership_changed = core_.membership().workers().size() != published_workers_;
  if (stale_ && (membership_changed || now >= published_ + options_.status_every)) publish(now);
  Instant next = std::min(core_.next_deadline(), streams_due_);
  if (urgent_) next = std::min(next, published_ + options_.status_every);
  return next;
}

void ControlLoop::publish(Instant now) {
  auto status = std::make_shared<const ClusterStatus>(core_.status(now));
  published_ = now;
  published_workers_ = status->workers.size();
  stale_ = urgent_ = false;
  std::lock_guard lock(mutex_);
  status_ = std::move(status);
  counters_ = core_.flow().counters();
}

}  // namespace baton::coordinator
