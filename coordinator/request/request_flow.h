#pragma once

#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/timers.h"
#include "coordinator/request/active_request.h"
#include "coordinator/request/ledger.h"
#include "coordinator/request/worker_channel.h"

namespace baton::coordinator {

// What happens when prefill or the KV hand-over fails. (Of an answer that has moved: kLocal.)
enum class PrefillFailure : uint8_t {
  kError,  // the request fails
  kLocal,  // one worker computes it whole; the verdict says so
};

struct FlowOptions {
  HashKey hash_key;             // of the prefix hashes; the workers get the same in CoordinatorHello
  uint64_t first_transfer = 1;  // transfers are numbered from here
  size_t max_queued = 1024;
  Duration admission_queue = timers::kAdmissionQueue;
  Duration dispatch_ack = timers::kDispatchAck;
  Duration grammar_ack = timers::kGrammarAck;
  Duration request_total = timers::kRequestTotal;
  int32_t max_retries = 2;
  Duration forgiven = std::chrono::seconds(30);  // a worker that has served an answer for so long, its loss
  PrefillFailure on_prefill_failure = PrefillFailure::kLocal;
  Duration refusal_pause = std::chrono::milliseconds(10);  // doubles with each refusal, up to 32 times
  Duration landing_grace = std::chrono::seconds(2);  // for the decode side's word after its source is lost
  Duration release_again = std::chrono::seconds(2);  // Release without Released is repeated
  Duration peer_connect = std::chrono::seconds(5);   // then a pair counts as down
  Duration peer_again = std::chrono::seconds(5);
  Duration retry_after = std::chrono::seconds(1);  // told with 429 and 503
};

// All requests of one coordinator as one deterministic state machine (design I6): admission queue, dispatch
// of both legs together, tokens in order, deadlines, and release of every party at every end. The states and
// their transitions are the table in request_state.cc. Production drives it from ControlLoop, the simulator
// from its heap.
//
//   submit -> Queued -> Dispatching (decode reserves, prefill computes already) -> Prefilling -> first token
//   to the client -> Landing -> the decode worker's first -> Decoding -> Finished; Release to all; the ledger
//   entry goes when each has said Released.
//
// A request that is computed again (a worker lost, a hand-over failed) goes on after the tokens that were
// sent: the workers of the next attempt get all but the last of them as part of the prompt, the last one is
// computed a second time and compared. Equal requests give equal tokens (design I1), on workers of equal
// numerics; on others an answer that has begun does not go on.
//
// Example: tokens 17, 4, 9 sent; the decode worker is lost; prompt + 17, 4 are computed elsewhere: 9, 2, 8;
// 9 is compared and skipped, 2 and 8 are sent; the verdict has one move.
//
// Thread: control. Owns requests, ledger, links; borrows router, channel, observer. Sinks must not call back.
class RequestFlow {
 public:
  RequestFlow(const FlowOptions& options, Router& router, WorkerChannel& channel,
              RequestObserver* observer = nullptr);

  void on_submit(GenerateRequest request, std::shared_ptr<RequestSink> sink, Instant now,
                 QueueWait wait = QueueWait::kBounded);
  void on_cancel(RequestId request, Instant now);

  void on_worker_up(const WorkerDescription& worker, Instant now);
  // Suspect (silent) and draining workers keep what they have and get nothing new.
  void on_worker_takes_requests(const WorkerRef& worker, bool takes, bool silent, Instant now);
  void on_worker_lost(const WorkerRef& worker, Instant now);
  void on_worker_message(const WorkerRef& worker, const WorkerMessage& message, Instant now);

  void on_tick(Instant now);
  Instant next_deadline() const;
  // Ends every request with kUnavailable: the coordinator is leaving.
  void fail_all(const std::string& why, Instant now);

  const Ledger& ledger() const { return ledger_; }
  const FlowCounters& counters() const { return counters_; }
  const PeerLinks& links() const { return links_; }
  size_t in_flight() const { return active_.size(); }
  size_t queued() const { return queue_.size(); }
  // Whether a one-token prompt would find a worker now, room aside.
  absl::Status can_generate() const;
  // Workers are being connected, or one is silent for now: who waits in the queue does not wait in vain.
  bool connecting() const;
  // Nothing is held or awaited for any request.
  bool idle() const { return active_.empty() && ledger_.empty(); }
  void check_invariants() const;

