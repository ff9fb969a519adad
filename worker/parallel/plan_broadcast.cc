#include "worker/parallel/plan_broadcast.h"

#include <algorithm>

#include "base/timers.h"

namespace baton::worker {

PlanSender::PlanSender(RankLinks& links, const PlanLimits& limits, const Clock& clock)
    : links_(links), clock_(clock), writer_(limits) {
  if (!links.alone()) next_beat_ = clock.now() + timers::kHeartbeat;
}

absl::Status PlanSender::send(std::span<std::byte> message) {
  const size_t first = std::min(message.size(), kFirstBytes);
  std::copy_n(message.begin(), first, first_.begin());
  links_.broadcast(first_);
  if (message.size() > first) links_.broadcast(message.subspan(first));
  next_beat_ = clock_.now() + timers::kHeartbeat;
  return links_.status();
}

absl::Status PlanSender::step(StepId step, std::span<const SequenceId> ids, const BatchRows& rows,
                              int micro_batches) {
  if (links_.alone()) return absl::OkStatus();
  return send(writer_.step(step, ids, rows, micro_batches));
}

absl::Status PlanSender::on_tick(Instant now) {
  return now < next_beat_ ? absl::OkStatus() : send(writer_.bare(PlanKind::kBeat));
}

absl::Status PlanSender::stop() {
  return links_.alone() ? absl::OkStatus() : send(writer_.bare(PlanKind::kStop));
}

PlanReceiver::PlanReceiver(RankLinks& links, const PlanLimits& limits)
    : links_(links), reader_(limits), message_(PlanSender::kFirstBytes) {
  rows_.reserve(limits.max_rows);
}

absl::StatusOr<PlanHead> PlanReceiver::receive(Instant deadline) {
  const auto first = std::span(message_).first(PlanSender::kFirstBytes);
  links_.broadcast(first, deadline);
  RETURN_IF_ERROR(links_.status());
  ASSIGN_OR_RETURN(const PlanHead head, reader_.head(first));
  if (head.bytes > first.size()) {
    if (message_.size() < head.bytes) message_.resize(head.bytes);
    links_.broadcast(std::span(message_).subspan(first.size(), head.bytes - first.size()));
    RETURN_IF_ERROR(links_.status());
  }
  if (head.kind == PlanKind::kStep)
    RETURN_IF_ERROR(reader_.step(std::span(message_).first(head.bytes), rows_));
  return head;
}

}  // namespace baton::worker
