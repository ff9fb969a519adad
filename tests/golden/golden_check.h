#pragma once

#include "tests/golden/golden_file.h"
#include "tests/golden/model_under_test.h"

namespace baton::testing {

// How far an engine is from a golden case, teacher-forced on the golden tokens.
struct Deviation {
  double logit = 0;      // largest |logit - golden| over the listed top tokens
  double logsumexp = 0;  // largest
  int steps = 0;
  int wrong_tokens = 0;  // another argmax where the golden margin is at least `strict_margin`
  int flips = 0;         // another argmax anywhere
  int outside = 0;       // a flip to a token that is further from the best than the int8 rule allows
  double logprob = 0;    // largest |logprob - golden| of the golden token
  double logprob_sum = 0;

  void merge(const Deviation& other);
  double mean_logprob() const { return steps == 0 ? 0 : logprob_sum / steps; }
};

struct CheckOptions {
  int max_steps = 48;
  bool mid_positions = true;
  double strict_margin = 0.02;
  double near_tie = 0.6;  // logits; wider where the file's int8_gap says so
};

Deviation check_case(ModelUnderTest& engine, const GoldenCase& golden, const CheckOptions& options);

}  // namespace baton::testing
