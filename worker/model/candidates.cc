#include "worker/model/candidates.h"

#include <algorithm>
#include <functional>
#include <limits>

#include "base/check.h"
#include "worker/model/logit_loops.h"

namespace baton::worker {

void CandidateSelector::select(std::span<const float> logits, std::span<const float> maxima, TokenId first,
                               std::span<Candidate> out) {
  const size_t count = out.size();
  BATON_CHECK(count >= 1 && count <= logits.size());
  values_.resize(logits.size());
  ids_.resize(logits.size());
  if (!logit_loops::all_finite(maxima)) {
    std::ranges::fill(out, Candidate{std::numeric_limits<float>::quiet_NaN(), first});
    return;
  }
  // The count-th largest block maximum cannot be above the count-th largest logit.
  float floor = -std::numeric_limits<float>::infinity();
  if (count <= maxima.size()) {
    ranked_.assign(maxima.begin(), maxima.end());
    const auto nth = ranked_.begin() + static_cast<ptrdiff_t>(count - 1);
    std::ranges::nth_element(ranked_, nth, std::greater<>());
    floor = *nth;
  }
  const size_t found = logit_loops::gather_above(logits, maxima.data(), floor, values_.data(), ids_.data());
  kept_.clear();
  for (size_t i = 0; i < found; ++i) kept_.push_back({values_[i], first + ids_[i]});
  std::ranges::nth_element(kept_, kept_.begin() + static_cast<ptrdiff_t>(count - 1), before);
  std::copy_n(kept_.begin(), count, out.begin());
}

}  // namespace baton::worker
