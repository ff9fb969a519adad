#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/request/request_record.h"
#include "coordinator/request/request_state.h"

namespace baton::coordinator {

// One dispatch of a request: a route, and what came back so far. Thrown away when the request is routed
// again.
struct Attempt {
  WorkerRef prefill;  // == decode: one worker does it all
  WorkerRef decode;
  TransferId transfer;
  int32_t unanswered = 0;  // legs whose SubmitReply is due
  Instant ack_deadline = kNever;
  Instant landing_deadline =
      kNever;  // set when the prefill worker is lost before the KV is known to have landed
  int32_t decode_cached_tokens = 0;

  // Tokens wait here for the answers of all legs, and the decode worker's for the first token: it comes on
  // another stream and may be overtaken.
  std::optional<TokenOutput> first;
  std::vector<TokenOutput> prompt_outputs;
  std::vector<TokenOutput> rest;
  FinishReason finish = FinishReason::kNone;
  int32_t answered = 0;  // tokens of the answer that its workers were given as part of the prompt
  int32_t produced = 0;  // tokens of the answer so far: given, or checked (and passed on, unless sent before)
  bool landed = false;   // the decode side said so
  bool decode_spoke = false;

  // As the prefill leg said with the first token.
  int32_t cached_tokens = 0;
  Duration worker_queue{};
  Duration worker_prefill{};

  bool whole() const { return prefill == decode; }
};

// A request from submit to its terminal state. Thread: control.
struct ActiveRequest {
  GenerateRequest request;
  std::shared_ptr<RequestSink> sink;
  RequestState state = RequestState::kQueued;
  uint64_t order = 0;  // place in the admission queue; kept when it comes back
  std::vector<PromptChain> chains;
  Attempt attempt;

  Instant total_deadline = kNever;
  Instant queue_deadline = kNever;
  QueueWait wait = QueueWait::kBounded;  // when there are workers, but no room
  Instant not_before{};                  // a refused request pauses before it is routed again
  Instant timer = kNever;

  std::vector<TokenId> sent;     // what the client has
  std::string model_hash;        // of who made them (WorkerDescription), and how:
  std::string numerics_id;       // another one's tokens may be others
  bool moves = false;            // its worker was lost after the first token
  bool waits_alone = false;      // for workers of a kind that others need not wait for
  int32_t tries = 0;             // attempts that came to nothing, one soon after the other
  std::vector<WorkerRef> avoid;  // did not answer in time
  std::string whole_because;     // after a failed hand-over one worker does it all
  absl::Status obstacle;         // why it still waits
  bool started = false;          // Started went out
  RequestRecord record;
  Instant last_token = kNever;

  RequestId id() const { return request.id; }
  int32_t prompt_tokens() const { return static_cast<int32_t>(request.prompt.size()); }
  // What an attempt computes from: the prompt, and what was sent but for the last token, which is then
  // computed a second time and compared.
  int32_t answered() const { return std::max(static_cast<int32_t>(sent.size()) - 1, 0); }
  std::vector<TokenId> given() const {
    std::vector<TokenId> out = request.prompt;
    out.insert(out.end(), sent.begin(), sent.begin() + answered());
    return out;
  }
};

}  // namespace baton::coordinator
