#pragma once

#include <string>

#include "base/status.h"
#include "cli/bench/scenarios.h"

namespace baton::cli {

struct GatewayScenarioOptions {
  std::string model;  // whose tokenizer and chat template are used
  uint64_t seed = 1;
  double scale = 1;
};

// G: what the gateway costs by itself. Starts a coordinator of its own, pinned to the first core, with a mock
// worker that speaks the real protocol and computes nothing, pinned with this client to the last core (on one
// core: everything there). Chat completions (plain ones for a model without a template) of 128 words, 64
// tokens streamed. Ends both again. Thread: one, and no other may run (children are forked). kUnavailable
// when a process does not start.
absl::StatusOr<ScenarioResult> run_gateway_scenario(const GatewayScenarioOptions& options);

}  // namespace baton::cli
