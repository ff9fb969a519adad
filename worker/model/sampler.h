#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "transport/messages/messages.h"
#include "worker/model/candidates.h"
#include "worker/model/token_weights.h"
#include "worker/schedule/token_mask.h"

namespace baton::worker {

// One token to draw. `logits` are the model's, untouched; `tokens` is the sequence up to (not with) the drawn
// token, so tokens.size() is its position: the counter of the random number.
struct SamplerInput {
  std::span<const float> logits;  // [vocab]
  std::span<const TokenId> tokens;
  int32_t prompt_tokens = 0;  // the first of `tokens`; the rest is output
  const SamplingParams* sampling = nullptr;
  const StopParams* stop = nullptr;
  std::span<const float> maxima;  // of the logits as LogitRows has them, or nothing: not known yet
  TokenMask::Allowed allowed;     // by the answer's grammar; no words: everything
};

// Draws tokens from logits: a pure function of its input, the same on every machine and in any batch (design
// I1). Order, as in vLLM: what the grammar does not allow masked; end and stop ids masked while fewer than
// min_tokens are out (unless the grammar allows nothing else); logit bias; repetition
// penalty (prompt and output; positive logits divided, others multiplied), frequency and presence penalty
// (output); temperature; top-k; min-p; top-p (of what top-k and min-p leave, renormalised); draw with
// uniform(seed, position). Temperature below 1e-5 is greedy. Ties go to the lower id, in the argmax and at
// every cut. Example: weights e^(x - max) of ids 3, 7, 9 are 1, 0.5, 0.5 and top_p is 0.7: the mass is 2, 1.4
// is reached by {3, 7}; u = 0.9 gives target 1.35, past id 3: token 7. Logprobs are those of the raw logits
// (before every step above, as vLLM's raw_logprobs and OpenAI report them). All sums are in double, in the
// order of the ids, with an exponential of our own: no bit depends on libm. Owns scratch of a few
// vocabularies; no allocation per token after the first (but `top` lists that were asked for). Thread:
// engine. Errors: kInvalidArgument when logits are not finite, a bias names no token, or nothing is left.
class Sampler {
 public:
  explicit Sampler(int64_t vocab_size);

  absl::Status sample(const SamplerInput& input, TokenOutput& out);
  // How many of the likeliest tokens of a row sample() needs to know, by logits that bias, mask and penalties
  // have changed: its draw depends on no other logit, and reports none. 0: on more of them than is worth it.
  // `input.logits` is not looked at.
  int32_t needs(const SamplerInput& input) const;
  // Whether it draws from however many tokens there are: neither greedy nor top-k, and no logprobs.
  bool draws_from_all(const SamplerInput& input) const;
  // The token that sample() would draw, when `candidates` hold the needs() likeliest, and maybe others.
  absl::Status sample_from(std::span<const Candidate> candidates, const SamplerInput& input,
                           TokenOutput& out);
  // The logprob of a given token and the `top` most likely ones (prompt_logprobs), by `logits` and `maxima`.
  absl::Status score(const SamplerInput& input, TokenId token, int32_t top, TokenOutput& out);

 private:
  // Largest logit (lowest id on ties) and whether all are finite; fills block_max_, with `maxima` if known.
  struct Scan {
    float max = 0;
    TokenId argmax = 0;
    bool finite = true;
  };
  Scan scan(std::span<const float> logits, std::span<const float> maxima = {});
  // The input's logits, or a copy with bias, mask and penalties applied.
  absl::StatusOr<std::span<const float>> adjust(const SamplerInput& input);
  absl::Status mask_and_bias(const SamplerInput& input);
  void penalise(const SamplerInput& input);
  // The `k` largest logits, ascending id, into values_, ids_ and candidates_. block_max_ must be that of
  // `logits`.
  void select_top(std::span<const float> logits, size_t k);
  void select_above(std::span<const float> logits, float floor);
  TokenId draw(std::span<const float> logits, const Scan& scan, const SamplerInput& input);
  // One of values_ and ids_.
  TokenId draw_kept(float max, const SamplerInput& input);
  // The `k` likeliest of candidates_ become values_ and ids_, ascending.
  void keep_top(size_t k);
  void apply_top_p(float top_p);
  double report(std::span<const float> logits, const Scan& scan, int32_t top, TokenOutput& out);

  size_t vocab_;
  std::vector<float> block_max_;  // of blocks of 256 logits
  std::vector<float> adjusted_;
  std::vector<int32_t> counts_;  // [vocab] zero between calls: occurrences in the output
  std::vector<uint8_t> seen_;    // [vocab] zero between calls: in prompt or output
  std::vector<float> values_;    // the first kept_: logits that may be drawn, by ascending id
  std::vector<int32_t> ids_;     // parallel to values_
  size_t kept_ = 0;
  std::vector<float> ranked_;                   // scratch of select_top()
  std::vector<Candidate> candidates_;           // the same
  TokenWeights weights_;                        // of the kept ones
  TokenWeights::Masses masses_;                 // scratch of apply_top_p()
  std::vector<TokenWeights::Member> crossing_;  // the same
};

}  // namespace baton::worker
