#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/block_hash.h"
#include "transport/messages/messages.h"
#include "worker/kv_cache/host_copies.h"
#include "worker/schedule/token_mask.h"

namespace baton::worker {

enum class SequenceState : uint8_t {
  kWaiting,     // has no blocks yet (new, or preempted)
  kPrefilling,  // has blocks; computed < tokens.size() - 1 or the first token is not sampled yet
  kFetching,    // has its whole block table; KV of a part of it comes from host memory, then it goes on
  kLanding,     // decode leg: blocks reserved, KV on its way
  kDecoding,    // one token a step
  kSending,     // prefill leg: first token sampled, transfer not yet drained
  kFinished,    // ended or released while steps that have rows of it run; its blocks stay until they end
};

// One prompt and what was generated from it, on one worker. The single source of truth for the sampler and
// for a recompute: everything else about a stream is a function of `tokens`. Of an answer that goes on here
// (GenerateRequest::answered) the tokens it has count as prompt for KV and hand-over, as output for sampling.
// Owned by the scheduler. Thread: engine.
struct Sequence {
  SequenceId id;
  GenerateRequest request;
  Leg leg = Leg::kWhole;
  TransferId transfer;
  std::optional<WorkerRef> peer;
  SequenceState state = SequenceState::kWaiting;

  std::vector<TokenId> tokens;  // prompt, then generated
  int32_t prompt_tokens = 0;    // request.prompt.size()
  int32_t computed = 0;         // positions [0, computed) have valid KV in `blocks`
  int32_t rows_running = 0;     // positions that the running steps add to them
  int32_t planned_row = -1;     // its row in the newest plan that has one
  bool fed_back = false;        // its tokens need not be known to compute on (SchedulerOptions::feeds_back)
  std::vector<BlockId> blocks;  // block table
  int32_t cached_tokens = 0;    // taken from the prefix cache at first admission

  Instant arrived{};
  Instant first_scheduled = kNever;
  Instant deadline = kNever;
  int32_t preemptions = 0;

  // Of a request with a grammar: made and used by whoever draws its tokens; follows `tokens`.
  mutable std::unique_ptr<TokenMask> mask;

  std::vector<BlockHash> hashes;  // of the full blocks of `tokens`, as far as they were needed
  int32_t published = 0;          // blocks [0, published) of the table are findable in the prefix index
  bool publishes = true;          // false after a hash collision
  bool landed = false;            // decode leg: the KV came; from now on it is computed here like any other
  bool reported = false;          // a SequenceTokens with a token was made

  // kFetching: blocks [published, fetch_end) of the table come from host memory ...
  HostCopyId fetch;
  int32_t fetch_end = 0;
  int32_t host_tokens = 0;  // that came: part of cached_tokens
  Instant fetch_begun{};
  Instant fetch_deadline = kNever;  // ... until then; afterwards they are computed
  bool fetched = false;             // they are there
  bool may_fetch = true;            // false after a fetch that failed or came too late

  // A decode leg that has not reserved its blocks yet: the coordinator waits for the reply.
  bool wants_grant() const {
    return leg == Leg::kDecode && !landed &&
           (state == SequenceState::kWaiting || state == SequenceState::kFetching);
  }
  // Prompt logits must be computed, so nothing can be taken from the prefix cache. Where the prompt is
  // computed.
  bool wants_prompt_logits() const {
    return leg != Leg::kDecode && request.sampling.prompt_logprobs >= 0 && generated() == 0;
  }
  // Tokens of the answer, wherever they were sampled.
  int32_t generated() const { return static_cast<int32_t>(tokens.size()) - answer_begin(); }
  int32_t answer_begin() const { return prompt_tokens - request.answered; }
};

}  // namespace baton::worker
