#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <vector>

#include "base/mailbox.h"
#include "coordinator/request/control_core.h"

namespace baton::coordinator {

struct ControlLoopOptions {
  uint64_t first_request = 1;  // ids go up from here; its high bits tell coordinators apart
  size_t mailbox = 65536;      // commands
  size_t submits = 4096;       // of these, requests that were not looked at yet
  Duration status_every = std::chrono::milliseconds(50);  // at most this old while something happens
  // Called on any thread when a turn is due, for an owner that does not run() but turns by itself.
  std::function<void()> wake;
};

// The body of the control thread: a mailbox of commands into ControlCore, a clock, and sleep until the next
// deadline. The gateway talks to it through RequestPort, the RPC side through post(). The control thread is
// whoever calls run(), or an event loop that calls turn() at each wake and at the time it returned, and
// finish() at the end: in production the gateway's own (docs/adr/0014-one-loop.md).
//
// Threads: run, turn, finish on the control thread; next_id, submit, cancel, post, status from any. Borrows
// core, streams, clock. Errors: a full mailbox refuses: submit says so through the sink (on the caller's
// thread), post returns false, a cancel is never lost.
class ControlLoop final : public RequestPort {
 public:
  ControlLoop(const ControlLoopOptions& options, ControlCore& core, WorkerStreams& streams,
              const Clock& clock);

  RequestId next_id() override;
  void submit(GenerateRequest request, std::shared_ptr<RequestSink> sink, QueueWait wait) override;
  void cancel(RequestId request) override;
  [[nodiscard]] bool post(ControlCommand command) { return mailbox_.post(std::move(command)); }

  std::shared_ptr<const ClusterStatus> status() const;
  // At most so many counts behind; for metrics.
  FlowCounters counters() const;

  // Until stop is requested; then every request that is left fails and its workers are told.
  void run(std::stop_token stop);
  // One turn without sleeping; returns when the next is due.
  Instant turn(Instant now);
  // No more commands; every request that is left fails.
  void finish();

 private:
  void publish(Instant now);

  const ControlLoopOptions options_;
  ControlCore& core_;
  WorkerStreams& streams_;
  const Clock& clock_;
  Mailbox<ControlCommand> mailbox_;
  std::atomic<uint64_t> next_request_;
  std::atomic<size_t> waiting_submits_ = 0;

  mutable std::mutex mutex_;
  std::shared_ptr<const ClusterStatus> status_;  // guarded by mutex_
  FlowCounters counters_;                        // guarded by mutex_
  std::vector<RequestId> cancels_;               // guarded by mutex_: those the mailbox had no room for

  std::vector<ControlCommand> commands_;  // scratch
  Instant streams_due_{};                 // when their tick is due; not with every message, it takes a lock
  Instant published_{};
  size_t published_workers_ = 0;
  bool stale_ = true;    // something happened since published_ ...
  bool urgent_ = false;  // ... that is worth a turn of its own
};

}  // namespace baton::coordinator
