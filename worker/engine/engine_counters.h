#pragma once

#include <cstdint>

#include "worker/kv_cache/host_tier.h"
#include "worker/schedule/step_time.h"

namespace baton::worker {

// What an engine has done since it began, and how large its last step was. Plain numbers: the owner turns
// them into metrics. Copied out between steps.
struct EngineCounters {
  uint64_t steps = 0;
  uint64_t prefill_tokens = 0;  // rows computed for prompts and recomputes
  uint64_t decode_tokens = 0;   // rows of decoding sequences
  double step_seconds = 0;      // sum
  double last_step_seconds = 0;
  int32_t last_batch_rows = 0;
  int32_t last_batch_sequences = 0;
  double predicted_seconds = 0;  // sum of what the step-time model said before each step
  double last_predicted_seconds = 0;
  double prediction_error_p50 = 0;  // |predicted - measured| / measured of recent steps
  double prediction_error_p95 = 0;
  StepTime::Coefficients step_coefficients{};  // of the model now
  int32_t last_chunk_tokens = 0;               // prompt tokens of the last step
  uint64_t preemptions = 0;
  uint64_t prefix_query_tokens = 0;  // prompt tokens of admitted sequences
  uint64_t prefix_hit_tokens = 0;
  uint64_t evictions = 0;  // cached blocks given up for room
  HostTierCounters host;
  int64_t host_blocks = 0;           // in host memory now
  uint64_t host_hit_tokens = 0;      // whose KV came from there
  uint64_t host_fetches_failed = 0;  // too late, or not at all: computed
  double host_wait_seconds = 0;      // that sequences waited for it
  uint64_t accepted = 0;
  uint64_t refused = 0;
  uint64_t finished = 0;          // ended by themselves
  uint64_t released = 0;          // ended by the coordinator
  uint64_t failed = 0;            // ended with an error
  uint64_t deadline_expired = 0;  // part of failed
  uint64_t transfers_failed = 0;  // this side was the destination
  uint64_t late_events = 0;       // KV events of transfers that are not known any more
  friend bool operator==(const EngineCounters&, const EngineCounters&) = default;
};

}  // namespace baton::worker
