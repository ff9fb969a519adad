#pragma once

#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/status.h"
#include "transport/messages/messages.h"

namespace baton::coordinator {

// What happened to a request on its way: response headers, metrics and logs are made from it (design I7).
struct RouteVerdict {
  std::string path;  // remote-prefill, local, fallback:<reason>
  std::string prefill_worker;
  std::string decode_worker;
  int32_t cached_tokens = 0;  // prompt tokens not computed, as the prefill leg said
  int32_t moves = 0;          // times the answer went on elsewhere because its worker was lost
};

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t cached_tokens = 0;
};

// Seconds of each stage; they sum to the time to the first token as the coordinator saw it.
struct StageTimes {
  Duration queue{};    // admission queue and routing
  Duration reserve{};  // dispatch to acks
  Duration worker_queue{};
  Duration prefill{};
  Duration transfer{};          // beside prefill, no part of the sum
  Duration transfer_exposed{};  // between token 1 and 2
};

// ---- events of one request, in this order: Started, Tokens..., then Finished or Failed. Failed may come at
// any time.
struct Started {  // together with the first token
  RouteVerdict verdict;
};
struct Tokens {
  std::vector<TokenOutput> tokens;
  std::vector<TokenOutput> prompt_tokens;  // with prompt_logprobs, once
};
struct Finished {
  FinishReason reason = FinishReason::kNone;
  Usage usage;
  StageTimes times;
  RouteVerdict verdict;
};
// status: kResourceExhausted (429), kUnavailable (503), kDeadlineExceeded (504), kInternal (500),
// kInvalidArgument (400)
struct Failed {
  absl::Status status;
  Duration retry_after{};  // with 429 and 503
  RouteVerdict verdict;
};
using RequestEvent = std::variant<Started, Tokens, Finished, Failed>;

// Thread: control. Called in order; after Finished or Failed never again. Must not block: implementations
// post to their own thread.
class RequestSink {
 public:
  virtual ~RequestSink() = default;
  virtual void on_event(RequestId request, RequestEvent event) = 0;
};

// How long a request may wait for room: as long as the admission queue lets it and if there is a place in it,
// or for all of its time and in any case, as one does that belongs to a call of which others have begun. The
// latter goes behind all others each time the queue's patience is over, and fails then if no worker could
// take it.
enum class QueueWait : uint8_t { kBounded, kAllItsTime };

// The gateway's door into the request flow. Thread: any (posts into the control mailbox).
class RequestPort {
 public:
  virtual ~RequestPort() = default;
  virtual RequestId next_id() = 0;
  // request.id from next_id(). A full mailbox is reported as Failed through the sink.
  virtual void submit(GenerateRequest request, std::shared_ptr<RequestSink> sink, QueueWait wait) = 0;
  // The client left, or a stop string was found: frees everything on all workers. No event follows it.
  virtual void cancel(RequestId request) = 0;
};

// What the gateway may say about the cluster. Thread: any (immutable snapshot).
struct ClusterStatus {
  struct Worker {
    WorkerDescription description;
    std::string state;  // starting, ready, suspect, draining
    LoadSnapshot load;
    Duration heartbeat_age{};
  };
  // The data-plane connection of two workers, by their names.
  struct Link {
    std::string a, b;
    std::string state;  // pending, up, down
    std::string lane;
    double bytes_per_second = 0;
    std::string error;  // why down
  };
  std::vector<Worker> workers;
  std::vector<Link> links;
  bool can_generate = false;  // some worker, or pair, can take a request now
  std::string reason;         // why not
  // Not empty: pools of the manifest that no worker has come up in yet, while that may still be the start of
  // the cluster: who asks now is served some other way, and says so. /ready waits for them.
  std::string awaited;
  bool connecting = false;     // workers are just being paired: a request may wait for that in the queue
  int32_t context_tokens = 0;  // smallest limit of the pools; 0 = none known yet
  int64_t smallest_pool_tokens = 0;  // KV tokens of the smallest pool
  int32_t requests_in_flight = 0;
  int32_t requests_queued = 0;
  int32_t ledger_entries = 0;  // requests of which some worker still holds something
};
using ClusterStatusFn = std::function<std::shared_ptr<const ClusterStatus>()>;

}  // namespace baton::coordinator