 private:
  struct Worker {
    WorkerDescription description;
    LoadSnapshot load;
    bool takes_requests = true;
    bool silent = false;
    bool ends = false;  // it said so: nothing more for this life
  };
  struct PendingRelease {
    Instant due;
    RequestId request;
    WorkerRef worker;
    uint64_t leg = 0;  // its number in the ledger
  };

  // queue and dispatch
  std::vector<RoutableWorker> routable(bool silent_too) const;
  void pump(Instant now);
  absl::Status try_dispatch(ActiveRequest& a, const std::vector<RoutableWorker>& all, Instant now);
  void dispatch(ActiveRequest& a, const Route& route, Instant now);
  void submit_leg(const ActiveRequest& a, const WorkerRef& worker, Leg leg, Instant now);
  void hash_prompt(ActiveRequest& a) const;

  // worker messages
  void on(const WorkerRef& worker, const WorkerHello& hello, Instant now);
  void on(const WorkerRef& worker, const SubmitReply& reply, Instant now);
  void on(const WorkerRef& worker, const StepReport& report, Instant now);
  void on(const WorkerRef& worker, const TransferReport& report, Instant now);
  void on(const WorkerRef& worker, const Released& released, Instant now);
  void on(const WorkerRef& worker, const PeerReport& report, Instant now);
  void on(const WorkerRef& worker, const Pong& pong, Instant now);
  void on_load(Worker& worker, const LoadSnapshot& load);
  void on_sequence(const WorkerRef& worker, const SequenceTokens& tokens, Instant now);
  void on_refused(ActiveRequest& a, const WorkerRef& worker, const SubmitReply& reply, Instant now);
  bool take_tokens(ActiveRequest& a, const SequenceTokens& tokens);

  // tokens to the client
  void flush(ActiveRequest& a, Instant now);
  bool emit(ActiveRequest& a, const std::vector<TokenOutput>& tokens, Instant now);
  void start_stream(ActiveRequest& a, Instant now);

  // what goes wrong
  void leg_failed(ActiveRequest& a, Leg leg, const std::string& error, Instant now);
  void hand_over_failed(ActiveRequest& a, const std::string& reason, const std::string& error, Instant now);
  void worker_left(ActiveRequest& a, Leg leg, const std::string& why, Instant now);
  void attempt_lost(ActiveRequest& a, const std::string& why, Instant now);
  void answer_is_late(ActiveRequest& a, Instant now);
  void expired(ActiveRequest& a, Instant now);

  // ends
  void requeue(ActiveRequest& a, Instant now);
  void fail(ActiveRequest& a, absl::Status status, Instant now);
  void complete(ActiveRequest& a, Instant now);
  void end(ActiveRequest& a, Instant now);
  void leave_workers(RequestId request, Instant now);
  void close_leg(RequestId request, const WorkerRef& worker);

  void step(ActiveRequest& a, RequestStep step);
  void rearm(ActiveRequest& a);
  ActiveRequest* active(RequestId request);
  Worker* live(const WorkerRef& worker);
  void ask_to_connect(const WorkerRef& one, const WorkerRef& two);

  const FlowOptions options_;
  Router& router_;
  WorkerChannel& channel_;
  RequestObserver* const observer_;

  std::map<RequestId, ActiveRequest> active_;
  std::set<std::pair<uint64_t, RequestId>> queue_;  // by order of arrival
  std::set<std::pair<Instant, RequestId>> timers_;  // one per active request
  std::deque<PendingRelease> releases_;             // by time; may name legs that are closed
  std::map<std::string, Worker> workers_;
  PeerLinks links_;
  Ledger ledger_;
  FlowCounters counters_;
  absl::Status obstacle_;  // why the head of the queue waits
  uint64_t next_order_ = 1;
  uint64_t next_transfer_;
};

}  // namespace baton::coordinator
