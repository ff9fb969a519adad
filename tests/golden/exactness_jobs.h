#pragma once

#include <span>
#include <string>
#include <vector>

#include "tests/golden/model_under_test.h"

namespace baton::testing {

struct Job {
  std::vector<TokenId> prompt;
  int decode = 0;  // tokens to generate
};

// What one job computed: the tokens and the logits that chose them.
struct Outcome {
  std::vector<TokenId> tokens;
  std::vector<std::vector<float>> logits;
};

struct Schedule {
  int32_t chunk = 512;    // rows a sequence gets in one step
  bool together = false;  // all sequences in one batch, else one after the other
};

// Random prompts of these lengths; every third one begins like the one before it.
std::vector<Job> make_jobs(const std::vector<int>& lengths, int decode, int64_t vocab);
// Half greedy, half drawn.
std::vector<Outcome> run_jobs(ModelUnderTest& engine, const std::vector<Job>& jobs, const Schedule& schedule);
// Tokens and logits, bit by bit.
void expect_same_bits(const std::vector<Outcome>& got, const std::vector<Outcome>& want,
                      const std::string& what);

}  // namespace baton::testing
