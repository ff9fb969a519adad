#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "coordinator/membership/membership.h"
#include "coordinator/request/request_flow.h"

namespace baton::coordinator {

// ---- what other threads ask of the control thread

struct SubmitRequest {
  GenerateRequest request;
  std::shared_ptr<RequestSink> sink;
  QueueWait wait = QueueWait::kBounded;
};
struct CancelRequest {
  RequestId request;
};
// A worker's calls to membership. `reply` must not block; it is called once, on the control thread.
struct JoinWorker {
  WorkerDescription worker;
  std::function<void(absl::StatusOr<uint64_t> lease)> reply;
};
struct RenewLease {
  WorkerRef worker;
  uint64_t lease = 0;
  std::function<void(absl::Status)> reply;
};
struct LeaveCluster {
  WorkerRef worker;
  uint64_t lease = 0;
  std::function<void(absl::Status)> reply;
};
// What its control stream does.
struct StreamOpened {
  WorkerDescription worker;
};
struct StreamClosed {
  WorkerRef worker;
  bool was_open = false;
  std::string why;
};
struct WorkerMessageArrived {
  WorkerRef worker;
  WorkerMessage message;
};
using ControlCommand = std::variant<SubmitRequest, CancelRequest, JoinWorker, RenewLease, LeaveCluster,
                                    StreamOpened, StreamClosed, WorkerMessageArrived>;

struct ControlOptions {
  RouterOptions router;
  FlowOptions flow;
  MembershipOptions membership;
  std::vector<std::string> pools;  // of the manifest: each is awaited at the start, for a bounded time
};

// Membership, router and request flow wired to each other: all that the control thread decides, as one
// deterministic object (design I6). ControlLoop gives it a thread and a clock, the simulator a heap of
// events. Thread: control. Borrows streams and observer.
class ControlCore {
 public:
  // Told of workers that come up and are lost, for logs and metrics.
  using MembershipListener = std::function<void(const MembershipDecision&)>;

  ControlCore(const ControlOptions& options, WorkerStreams& streams, RequestObserver* observer = nullptr,
              MembershipListener listener = {});

  void handle(ControlCommand command, Instant now);
  void on_tick(Instant now);
  Instant next_deadline() const;
  // Ends every request with kUnavailable.
  void fail_all(const std::string& why, Instant now);

  ClusterStatus status(Instant now) const;
  const RequestFlow& flow() const { return flow_; }
  const Router& router() const { return router_; }
  const Membership& membership() const { return membership_; }

 private:
  void on(SubmitRequest& command, Instant now);
  void on(CancelRequest& command, Instant now);
  void on(JoinWorker& command, Instant now);
  void on(RenewLease& command, Instant now);
  void on(LeaveCluster& command, Instant now);
  void on(StreamOpened& command, Instant now);
  void on(StreamClosed& command, Instant now);
  void on(WorkerMessageArrived& command, Instant now);

  void apply_decisions(Instant now);
  void apply(const StartStream& decision, Instant now);
  void apply(const StopStream& decision, Instant now);
  void apply(const WorkerUp& decision, Instant now);
  void apply(const WorkerTakesRequests& decision, Instant now);
  void apply(const WorkerLost& decision, Instant now);
  void note_pool(const std::string& pool, Instant now);

  WorkerStreams& streams_;
  const MembershipListener listener_;
  Membership membership_;
  Router router_;
  RequestFlow flow_;
  std::set<std::string> awaited_pools_;        // nobody of them was up yet
  Instant patience_ends_ = kNever;             // then they are not waited for any more
  std::vector<MembershipDecision> decisions_;  // scratch
};

}  // namespace baton::coordinator
