#pragma once

#include <span>

#include "kernels/draw_rows.h"
#include "worker/parallel/model_part.h"

namespace baton::worker {

struct Penalties {
  float repetition = 1, frequency = 0, presence = 0;
};

// The logit of a token that was seen in prompt or output, `count` times in the output.
inline float penalised(float logit, int32_t count, const Penalties& p) {
  logit = logit > 0 ? logit / p.repetition : logit * p.repetition;
  if (count == 0) return logit;
  logit -= p.frequency * static_cast<float>(count);
  logit -= p.presence;
  return logit;
}

// Does to the logits of some columns, of which logits[0] is the first, what a row's changes say of them.
void change_logits(std::span<const kernels::LogitChange> changes, const Penalties& penalties,
                   const Range& columns, std::span<float> logits);

}  // namespace baton::worker
