#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/grammar.h"
#include "base/ids.h"

// What coordinator and worker say to each other, as plain values. transport/rpc carries them over gRPC, the
// simulator hands them over as they are. Times are durations, never points: clocks differ between hosts.
namespace baton {

inline constexpr uint32_t kProtocolVersion = 3;

enum class WorkerRole : uint8_t { kAny, kPrefill, kDecode };

// ---- one request
// --------------------------------------------------------------------------------------------

struct SamplingParams {
  float temperature = 1.0f;  // 0 = greedy
  float top_p = 1.0f;
  int32_t top_k = 0;  // 0 = all
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;  // over prompt and output
  float presence_penalty = 0.0f;    // over output
  float frequency_penalty = 0.0f;   // over output
  std::vector<std::pair<TokenId, float>> logit_bias;
  uint64_t seed = 0;
  int32_t logprobs = -1;         // -1 none, else how many alternatives beside the chosen token
  int32_t prompt_logprobs = -1;  // the same for prompt tokens (echo)
  friend bool operator==(const SamplingParams&, const SamplingParams&) = default;
};

struct StopParams {
  int32_t max_tokens = 16;  // >= 1; prompt + max_tokens fits the context: the gateway has checked
  int32_t min_tokens = 0;   // before this many, end and stop ids are not sampled
  std::vector<TokenId>
      end_token_ids;  // the model's end tokens; empty with ignore_eos. Never part of the text
  std::vector<TokenId> stop_token_ids;  // the user's
  friend bool operator==(const StopParams&, const StopParams&) = default;
};

// Everything a worker needs to know. Made once, by the gateway; every field reaches the engine unchanged.
struct GenerateRequest {
  RequestId id;
  std::string trace_id;  // x-request-id, [A-Za-z0-9._-]{1,64}
  std::string tenant_salt;
  std::vector<TokenId> prompt;  // at least one token
  SamplingParams sampling;
  StopParams stop;
  Duration time_left = std::chrono::seconds(600);
  // The last so many tokens of the prompt are the answer's: it goes on here after its worker was lost.
  // Sampling and `stop` count from the answer's start. Less than prompt and max_tokens.
  int32_t answered = 0;
  Grammar grammar;  // of the answer
  friend bool operator==(const GenerateRequest&, const GenerateRequest&) = default;
};

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
  int32_t rank = 0;  // 0 = most likely
  friend bool operator==(const TokenLogprob&, const TokenLogprob&) = default;
};

// One sampled (or prompt) token. `chosen` and `top` are filled when logprobs were asked for.
struct TokenOutput {
  TokenId token = 0;
  float logprob = 0;
  std::vector<TokenLogprob> top;
  friend bool operator==(const TokenOutput&, const TokenOutput&) = default;
};

// kWorkerEnds: nothing is wrong with the request, its worker cannot go on and will end.
enum class FinishReason : uint8_t { kNone, kEndToken, kStopToken, kLength, kCancelled, kError, kWorkerEnds };

// ---- who a worker is
// ----------------------------------------------------------------------------------------

// A worker is named by the manifest ("prefill-0"); a life of it by (name, incarnation).
struct WorkerRef {
  std::string name;
  Incarnation incarnation;
  friend bool operator==(const WorkerRef&, const WorkerRef&) = default;
  friend auto operator<=>(const WorkerRef&, const WorkerRef&) = default;
};

struct WorkerDescription {
  WorkerRef ref;
  WorkerRole role = WorkerRole::kAny;
  std::string pool;             // pool of the manifest
  std::string host_id;          // equal on one host (boot id + namespace): the local lane needs it equal
  std::string control_address;  // host:port of its gRPC server
  std::string data_address;     // opaque: what DataPlane::address() gave
  std::string metrics_address;  // host:port of its /metrics
  uint64_t pid = 0;
  std::string version;
  std::string device;          // Backend::description()
  std::string model_hash;      // of the weights and the spec
  std::string kv_layout_hash;  // geometry and order of a KV piece
  std::string numerics_id;
  int32_t block_tokens = 0;
  int32_t context_tokens = 0;  // longest prompt + output
  int64_t blocks_total = 0;
  friend bool operator==(const WorkerDescription&, const WorkerDescription&) = default;
};

struct LoadSnapshot {
  int32_t running = 0;                // sequences in decode
  int32_t waiting = 0;                // sequences not yet (fully) prefilled
  int64_t waiting_prompt_tokens = 0;  // prompt tokens still to compute
  int64_t blocks_free = 0;            // FREE
  int64_t blocks_cached = 0;          // VALID, no owner: can be evicted
  int64_t blocks_active = 0;          // VALID or RESERVED, owned by a sequence
  int64_t blocks_inflight = 0;        // INFLIGHT
  int64_t blocks_quarantined = 0;     // QUARANTINE
  int32_t transfers_open = 0;
  // The worker's own fitted step model: seconds = base + per_token * prefill tokens + per_sequence * decode
  // rows.
  double step_base_seconds = 0;
  double prefill_seconds_per_token = 0;
  double decode_seconds_per_sequence = 0;
  double step_error_p95 = 0;  // |predicted - measured| / measured of recent steps
  int32_t chunk_tokens = 0;   // prompt tokens of the last step
  friend bool operator==(const LoadSnapshot&, const LoadSnapshot&) = default;
};

