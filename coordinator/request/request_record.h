#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "coordinator/request/request_port.h"
#include "coordinator/router/router.h"

namespace baton::coordinator {

// All that happened to one request, made when it ends: metrics, the log line and the trace are written from
// it. An instant that was not reached is kNever.
struct RequestRecord {
  RequestId id;
  std::string trace_id;
  absl::Status status;  // OK: finished or cancelled
  FinishReason finish = FinishReason::kNone;
  RouteVerdict verdict;
  Usage usage;
  StageTimes times;
  Instant submitted = kNever;
  Instant dispatched = kNever;  // the last time
  Instant admitted = kNever;
  Instant first_token = kNever;
  Instant second_token = kNever;
  Instant ended = kNever;
  int32_t retries = 0;   // routed again after a loss, a late answer or a failed transfer
  int32_t refusals = 0;  // routed again because a worker had no room
  uint64_t transfer_bytes = 0;
  std::string lane;
  CandidateTerms predicted;  // of the last route
};

// Sees what passes, to count it. Thread: control; must not block and must not call back.
class RequestObserver {
 public:
  virtual ~RequestObserver() = default;
  virtual void on_route(RequestId /*request*/, const Route& /*route*/) {}
  // `count` tokens went to the client; `gap` since the ones before (since submit for the first).
  virtual void on_tokens(RequestId /*request*/, int32_t /*count*/, bool /*first*/, Duration /*gap*/) {}
  virtual void on_transfer(const WorkerRef& /*receiver*/, const TransferReport& /*report*/) {}
  // How `worker` stands with a peer: when they met or parted, and when the measured rate has moved.
  virtual void on_link(const WorkerRef& /*worker*/, const PeerReport& /*report*/) {}
  virtual void on_end(const RequestRecord& /*record*/) {}
};

// Things that should be rare, counted since the start.
struct FlowCounters {
  uint64_t submitted = 0;
  uint64_t finished = 0;
  uint64_t cancelled = 0;
  uint64_t failed = 0;
  uint64_t rejected = 0;  // queue full, part of failed
  uint64_t retries = 0;
  uint64_t refusals = 0;
  uint64_t ack_timeouts = 0;
  uint64_t fenced_messages = 0;  // from a life that is over: refused
  uint64_t late_messages = 0;    // about a leg that is closed or being released
  uint64_t duplicate_messages = 0;
  uint64_t protocol_errors = 0;    // a live worker said what it cannot say now
  uint64_t replayed_tokens = 0;    // computed a second time and not sent again
  uint64_t replay_mismatches = 0;  // ... and different: design I1 is broken
  uint64_t release_overdue = 0;    // asked again to let go
  uint64_t workers_lost = 0;
  uint64_t moves = 0;  // answers that went on elsewhere; part of retries
  friend bool operator==(const FlowCounters&, const FlowCounters&) = default;
};

}  // namespace baton::coordinator
