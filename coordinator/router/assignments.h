#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "transport/messages/messages.h"

namespace baton::coordinator {

// What one leg of a request will cost its worker.
struct LegCost {
  int64_t prefill_tokens = 0;  // prompt tokens to compute
  int64_t blocks = 0;          // KV blocks to take
  int32_t decodes = 0;         // rows in later decode steps
};

// Predict on route: work that was sent to a worker but is not in its load snapshot yet. Without it a burst
// that arrives between two snapshots would all go to the worker that looked idle.
//
// A leg counts as unseen from assign() until the first snapshot after its SubmitReply: worker messages are in
// order, so that snapshot was taken with the leg in it. Example: two prompts of 100 tokens routed to w0
// within one step: unseen(w0).prefill_tokens = 200; reply 1, snapshot: 100; reply 2, snapshot: 0. Thread:
// control.
class Assignments {
 public:
  void assign(RequestId request, const WorkerRef& worker, const LegCost& cost);
  void acknowledged(RequestId request, const WorkerRef& worker);  // its SubmitReply came
  void snapshot(const WorkerRef& worker);                         // a LoadSnapshot of the worker came
  void drop(RequestId request, const WorkerRef& worker);          // the leg ended
  void forget(const WorkerRef& worker);

  LegCost unseen(const WorkerRef& worker) const;
  // Decoding legs of ours on that worker, seen or not. Sequences whose KV is still landing are in no
  // snapshot's `running`, yet they will decode.
  int32_t decodes(const WorkerRef& worker) const;
  bool empty() const { return workers_.empty(); }

 private:
  enum class Phase : uint8_t { kSent, kAcknowledged, kSeen };
  struct Assigned {
    LegCost cost;
    Phase phase = Phase::kSent;
  };
  struct PerWorker {
    std::map<RequestId, Assigned> legs;
    std::vector<RequestId> acknowledged;  // since the last snapshot; may name legs that are gone
    LegCost unseen;
    int32_t decodes = 0;
  };
  static void add(LegCost& sum, const LegCost& cost, int sign);

  std::map<WorkerRef, PerWorker> workers_;
};

}  // namespace baton::coordinator