// ---- coordinator to worker
// ----------------------------------------------------------------------------------

// Which part of the request this worker does.
enum class Leg : uint8_t {
  kWhole,    // prefill and decode here
  kPrefill,  // prefill, sample the first token, offer the KV to `peer`
  kDecode,   // reserve blocks, receive KV from `peer`, decode from token 2 on
};

struct Submit {
  GenerateRequest request;
  Leg leg = Leg::kWhole;
  TransferId transfer;            // kPrefill, kDecode
  std::optional<WorkerRef> peer;  // kPrefill, kDecode
  friend bool operator==(const Submit&, const Submit&) = default;
};

// The coordinator has no more interest: free what the request holds here. Idempotent; also for unknown
// requests.
struct Release {
  RequestId request;
  friend bool operator==(const Release&, const Release&) = default;
};

struct ConnectPeer {
  WorkerDescription peer;
  friend bool operator==(const ConnectPeer&, const ConnectPeer&) = default;
};

// That life of the peer is over: destroy its endpoint; its INFLIGHT and QUARANTINE blocks may become free.
struct FencePeer {
  WorkerRef peer;
  friend bool operator==(const FencePeer&, const FencePeer&) = default;
};

// First message of a stream.
struct CoordinatorHello {
  uint32_t protocol_version = kProtocolVersion;
  std::string coordinator_id;
  uint64_t term = 0;  // fencing: a worker refuses a lower term than it has seen
  HashKey hash_key;
  Incarnation worker_incarnation;  // whom the coordinator believes to speak to
  friend bool operator==(const CoordinatorHello&, const CoordinatorHello&) = default;
};

// Sent each heartbeat interval when nothing else was. Not passed to the engine.
struct Ping {
  uint64_t number = 0;
  friend bool operator==(const Ping&, const Ping&) = default;
};

using CoordinatorMessage = std::variant<CoordinatorHello, Submit, Release, ConnectPeer, FencePeer, Ping>;

// ---- worker to coordinator
// ----------------------------------------------------------------------------------

struct WorkerHello {
  uint32_t protocol_version = kProtocolVersion;
  WorkerDescription worker;
  friend bool operator==(const WorkerHello&, const WorkerHello&) = default;
};

enum class RefuseReason : uint8_t {
  kNone,
  kNoBlocks,
  kTooLong,
  kUnknownPeer,
  kDraining,
  kOverloaded,
  kInvalid
};

// Answer to Submit, within timers::kDispatchAck. For kDecode `accepted` means the blocks are reserved (the
// grant).
struct SubmitReply {
  RequestId request;
  Leg leg = Leg::kWhole;
  bool accepted = false;
  RefuseReason reason = RefuseReason::kNone;
  std::string detail;
  int32_t cached_tokens = 0;  // prompt tokens whose KV this worker already held
  friend bool operator==(const SubmitReply&, const SubmitReply&) = default;
};

struct SequenceTokens {
  RequestId request;
  Leg leg = Leg::kWhole;
  std::vector<TokenOutput> tokens;         // in order; usually one
  std::vector<TokenOutput> prompt_tokens;  // only with prompt_logprobs, before the first token
  // Set on the last message of this leg. kPrefill ends with kNone and `leg_done`.
  FinishReason finish = FinishReason::kNone;
  std::string error;          // with kError
  int32_t cached_tokens = 0;  // prompt tokens taken from this worker's prefix cache; set with the first token
  Duration queued{};          // submit to first step; with the first token
  Duration prefill{};         // first step to first token; with the first token
  friend bool operator==(const SequenceTokens&, const SequenceTokens&) = default;
};

// One batched message per engine step.
struct StepReport {
  StepId step;
  std::vector<SequenceTokens> sequences;
  std::vector<BlockHash> blocks_stored;  // became VALID and findable
  std::vector<BlockHash> blocks_evicted;
  LoadSnapshot load;
  friend bool operator==(const StepReport&, const StepReport&) = default;
};

// From the receiving worker when a transfer ends, one way or the other.
struct TransferReport {
  TransferId transfer;
  RequestId request;
  bool ok = false;
  std::string error;
  uint64_t bytes = 0;
  Duration duration{};  // first offer to last piece verified
  Duration exposed{};   // prefill done (as told by the sender) to last piece verified
  std::string lane;
  friend bool operator==(const TransferReport&, const TransferReport&) = default;
};

// The worker holds nothing of this leg any more, transfers included. Last message about it.
struct Released {
  RequestId request;
  Leg leg = Leg::kWhole;
  friend bool operator==(const Released&, const Released&) = default;
};

struct PeerReport {
  WorkerRef peer;
  bool connected = false;
  std::string lane;  // local, am, ...
  std::string error;
  double bytes_per_second = 0;
  Duration latency{};
  bool over = false;  // not connected: here that life of the peer was fenced, or a younger one was met
  friend bool operator==(const PeerReport&, const PeerReport&) = default;
};

struct Pong {
  uint64_t number = 0;
  LoadSnapshot load;
  bool draining = false;
  Duration step_age{};        // of the engine's running step; 0: none runs
  Duration step_predicted{};  // what the worker expects it to take
  friend bool operator==(const Pong&, const Pong&) = default;
};

using WorkerMessage =
    std::variant<WorkerHello, SubmitReply, StepReport, TransferReport, Released, PeerReport, Pong>;

}  // namespace baton
