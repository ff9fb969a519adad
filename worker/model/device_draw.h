#pragma once

#include <vector>

#include "kernels/draw_rows.h"
#include "worker/model/sampler.h"

namespace baton::worker {

// What a backend that draws(), or the ranks of a group that draw together, need to know to draw as
// Sampler::sample() does; appends the changes of logits. A row with wanted = 0 is the host's: it asks for
// more logprobs than a report holds, or for something that only the sampler refuses (a bias without a token).
// Scratch is reused. Thread: one.
class DeviceDraw {
 public:
  explicit DeviceDraw(int64_t vocab_size) : vocab_(vocab_size), places_(vocab_size, -1) {}
  // `unknown`: tokens of the output, behind input.tokens, that only the backend knows: 0, or 1 that is fed to
  // the row.
  kernels::DrawRow describe(const SamplerInput& input, int unknown,
                            std::vector<kernels::LogitChange>& changes);
  // Whether that will be so of all of a request's tokens, so that they can be fed back.
  static bool draws(const GenerateRequest& request, int64_t vocab_size);
  // The logprobs of `out`, whose token is there: those that the sampler reports, but for the rounding of its
  // sum, which counts 1e-9 at most. `top`: how many alternatives were asked for.
  static void report(const kernels::DrawReport& report, int32_t top, TokenOutput& out);

 private:
  // The change of a token, made when there is none yet.
  kernels::LogitChange& change_of(TokenId id, std::vector<kernels::LogitChange>& changes);
  bool add_changes(const SamplerInput& input, int unknown, std::vector<kernels::LogitChange>& changes);
  void add_penalties(const SamplerInput& input, std::vector<kernels::LogitChange>& changes);

  const int64_t vocab_;
  std::vector<int32_t> places_;  // [vocab] -1 between calls: index of a token's change
};

}  // namespace baton::worker
