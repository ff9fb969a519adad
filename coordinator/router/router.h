#pragma once

#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "coordinator/router/assignments.h"
#include "coordinator/router/peer_links.h"
#include "coordinator/router/prefix_map.h"

namespace baton::coordinator {

// The hashes of a prompt's full blocks for one block size.
struct PromptChain {
  int32_t block_tokens = 0;
  std::vector<BlockHash> hashes;
};

// What the router knows of a request. The lists are sorted and usually empty.
struct RouteRequest {
  int32_t prompt_tokens = 0;
  int32_t max_tokens = 0;
  std::span<const PromptChain> chains;
  std::span<const WorkerRef> busy;   // still hold a leg of this very request: not now
  std::span<const WorkerRef> avoid;  // let it down before: only when there is nobody else
  std::string whole_because;         // not empty: one worker does it all, path "fallback:<this>"
};

// A worker that takes requests (ready, not draining), or a silent one: suspect, which takes none, and which
// soon speaks or is lost.
struct RoutableWorker {
  const WorkerDescription* description = nullptr;  // never null; borrowed for the call
  LoadSnapshot load;
  bool silent = false;
};

// Why a candidate cannot be taken now. In the order of how close it is to being possible.
enum class Rejection : uint8_t { kNone, kBusy, kNoBlocks, kLinkPending, kLinkDown, kIncompatible, kTooLong };
const char* to_string(Rejection rejection);

// The prediction for one (prefill, decode) pair; prefill == decode means one worker does it all.
// total = queue + prefill - cached + delay + transfer + decode, in seconds.
struct CandidateTerms {
  WorkerRef prefill;
  WorkerRef decode;
  double queue_seconds = 0;          // work in front of it at the prefill worker
  double prefill_seconds = 0;        // the whole prompt, nothing cached
  double cached_seconds = 0;         // credit: prefill time of the cached prefix
  double transfer_seconds = 0;       // the part of the KV transfer that prefill does not hide
  double decode_step_seconds = 0;    // one decode step there with this request in the batch
  double delay_seconds = 0;          // of streams beside which a decode worker computes the prompt, together
  double decode_seconds = 0;         // of the tokens it will probably want
  int32_t cached_tokens = 0;         // at the prefill worker
  int32_t decode_cached_tokens = 0;  // at the decode worker: not sent
  int64_t blocks_needed = 0;         // at the decode worker
  int64_t blocks_available = 0;
  bool over_itl = false;  // the decode step would miss the objective: last choice
  Rejection rejection = Rejection::kNone;

  double total_seconds() const {
    return queue_seconds + prefill_seconds - cached_seconds + delay_seconds + transfer_seconds +
           decode_seconds;
  }
};
std::string to_string(const CandidateTerms& terms);

struct Route {
  WorkerRef prefill;
  WorkerRef decode;
  std::string path;  // remote-prefill, local, fallback:<reason>
  std::vector<CandidateTerms> candidates;
  size_t chosen = 0;  // index into candidates

  bool whole() const { return prefill == decode; }
  const CandidateTerms& terms() const { return candidates[chosen]; }
  // One line per candidate, the chosen one marked with '*'.
  std::string explain() const;
};

struct RouterOptions {
  double itl_objective_seconds = 0.050;
  int32_t min_prompt_tokens = 0;          // shorter prompts are not worth a transfer: path "local"
  int32_t decode_prefill_tokens = 0;      // decode workers take prompts of so many tokens off a queue
  int32_t expected_output_tokens = 64;    // what a request probably wants, when it allows more
  int32_t chunk_tokens = 256;             // prefill tokens a step takes, for counting steps
  int32_t layers = 16;                    // the last layer's KV is never hidden behind prefill
  double transfer_start_seconds = 0.001;  // before the first byte moves
  // The step model of a worker that has not fitted its own yet.
  LoadSnapshot default_step{
      .step_base_seconds = 0.002, .prefill_seconds_per_token = 0.0002, .decode_seconds_per_sequence = 0.0005};
};

// Chooses prefill and decode worker of a request together: the pair with the least predicted completion among
// those whose decode step stays within the inter-token objective. Roles are policy: `prefill` workers
// prefill, `decode` workers decode, `any` do both, alone ("local") or in a pair. With one kind missing the
// other does it all ("fallback:no-prefill-worker"); when all of a kind are silent the request waits for what
// becomes of them, because on a starved machine most speak again. With decode_prefill_tokens a decode worker
// also does it all ("local") for a prompt with so few tokens to compute while all prefill workers have others
// to do first, if that is sooner. Only workers of equal model, KV layout and numerics are paired. Ties go to
// the smaller (prefill, decode) name. A pure function of its inputs and of what was reported to it. Thread:
// control.
//
// Example: prompt 1000 tokens, 0.2 ms a token, nothing cached at p0 with 500 tokens waiting; 800 cached at p1
// with 2000 waiting: p0 = 0.1 + 0.2 = 0.3 s, p1 = 0.4 + 0.04 = 0.44 s: p0, cache or not.
//
// Errors: kUnavailable (nobody to take it, or silent ones, or peers are still connecting), kResourceExhausted
// (no room now), kAborted (only workers in `busy`), kInvalidArgument (fits no worker, ever).
class Router {
 public:
  explicit Router(RouterOptions options) : options_(options) {}

  absl::StatusOr<Route> route(const RouteRequest& request, std::span<const RoutableWorker> workers,
                              const PeerLinks& links) const;
  // The route is being dispatched: later decisions count it.
  void assign(RequestId request, const RouteRequest& facts, const Route& route);

  // Bytes of one token's KV are learned from finished transfers; until then transfer time is its start alone.
  void observe_transfer(const std::string& kv_layout_hash, uint64_t bytes, int64_t tokens);
  void forget(const WorkerRef& worker);

  PrefixMap& prefixes() { return prefixes_; }
  const PrefixMap& prefixes() const { return prefixes_; }
  Assignments& assignments() { return assignments_; }
  const Assignments& assignments() const { return assignments_; }
  const RouterOptions& options() const { return options_; }

 private:
  struct WorkerTerms;
  // Which pairs are looked at, and what the path is called when one worker does it all.
  struct Plan {
    std::vector<std::pair<size_t, size_t>> pairs;
    std::string whole_path;
  };
  absl::StatusOr<Route> route_among(const RouteRequest& request, const std::vector<WorkerTerms>& workers,
                                    const PeerLinks& links) const;
  absl::StatusOr<Route> choose(const RouteRequest& request, const std::vector<WorkerTerms>& workers,
                               const PeerLinks& links, const Plan& plan) const;
  WorkerTerms worker_terms(const RouteRequest& request, const RoutableWorker& worker) const;
  bool may_prefill(const RouteRequest& request, const WorkerTerms& decode) const;
  CandidateTerms candidate(const RouteRequest& request, const WorkerTerms& prefill, const WorkerTerms& decode,
                           const PeerLinks& links) const;
  double transfer_seconds(const WorkerTerms& decode, const PeerLink& link, int32_t prompt_tokens,
                          double hidden_seconds) const;
  double prefill_seconds(const WorkerTerms& worker, int64_t tokens) const;

  const RouterOptions options_;
  PrefixMap prefixes_;
  Assignments assignments_;
  std::map<std::string, double> kv_bytes_per_token_;  // by kv_layout_hash
};

}  // namespace baton::coordinator
