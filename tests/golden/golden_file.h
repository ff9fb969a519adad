#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/ids.h"

namespace baton::testing {

using TokenLogit = std::pair<TokenId, double>;

// The logits that choose one token, as the golden files of shared/models hold them (float64).
struct GoldenStep {
  TokenId next = 0;
  std::vector<TokenLogit> top;   // best first
  std::vector<TokenLogit> near;  // others within 1.5 of the best, when `top` does not hold them all
  double logsumexp = 0;
  double margin = 0;
  double int8_gap = 0;
};

// The logits at a prompt position.
struct GoldenPosition {
  int32_t position = 0;
  std::vector<TokenLogit> top;
  double logsumexp = 0;
};

struct GoldenCase {
  std::string name;
  std::vector<TokenId> prompt;
  std::vector<TokenId> greedy;
  std::vector<GoldenStep> steps;  // steps[i] chooses greedy[i]
  std::vector<GoldenPosition> mid;
  std::vector<double> logits;      // all, at the last prompt position; or empty
  std::vector<double> prompt_nll;  // [i] is for prompt[i + 1]
};

struct GoldenTrace {
  double rms = 0;
  std::vector<double> first;  // first 8 values
};

// Reads the "cases" of golden/<name>.json. An unreadable file fails the test.
std::vector<GoldenCase> read_golden_cases(const std::string& path);
// "trace" of the SmolLM2 file: embedding, then the residual stream after each block; q of block 0 last.
std::vector<GoldenTrace> read_golden_trace(const std::string& path);

}  // namespace baton::testing
