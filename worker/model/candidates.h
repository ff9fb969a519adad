#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"

namespace baton::worker {

// A token that may be drawn.
struct Candidate {
  float logit = 0;
  TokenId id = 0;
};
static_assert(sizeof(Candidate) == 8);

// Likelier first; ties go to the lower id.
constexpr bool before(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// The likeliest tokens of a rank's share of the vocabulary. The best of the best of all shares are the best
// of the whole, so that rank 0 draws from a few numbers of each rank as it would from all logits. Owns
// scratch. Thread: one.
class CandidateSelector {
 public:
  // The out.size() first of `logits` by before(), which has at least as many; logits[i] is token first + i;
  // `maxima` are theirs, as LogitRows has them. In no order. Logits that are not finite give a first
  // candidate that is not a number.
  void select(std::span<const float> logits, std::span<const float> maxima, TokenId first,
              std::span<Candidate> out);

 private:
  std::vector<float> ranked_;
  std::vector<float> values_;
  std::vector<int32_t> ids_;
  std::vector<Candidate> kept_;
};

}  // namespace baton::worker
