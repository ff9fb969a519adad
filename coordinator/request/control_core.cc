#include "coordinator/request/control_core.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
namespace baton::coordinator {

ControlCore::ControlCore(const ControlOptions& options, WorkerStreams& streams, RequestObserver* observer,
                         MembershipListener listener)
    : streams_(streams),
      listener_(std::move(listener)),
      membership_(options.membership),
      router_(options.router),
      flow_(options.flow, router_, streams, observer),
      awaited_pools_(options.pools.begin(), options.pools.end()) {}

void ControlCore::handle(ControlCommand command, Instant now) {
  std::visit([&](auto& c) { on(c, now); }, command);
  apply_decisions(now);
}

void ControlCore::on_tick(Instant now) {
  membership_.on_tick(now);
  apply_decisions(now);
  flow_.on_tick(now);
  if (now >= patience_ends_) awaited_pools_.clear();
}

Instant ControlCore::next_deadline() const {
  const Instant pools = awaited_pools_.empty() ? kNever : patience_ends_;
  return std::min({membership_.next_deadline(), flow_.next_deadline(), pools});
}

void ControlCore::fail_all(const std::string& why, Instant now) { flow_.fail_all(why, now); }

void ControlCore::on(SubmitRequest& command, Instant now) {
  flow_.on_submit(std::move(command.request), std::move(command.sink), now, command.wait);
}

void ControlCore::on(CancelRequest& command, Instant now) { flow_.on_cancel(command.request, now); }

void ControlCore::on(JoinWorker& command, Instant now) {
  command.reply(membership_.join(command.worker, now));
}

void ControlCore::on(RenewLease& command, Instant now) {
  command.reply(membership_.renew(command.worker, command.lease, now));
}

void ControlCore::on(LeaveCluster& command, Instant now) {
  command.reply(membership_.leave(command.worker, command.lease, now));
}

void ControlCore::on(StreamOpened& command, Instant now) { membership_.stream_opened(command.worker, now); }

void ControlCore::on(StreamClosed& command, Instant now) {
  membership_.stream_closed(command.worker, command.was_open, command.why, now);
}

void ControlCore::on(WorkerMessageArrived& command, Instant now) {
  membership_.heard(command.worker, command.message, now);
  apply_decisions(now);  // a suspect that speaks takes requests again, before its message frees room
  flow_.on_worker_message(command.worker, command.message, now);
}

void ControlCore::apply_decisions(Instant now) {
  decisions_.clear();
  membership_.take_decisions(decisions_);
  for (const MembershipDecision& decision : decisions_) {
    std::visit([&](const auto& d) { apply(d, now); }, decision);
    if (listener_) listener_(decision);
  }
}

void ControlCore::apply(const StartStream& decision, Instant) {
  streams_.connect(decision.worker, decision.control_address);
}
void ControlCore::apply(const StopStream& decision, Instant) { streams_.disconnect(decision.worker); }
void ControlCore::apply(const WorkerUp& decision, Instant now) {
  note_pool(decision.worker.pool, now);
  flow_.on_worker_up(decision.worker, now);
}
void ControlCore::apply(const WorkerTakesRequests& decision, Instant now) {
  flow_.on_worker_takes_requests(decision.worker, decision.takes, decision.silent, now);
}
void ControlCore::apply(const WorkerLost& decision, Instant now) {
  flow_.on_worker_lost(decision.worker, now);
}

// Workers of one model load in about the same time. A pool that does not come is no reason to serve nobody: a
// coordinator that is started anew while one is down would take the service away with it.
void ControlCore::note_pool(const std::string& pool, Instant now) {
  awaited_pools_.erase(pool);
  patience_ends_ = std::min(patience_ends_, now + timers::kPoolPatience);
}

ClusterStatus ControlCore::status(Instant now) const {
  ClusterStatus status;
  for (const auto& [name, view] : membership_.workers()) {
    const WorkerDescription& d = view.description;
    status.workers.push_back({.description = d,
                              .state = to_string(view.state),
                              .load = view.load,
                              .heartbeat_age = std::max(now - view.heard, Duration::zero())});
    if (view.state == WorkerState::kStarting) continue;
    const int64_t pool_tokens = d.blocks_total * d.block_tokens;
    status.context_tokens =
        status.context_tokens == 0 ? d.context_tokens : std::min(status.context_tokens, d.context_tokens);
    status.smallest_pool_tokens =
        status.smallest_pool_tokens == 0 ? pool_tokens : std::min(status.smallest_pool_tokens, pool_tokens);
  }
  for (const auto& [pair, link] : flow_.links().all())
    status.links.push_back({.a = pair.first.name,
                            .b = pair.second.name,
                            .state = to_string(link.state),
                            .lane = link.lane,
                            .bytes_per_second = link.bytes_per_second,
                            .error = link.error});
  const absl::Status can = flow_.can_generate();
  status.can_generate = can.ok();
  status.reason = std::string(can.message());
  if (!awaited_pools_.empty())
    status.awaited =
        absl::StrCat("no worker of pool ", absl::StrJoin(awaited_pools_, ", "), " has come up yet");
  status.connecting = flow_.connecting();
  status.requests_in_flight = static_cast<int32_t>(flow_.in_flight());
  status.requests_queued = static_cast<int32_t>(flow_.queued());
  status.ledger_entries = static_cast<int32_t>(flow_.ledger().size());
  return status;
}

}  // namespace baton::coordinator
