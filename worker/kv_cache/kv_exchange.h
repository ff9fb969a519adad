#pragma once

#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "base/status.h"
#include "transport/messages/messages.h"

namespace baton::worker {

// The decode side's promise: these blocks will take the KV of prompt positions
// [first_block * block_tokens, prompt_tokens). Blocks before first_block are held already (prefix hit) and
// are not sent.
struct KvGrant {
  TransferId transfer;
  RequestId request;
  WorkerRef source;
  int32_t first_block = 0;
  int32_t prompt_tokens = 0;
  std::vector<BlockId> blocks;        // destination of prompt block first_block + i
  std::vector<uint32_t> generations;  // of each block, checked again when a piece lands
};

// The prefill side's debt: KV of a prompt that is being computed here.
struct KvSend {
  TransferId transfer;
  RequestId request;
  WorkerRef destination;
  int32_t prompt_tokens = 0;
  std::vector<BlockId> blocks;  // source of prompt block i, from block 0
};

// ---- events, delivered to the sink given at construction (it posts into the engine's mailbox) ----

// Decode side: all pieces landed and verified, and the prefill side said which token comes first.
struct KvLanded {
  TransferId transfer;
  TokenOutput first_token;
  FinishReason finish = FinishReason::kNone;  // set when the first token already ended the sequence
  TransferReport report;
};
// Decode side: will not complete. The blocks stay INFLIGHT until KvDrained.
struct KvFailed {
  TransferId transfer;
  std::string reason;
  TransferReport report;
};
// Either side: nobody moves bytes of this transfer any more. Source: the blocks are no longer leased.
// Destination: after KvFailed or abandon(), the blocks may leave quarantine.
struct KvDrained {
  TransferId transfer;
  bool as_source = false;
  std::string error;  // why, when it did not end well
};
using KvEvent = std::variant<KvLanded, KvFailed, KvDrained>;
using KvEventSink = std::function<void(KvEvent)>;

// How the engine hands KV to another worker and takes it over. The engine knows blocks, not bytes or
// networks. Thread: engine (every call returns at once). Events arrive through the sink on the progress
// thread. Implementations: worker/kv_transfer (data plane), tests/sim (virtual time). Each expect() ends with
// exactly one KvLanded, or one KvDrained (after KvFailed or abandon). Each send() ends with exactly one
// KvDrained{as_source}.
class KvExchange {
 public:
  virtual ~KvExchange() = default;

  // Decode side. Tells the source what to send. An error (unknown peer, dead incarnation) starts nothing.
  virtual absl::Status expect(const KvGrant& grant) = 0;
  virtual void abandon(TransferId transfer) = 0;

  // Prefill side. Computing does not wait for the grant; sending does.
  virtual absl::Status send(const KvSend& send) = 0;
  // KV of prompt positions [0, tokens) of `layer` is complete in the pool, `rows` of them by this step.
  // Called inside a step, layer by layer.
  virtual void layer_ready(TransferId transfer, int layer, int32_t tokens, int32_t rows) = 0;
  // All layers of the whole prompt were ready and the first token is known.
  virtual void finish(TransferId transfer, const TokenOutput& first_token, FinishReason finish) = 0;
  virtual void cancel(TransferId transfer) = 0;

  virtual int open_transfers() const = 0;
};

}  // namespace baton::worker
